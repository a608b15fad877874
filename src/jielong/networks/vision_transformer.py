"""Encoder and decoder of an image tokenizer as bidirectional transformers over patches (ViT, arXiv 2010.11929; ViT-VQGAN, 2110.04627)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.decoder import Decoder
from jielong.networks.transformer import Transformer, TransformerConfig

Positions = Literal["rotary", "learned"]


class GridTransformer(nn.Module):
    """A transformer over all positions of a grid: ``rotary`` over rows and columns, or with a ``learned`` vector at each position."""

    table: nn.Parameter | None

    def __init__(self, grid: tuple[int, int], config: TransformerConfig, positions: Positions) -> None:
        super().__init__()
        self.grid = grid
        self.transformer = Transformer(config, axes=2)
        # The transformer reads these with Python: no buffers, so that they stay on the CPU.
        self.coordinates = Layout(grid).coordinates()
        self.blocks = torch.zeros(len(self.coordinates), dtype=torch.long)
        if positions == "learned":
            self.table = nn.Parameter(torch.randn(len(self.coordinates), config.width) * 0.02)
            self.coordinates.zero_()  # equal coordinates: no rotation
        else:
            self.table = None

    def forward(self, features: Tensor) -> Tensor:
        """``(B, D, h, w)`` to ``(B, h w, D)``, after the last norm. Raises ``ValueError`` if the grid is another."""
        if tuple(features.shape[-2:]) != self.grid:
            raise ValueError(f"this transformer was made for a grid of {self.grid} positions, not {tuple(features.shape[-2:])}")
        x = features.flatten(2).mT
        return self.transformer(BackboneInputs(x if self.table is None else x + self.table, self.coordinates, self.blocks))


class ViTEncoder(nn.Module):
    """Pictures to feature vectors. ``positions``: as in :class:`GridTransformer`."""

    def __init__(
        self, inputs: int, grid: tuple[int, int], patch: int, outputs: int, config: TransformerConfig, positions: Positions
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(inputs, config.width, patch, stride=patch)
        self.body = GridTransformer(grid, config, positions)
        self.out = nn.Linear(config.width, outputs)

    def forward(self, picture: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, outputs, H / patch, W / patch)``."""
        return self.out(self.body(self.patches(picture))).mT.unflatten(2, self.body.grid)


class ViTDecoder(Decoder):
    """Feature vectors to pictures; the mirror of :class:`ViTEncoder`, with the same arguments."""

    def __init__(
        self, inputs: int, grid: tuple[int, int], patch: int, outputs: int, config: TransformerConfig, positions: Positions
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, config.width, 1)
        self.body = GridTransformer(grid, config, positions)
        self.out = nn.Linear(config.width, outputs * patch * patch)
        self.patch = patch

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, outputs, h patch, w patch)``."""
        pixels = self.out(self.body(self.enter(features))).mT.unflatten(2, self.body.grid)  # (B, outputs patch^2, h, w)
        return F.pixel_shuffle(pixels, self.patch)
