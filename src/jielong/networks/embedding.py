"""Token values to vectors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Literal, cast

import torch
from torch import Tensor, nn

from jielong.core.tokens import Layout


class SoftCodeEmbedding(nn.Module, ABC):
    """An embedding that also takes soft codes: codebook vectors mixed by weights, in place of codes."""

    dim: int  # numbers of a codebook vector

    @abstractmethod
    def vectors(self, values: Tensor) -> Tensor:
        """Codes ``(B, n, 1)`` to codebook vectors ``(B, n, dim)``; soft codes stay as they are."""

    @abstractmethod
    def mix(self, weights: Tensor) -> Tensor:
        """Soft codes ``(B, n, dim)`` of weights ``(B, n, 1, V)`` that sum to one."""


class CodeEmbedding(nn.Embedding):
    """One table per codebook; the vectors of a position are summed. ``padded``: one more vector, of the value ``V``, for "no code"."""

    offsets: Tensor

    def __init__(self, codebooks: int, vocabulary: int, width: int, padded: bool = False) -> None:
        vocabulary += padded
        super().__init__(codebooks * vocabulary, width)
        nn.init.normal_(self.weight, std=0.02)
        self.codebooks = codebooks
        self.register_buffer("offsets", torch.arange(codebooks) * vocabulary, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Codes ``(B, n, K)`` to ``(B, n, D)``."""
        if self.codebooks == 1:
            return super().forward(values[..., 0])
        return super().forward(values + self.offsets).sum(-2)


class PositionEmbedding(nn.ModuleList):
    """Learned position embeddings: one table per axis, summed.

    Args:
        extents: Number of values of each coordinate.
        width: Channels of the vectors.
        without: Coordinates that have no table.
    """

    def __init__(self, extents: Sequence[int], width: int, without: Sequence[int] = ()) -> None:
        self.axes = [axis for axis in range(len(extents)) if axis not in without]
        tables = [nn.Embedding(extents[axis], width) for axis in self.axes]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        super().__init__(tables)

    def forward(self, coords: Tensor) -> Tensor:
        """Coordinates ``(n, axes)`` to vectors ``(n, D)``."""
        tables = cast("Sequence[nn.Embedding]", self)
        coords = coords.to(tables[0].weight.device)
        return reduce(torch.add, (table(coords[:, axis]) for axis, table in zip(self.axes, tables, strict=True)))


class SlotEmbedding(nn.Module):
    """A free vector a position and, where positions lie on several scales, one a scale, summed (VAR, arXiv 2404.02905; MAR, 2406.11838).

    Args:
        extents: Number of values of each coordinate.
        width: Channels of the vectors.
        scaled: Positions of all scales together, where the first coordinate is the scale; 0 for a grid.
    """

    def __init__(self, extents: Sequence[int], width: int, scaled: int = 0) -> None:
        super().__init__()
        self.extents = tuple(extents)
        self.slots = nn.Embedding(scaled or math.prod(extents), width)
        self.scales = nn.Embedding(extents[0], width) if scaled else None
        for table in (self.slots, self.scales):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def forward(self, coords: Tensor) -> Tensor:
        """Coordinates ``(n, axes)`` to vectors ``(n, D)``; with scales those of all positions, in order."""
        coords = coords.to(self.slots.weight.device)
        if self.scales is None:
            index = reduce(lambda total, axis: total * self.extents[axis] + coords[:, axis], range(1, len(self.extents)), coords[:, 0])
            return cast("Tensor", self.slots(index))
        if len(coords) != self.slots.num_embeddings:
            raise ValueError(f"positions of scales are taken all together, {self.slots.num_embeddings} of them, not {len(coords)}")
        return cast("Tensor", self.slots.weight + self.scales(coords[:, 0]))


class NoPositions(nn.Module):
    """Zeros, where rotation alone tells positions apart (LlamaGen, arXiv 2406.06525)."""

    zero: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(width), persistent=False)

    def forward(self, coords: Tensor) -> Tensor:
        """Coordinates ``(n, axes)`` to zeros ``(n, D)``."""
        return self.zero.expand(len(coords), -1)


Positions = Literal["axes", "slots", "none"]
"""Position embeddings: a sum of tables, one an axis (:class:`PositionEmbedding`), free vectors (:class:`SlotEmbedding`), or none."""


def positions_of(
    kind: Positions, layout: Layout, width: int, relative_axes: Sequence[int]
) -> PositionEmbedding | SlotEmbedding | NoPositions:
    """Position embeddings of a layout. Raises ``ValueError`` for free vectors where an order has none along an axis."""
    if kind == "none":
        return NoPositions(width)
    if kind == "axes":
        return PositionEmbedding(layout.extents, width, relative_axes)
    if relative_axes:
        raise ValueError("positions: slots learns a vector for every position, and this order has none along time: take positions: axes")
    return SlotEmbedding(layout.extents, width, layout.positions if layout.scales else 0)


def cell_convolution(channels: int, width: int, size: Sequence[int], grid: Sequence[int]) -> nn.Conv2d:
    """Pictures ``(B, channels, *size)`` to a vector a cell, ``(B, width, *grid)``: each reads its cell and the eight around it."""
    rows, columns = (side // extent for side, extent in zip(size, grid, strict=True))
    return nn.Conv2d(channels, width, (3 * rows, 3 * columns), (rows, columns), padding=(rows, columns))


def embedding_of(layout: Layout, width: int, padded: bool = False) -> nn.Module:
    """The default embedding of token values ``(B, n, C)``: tables of codes (``padded``: and of "no code"), or a linear map of numbers."""
    if layout.vocabulary is None:
        return nn.Linear(layout.channels, width)
    return CodeEmbedding(layout.channels, layout.vocabulary, width, padded)
