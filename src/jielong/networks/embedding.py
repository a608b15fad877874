"""From token values to vectors: what a generator reads where its order does not bring an embedding of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from jielong.core.tokens import Layout


class CodeEmbedding(nn.Embedding):
    """A vector a code, one table a codebook; those of a position are summed.

    Args:
        codebooks: Codes at a position, ``K``.
        vocabulary: Codes of a codebook, ``V``.
        width: Channels ``D``.
        nothing: Whether there is a vector more, of the value ``V``, for "no code here".
    """

    offsets: Tensor

    def __init__(self, codebooks: int, vocabulary: int, width: int, nothing: bool = False) -> None:
        vocabulary += nothing
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
        width: Channels ``D``.
    """

    def __init__(self, extents: Sequence[int], width: int) -> None:
        tables = [nn.Embedding(size, width) for size in extents]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        super().__init__(tables)

    def forward(self, coords: Tensor) -> Tensor:
        """Coordinates ``(n, axes)`` to vectors ``(n, D)``."""
        tables = cast("Sequence[nn.Embedding]", self)
        coords = coords.to(tables[0].weight.device)
        return reduce(torch.add, (table(coords[:, axis]) for axis, table in enumerate(tables)))


def embedding_of(layout: Layout, width: int, nothing: bool = False) -> nn.Module:
    """Token values ``(B, n, C)`` to ``(B, n, width)``: tables of codes, maybe with a vector for none, or a linear map of numbers."""
    if layout.vocabulary is None:
        return nn.Linear(layout.channels, width)
    return CodeEmbedding(layout.channels, layout.vocabulary, width, nothing)
