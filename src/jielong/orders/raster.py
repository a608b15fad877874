"""Raster order: one token after the other, row by row (LlamaGen, arXiv 2406.06525; VQ-VAE's and DALL-E's priors)."""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.config import Part
from jielong.noise import Noise
from jielong.orders.base import Embed, Order, View
from jielong.tokens import Layout


class RasterOrder(Order):
    """Every position is its own block; what stands at it is the previous token (the causal shift)."""

    shifted = True

    def blocks(self, layout: Layout) -> Tensor:
        """``0 .. N - 1``."""
        return torch.arange(layout.positions)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The token before each position; the placeholder begins the chain."""
        before = embed(values[:, max(start - 1, 0) : stop - 1])
        if start > 0:
            return before
        first = placeholder.to(before.dtype).expand(len(values), 1, -1)
        return torch.cat([first, before], dim=1)

    def view(self, layout: Layout, noise: Noise) -> View:
        """Everything is asked: one causal pass trains every block in parallel."""
        everything = torch.ones(len(noise), layout.positions, dtype=torch.bool)
        return View(known=everything, asked=everything)


class Raster(Part, family="order", name="raster"):
    """Raster order has no settings."""

    def build(self) -> RasterOrder:
        """The order."""
        return RasterOrder()
