"""Encoder and decoder of an image tokenizer as transformers over patches (ViT, arXiv 2010.11929; in a tokenizer: ViT-VQGAN, 2110.04627).

A patch of pixels enters as one position by one linear map and leaves by another; between them every position sees all others.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.decoder import Decoder
from jielong.networks.transformer import Transformer

Positions = Literal["rotary", "learned"]


class GridTransformer(nn.Module):
    """A transformer over all positions of a grid.

    Args:
        grid: Rows and columns.
        width: Channels ``D`` of a position.
        positions: How a position knows where it stands: by the rotation of queries and keys over rows and columns, or by a learned vector
            of its own, added to it.
        settings: Of :class:`jielong.networks.transformer.Transformer`.
    """

    table: nn.Parameter | None

    def __init__(self, grid: tuple[int, int], width: int, positions: Positions, **settings: Any) -> None:
        super().__init__()
        self.grid = grid
        self.transformer = Transformer(width=width, axes=2, **settings)
        # No buffers: the transformer reads these with Python, so they stay on the CPU wherever the weights go.
        self.coordinates = Layout(grid).coordinates()
        self.blocks = torch.zeros(len(self.coordinates), dtype=torch.long)
        if positions == "learned":
            self.table = nn.Parameter(torch.randn(len(self.coordinates), width) * 0.02)
            self.coordinates.zero_()  # all in one place: no rotation tells them apart
        else:
            self.table = None

    def forward(self, features: Tensor) -> Tensor:
        """``(B, D, h, w)`` to ``(B, h w, D)``, after the last norm.

        Raises:
            ValueError: if the grid is another.
        """
        if tuple(features.shape[-2:]) != self.grid:
            raise ValueError(f"this transformer was made for a grid of {self.grid} positions, not {tuple(features.shape[-2:])}")
        x = features.flatten(2).mT
        return self.transformer(BackboneInputs(x if self.table is None else x + self.table, self.coordinates, self.blocks))


class ViTEncoder(nn.Module):
    """Pictures to feature vectors.

    Args:
        inputs: Channels of the picture.
        grid: Rows and columns of patches.
        patch: Side of a patch in pixels.
        outputs: Channels of the result.
        width: Channels ``D`` inside.
        positions: As in :class:`GridTransformer`.
        settings: Of the transformer.
    """

    def __init__(
        self, inputs: int, grid: tuple[int, int], patch: int, outputs: int, *, width: int, positions: Positions, **settings: Any
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(inputs, width, patch, stride=patch)
        self.body = GridTransformer(grid, width, positions, **settings)
        self.out = nn.Linear(width, outputs)

    def forward(self, picture: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, outputs, H / patch, W / patch)``."""
        return self.out(self.body(self.patches(picture))).mT.unflatten(2, self.body.grid)


class ViTDecoder(Decoder):
    """Feature vectors to pictures; the mirror of :class:`ViTEncoder`, with the same arguments."""

    def __init__(
        self, inputs: int, grid: tuple[int, int], patch: int, outputs: int, *, width: int, positions: Positions, **settings: Any
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, width, 1)
        self.body = GridTransformer(grid, width, positions, **settings)
        self.out = nn.Linear(width, outputs * patch * patch)
        self.patch = patch

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, outputs, h patch, w patch)``, unbounded: clamp to [-1, 1] when showing."""
        pixels = self.out(self.body(self.enter(features))).mT.unflatten(2, self.body.grid)  # (B, outputs patch^2, h, w)
        return F.pixel_shuffle(pixels, self.patch)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight in front of the picture, where adversarial weights compare gradients."""
        return self.out.weight  # type: ignore[return-value]
