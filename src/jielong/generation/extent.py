"""How many frames are drawn: as many as in training, fewer, or more with a window (:attr:`SamplingConfig.frames`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.tokens import Layout, Tokens
from jielong.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from jielong.generation.generator import Generator


def layout_of(model: Generator, config: SamplingConfig) -> Layout:
    """The layout of what is drawn: the model's, of :attr:`SamplingConfig.frames` along the first axis."""
    layout = model.layout
    return layout if config.frames is None else replace(layout, grid=(config.frames, *layout.grid[1:]))


def extended(model: Generator, config: SamplingConfig) -> SamplingConfig:
    """With the window that is usual where more frames are drawn than in training: as many as there were.

    Raises ``ValueError`` if the generator knows no more places along the first axis than those of training.
    """
    trained, frames = model.layout.grid[0], config.frames
    if frames is None or frames <= trained:
        return config
    what = ""
    if 0 not in model.order.relative_axes:
        what = "its positions of frames are learned, one vector each (order: {frames: {learned_time: true}})"
    elif not model.head.relative:
        what = "the network of its head adds positions of frames to tokens (positions: sincos)"
    elif model.placed is not None:
        what = "its condition gives a vector for each position"
    if what:
        raise ValueError(f"frames {frames}: this generator was trained with {trained} frames of tokens, and {what}: draw at most {trained}")
    return config if config.window is not None else config.override(window=trained)


def describe_extent(model: Generator, config: SamplingConfig) -> str:
    """How many frames are drawn and what they attend to, in words; empty where that is as in training."""
    config, trained = extended(model, config), model.layout.grid[0]
    frames = trained if config.frames is None else config.frames
    words = [] if frames == trained else [f"{frames} frames of tokens are drawn, and {trained} were trained"]
    if config.window is not None and config.window < frames:
        words.append(f"each attends to the last {config.window}, its own included")
    return "; ".join(words)


def check_decoded(tokenizer: Tokenizer, frames: int | None) -> None:
    """Raise ``ValueError`` if the tokenizer decodes no such number of frames of tokens."""
    usual = tokenizer.layout.grid[0]
    if frames not in (None, usual) and not tokenizer.any_length:
        raise ValueError(f"frames {frames}: the tokenizer of this model decodes {usual} frames of tokens and no other number: leave it out")


def lengthened(layout: Layout, start: Tokens | None, known: Tensor | None) -> tuple[Tokens | None, Tensor | None]:
    """Given tokens of fewer frames than are drawn, with nothing given behind them."""
    if start is None or known is None or start.layout.grid[1:] != layout.grid[1:] or start.layout.grid[0] >= layout.grid[0]:
        return start, known
    more = layout.positions - start.layout.positions
    longer = replace(start.layout, grid=layout.grid)
    return Tokens(F.pad(start.values, (0, 0, 0, more)), longer), F.pad(known, (0, more), value=False)
