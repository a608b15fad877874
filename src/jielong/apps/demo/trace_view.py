"""Step-by-step traces of image generation: the step of each token and the decoded image after each step."""

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
from jielong.system.inputs import call_inputs, gather, stage_names


@dataclass(frozen=True)
class Trace:
    """Trace of one generated item.

    Attributes:
        caption: Its condition.
        grid: Rows and columns in which its tokens are shown; see :func:`token_grid`.
        codes: Shown token values in row-major order; see :func:`shown_values`.
        steps: Step, from 1, at which each token was sampled.
        frames: Decoded image after each step, ``(steps, C, H, W)``. Tokens not sampled yet are those of a white image, or the partly
            denoised ones; of a multi-scale tokenizer only known scales are decoded.
        spatial: Whether each token covers the image region at its place in the grid.
    """

    caption: str
    grid: tuple[int, int]
    codes: Sequence[int | float]
    steps: list[int]
    frames: Tensor
    spatial: bool = True

    @property
    def discrete(self) -> bool:
        """Whether the tokens are codes."""
        return not isinstance(self.codes[0], float)

    @property
    def parallel(self) -> bool:
        """Whether all tokens are denoised in parallel and known only at the last of several steps."""
        return len(self.frames) > 1 and set(self.steps) == {len(self.frames)}

    @property
    def picture(self) -> Tensor:
        """The final image, ``(C, H, W)``."""
        return self.frames[-1]


@dataclass(frozen=True)
class Speed:
    """Seconds per image, of a single image and in a batch; without the text encoder, whose output is cached."""

    single: float
    batched: float
    batch: int


def spatial(layout: Layout) -> bool:
    """Whether each token covers one image region."""
    return len(layout.grid) == 2 and not layout.scales


def token_grid(layout: Layout) -> tuple[int, int]:
    """Rows and columns in which tokens are shown: the layout's grid, or the squarest factorisation of a sequence's length."""
    if spatial(layout):
        return layout.grid[0], layout.grid[1]
    count = layout.positions
    rows = max(rows for rows in range(1, math.isqrt(count) + 1) if count % rows == 0)
    return rows, count // rows


def shown_values(tokens: Tokens) -> list[list[int | float]]:
    """Shown values of tokens ``(B, N, C)``: codes of the first codebook, or the first channel of continuous tokens, rounded."""
    first = tokens.values[..., 0].tolist()
    return first if tokens.layout.discrete else [[round(number, 1) for number in row] for row in first]


def trace(system: System, conditions: Sequence[str], captions: Sequence[str], seed: int = 0) -> list[Trace]:
    """Generate an image for each condition and record every step."""
    events: list[StepEvent] = []
    tokens = _drawn(system, conditions, seed, batch=len(conditions), on_step=events.append)
    layout, media = tokens.layout, system.tokenizer.media
    blank = system.encode(torch.ones(1, *media.shape)).values
    frames = [_partial(system, event, blank) for event in events]
    codes = shown_values(tokens)
    steps = sum((event.new.long() * event.step for event in events), torch.zeros(tokens.values.shape[:2], dtype=torch.long))
    return [
        Trace(
            caption=caption,
            grid=token_grid(layout),
            codes=codes[index],
            steps=steps[index].tolist(),
            frames=torch.stack([frame[index] for frame in frames]),
            spatial=spatial(layout),
        )
        for index, caption in enumerate(captions)
    ]


def _drawn(system: System, conditions: Sequence[str], seed: int, **options: Any) -> Tokens:
    """Tokens for values of a system's one input; earlier stages of a cascade run first."""
    values: Sequence[object] | None = list(conditions)
    if stage_names(system.recipe):
        (only,) = call_inputs(system)
        values = gather(system, {only.keyword: values}, None, seed).conditions
    return system.generate_tokens(values, seed=seed, **options)


def _partial(system: System, event: StepEvent, blank: Tensor) -> Tensor:
    layout = system.tokenizer.layout
    if layout.scales:
        return system.decode_known(Tokens(event.values, layout), event.shown)
    return system.decode(Tokens(torch.where(event.shown[..., None], event.values, blank), layout))


def measure_speed(system: System, conditions: Sequence[str], seed: int = 0) -> Speed:
    """Time generation and decoding; call it after :func:`trace`, so that caches are warm."""

    def seconds(chosen: list[str]) -> float:
        started = time.perf_counter()
        system.decode(_drawn(system, chosen, seed))
        return time.perf_counter() - started

    single = min(seconds([conditions[0]]) for _ in range(2))
    return Speed(single, seconds(list(conditions)) / len(conditions), len(conditions))
