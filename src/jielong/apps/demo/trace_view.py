"""How pictures came to be: which tokens were drawn at which step, and what the picture was after each."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepEvent
from jielong.system import System


@dataclass(frozen=True)
class Story:
    """One picture, from nothing to the last token.

    Attributes:
        caption: What it was asked to show.
        grid: Rows and columns to draw its tokens in; see :func:`board`.
        codes: The tokens, row by row, see :func:`told`.
        born: The step, from 1, at which each became known.
        film: The picture after each step, ``(steps, C, H, W)``; where nothing is known yet it is made of a white picture's tokens, or of
            what a head has reached that takes a block from noise to tokens. With scales it is what the known ones add up to.
        placed: Whether a token stands for the part of the picture where it is drawn.
    """

    caption: str
    grid: tuple[int, int]
    codes: Sequence[int | float]
    born: list[int]
    film: Tensor
    placed: bool = True

    @property
    def discrete(self) -> bool:
        """Whether its tokens are codes, and not numbers that are near each other or far."""
        return not isinstance(self.codes[0], float)

    @property
    def at_once(self) -> bool:
        """Whether all tokens were drawn together, from noise: they are known at the last step, and the film before it shows them form."""
        return len(self.film) > 1 and set(self.born) == {len(self.film)}

    @property
    def picture(self) -> Tensor:
        """The finished picture, ``(C, H, W)``."""
        return self.film[-1]


@dataclass(frozen=True)
class Pace:
    """Seconds a picture, from words to pixels: one picture alone, and each of a batch.

    The text encoder's work is not in it: it runs once a caption and its result is kept.
    """

    alone: float
    together: float
    batch: int


def placed(layout: Layout) -> bool:
    """Whether every token stands for a part of the picture of its own."""
    return len(layout.grid) == 2 and not layout.scales


def board(layout: Layout) -> tuple[int, int]:
    """Rows and columns to draw tokens in: their own; a sequence (of 1-D tokens, of scales) in equal rows, as square as may be."""
    if placed(layout):
        return layout.grid[0], layout.grid[1]
    count = layout.positions
    rows = max(rows for rows in range(1, math.isqrt(count) + 1) if count % rows == 0)
    return rows, count // rows


def told(tokens: Tokens) -> list[list[int | float]]:
    """What is written on a board for tokens ``(B, N, C)``: codes of the first codebook; of continuous tokens the first number, rounded."""
    first = tokens.values[..., 0].tolist()
    return first if tokens.layout.discrete else [[round(number, 1) for number in row] for row in first]


def tell(system: System, conditions: Sequence[Any], captions: Sequence[str], seed: int = 0) -> list[Story]:
    """Generate a picture for each condition and keep every step on the way."""
    moments: list[StepEvent] = []
    tokens = system.generate_tokens(list(conditions), seed=seed, batch=len(conditions), on_step=moments.append)
    layout, media = tokens.layout, system.tokenizer.media
    blank = system.encode(torch.ones(1, *media.shape)).values
    films = [_so_far(system, moment, blank) for moment in moments]
    codes = told(tokens)
    born = sum((moment.new.long() * moment.step for moment in moments), torch.zeros(tokens.values.shape[:2], dtype=torch.long))
    return [
        Story(
            caption=caption,
            grid=board(layout),
            codes=codes[index],
            born=born[index].tolist(),
            film=torch.stack([film[index] for film in films]),
            placed=placed(layout),
        )
        for index, caption in enumerate(captions)
    ]


def _so_far(system: System, moment: StepEvent, blank: Tensor) -> Tensor:
    layout = system.tokenizer.layout
    if layout.scales:
        return system.decode_known(Tokens(moment.values, layout), moment.shown)
    return system.decode(Tokens(torch.where(moment.shown[..., None], moment.values, blank), layout))


def measure_pace(system: System, conditions: Sequence[Any], seed: int = 0) -> Pace:
    """Time generation and decoding; call it after :func:`tell`, so that nothing is computed for the first time."""

    def seconds(chosen: list[Any]) -> float:
        begun = time.perf_counter()
        system.decode(system.generate_tokens(chosen, seed=seed))
        return time.perf_counter() - begun

    alone = min(seconds([conditions[0]]) for _ in range(2))
    return Pace(alone, seconds(list(conditions)) / len(conditions), len(conditions))
