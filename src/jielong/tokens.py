"""What every part hands to the next: a :class:`Layout` says where tokens stand and what they may be, :class:`Tokens` are they.

Shapes, here and everywhere: ``B`` batch, ``N`` positions, ``K`` codebooks, ``V`` vocabulary, ``D`` width,
``C H W T`` channels, height, width, frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where tokens stand, and what stands there.

    Attributes:
        grid: Positions along each axis: ``(n,)`` for sound, ``(rows, columns)`` for pictures, ``(frames, rows, columns)``.
        channels: Values at a position: ``K`` codebooks when discrete, ``D`` numbers when continuous.
        vocabulary: Number of codes ``V`` of every codebook; ``None`` when the values are continuous.
    """

    grid: tuple[int, ...]
    channels: int = 1
    vocabulary: int | None = None

    @property
    def positions(self) -> int:
        """Number of positions ``N``."""
        return math.prod(self.grid)

    @property
    def discrete(self) -> bool:
        """Whether values are code indices (and not real numbers)."""
        return self.vocabulary is not None

    @property
    def bits(self) -> float | None:
        """Bits an item costs, ``N K log2 V``; ``None`` when continuous."""
        return self.positions * self.channels * math.log2(self.vocabulary) if self.vocabulary else None

    def coordinates(self, device: torch.device | str | None = None) -> Tensor:
        """Integer coordinates of every position in raster order, ``(N, len(grid))``."""
        axes = [torch.arange(size, device=device) for size in self.grid]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


@dataclass(frozen=True)
class Tokens:
    """A batch of tokens.

    Attributes:
        values: ``(B, N, C)``: long code indices in ``[0, V)`` when discrete (``C = K``), float when continuous (``C = D``).
        layout: Where they stand.
    """

    values: Tensor
    layout: Layout

    def __post_init__(self) -> None:
        wanted = (self.layout.positions, self.layout.channels)
        if self.values.ndim != 3 or tuple(self.values.shape[1:]) != wanted:
            raise ValueError(f"tokens of grid {self.layout.grid} must be (batch, {wanted[0]}, {wanted[1]}), not {tuple(self.values.shape)}")

    def __len__(self) -> int:
        return self.values.shape[0]

    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on another device."""
        return Tokens(self.values.to(device), self.layout)
