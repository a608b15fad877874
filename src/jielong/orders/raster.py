"""Raster order: token by token, row by row (LlamaGen, arXiv 2406.06525; VQ-VAE's and DALL-E's priors).

Codes of several codebooks may be rearranged first (MusicGen, arXiv 2306.05284; :mod:`jielong.orders.patterns`).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from jielong.core.tokens import Layout
from jielong.orders.base import Embed, Order, OrderSettings
from jielong.orders.patterns import Pattern, coarse_first, delay, flatten

PatternName = Literal["parallel", "delay", "flatten", "coarse_first"]


class Raster(OrderSettings, family="order", name="raster"):
    """Settings of the raster order.

    Attributes:
        pattern: Arrangement of the codes of several codebooks; ``parallel`` leaves them as they are.
        delays: Of the pattern ``delay``, one per codebook; ``0, 1, ..., K - 1`` by default.
    """

    pattern: PatternName = "parallel"
    delays: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _delays_of_delay(self) -> Raster:
        if self.delays is not None and self.pattern != "delay":
            raise ValueError(f"delays belong to the pattern delay, not to {self.pattern}: set pattern: delay, or leave delays out")
        if self.delays is not None and (not self.delays or min(self.delays) != 0):
            raise ValueError(f"delays are numbers of steps, one per codebook, the smallest 0, not {list(self.delays)}")
        return self

    def build(self) -> RasterOrder:
        """The order."""
        return RasterOrder(self)


class RasterOrder(Order):
    """A block per position; its input is the previous token (the causal shift)."""

    shifted = True
    begins_once = True

    def __init__(self, settings: Raster = Raster()) -> None:
        self.name, self.delays = settings.pattern, settings.delays

    def pattern(self, layout: Layout) -> Pattern | None:
        """See :meth:`Order.pattern`."""
        if self.name == "delay":
            return delay(layout, range(layout.channels) if self.delays is None else self.delays)
        return None if self.name == "parallel" else flatten(layout) if self.name == "flatten" else coarse_first(layout)

    def blocks(self, layout: Layout) -> Tensor:
        """``0 .. N - 1``."""
        return torch.arange(layout.positions)

    def sources(self, layout: Layout) -> Tensor | None:
        """Those of the position before."""
        coords = layout.coordinates()
        return torch.cat([torch.full_like(coords[:1], -1), coords[:-1]])

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The previous token; the placeholder at the first position."""
        before = embed(values[:, max(start - 1, 0) : stop - 1])
        if start > 0:
            return before
        first = placeholder.to(before.dtype).expand(len(values), 1, -1)
        return torch.cat([first, before], dim=1)
