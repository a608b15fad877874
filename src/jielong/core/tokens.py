"""What every part hands to the next: a :class:`Layout` says where tokens stand and what they may be, :class:`Tokens` are they.

Shapes, here and everywhere: ``B`` batch, ``N`` positions, ``K`` codebooks, ``V`` vocabulary, ``D`` width,
``C H W T`` channels, height, width, frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where tokens stand, and what stands there.

    Attributes:
        grid: Positions along each axis: ``(n,)`` for sound, ``(rows, columns)`` for pictures, ``(frames, rows, columns)``.
        channels: Values at a position: ``K`` codebooks when discrete, ``D`` numbers when continuous.
        vocabulary: Number of codes ``V`` of every codebook; ``None`` when the values are continuous.
        scales: Where one picture is told several times, coarse to fine (VAR, arXiv 2404.02905): the grid of each scale, the last being
            ``grid``. Positions then run through all scales, row by row in each. Empty where there is the grid alone.

    Raises:
        ValueError: if the scales do not end at the grid.
    """

    grid: tuple[int, ...]
    channels: int = 1
    vocabulary: int | None = None
    scales: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.scales and (self.scales[-1] != self.grid or any(len(scale) != len(self.grid) for scale in self.scales)):
            raise ValueError(f"scales must be grids of {len(self.grid)} axes that end at the grid {self.grid}, not {self.scales}")

    @property
    def positions(self) -> int:
        """Number of positions ``N``, of all scales together."""
        return sum(math.prod(scale) for scale in self.scales or (self.grid,))

    @property
    def discrete(self) -> bool:
        """Whether values are code indices (and not real numbers)."""
        return self.vocabulary is not None

    @property
    def bits(self) -> float | None:
        """Bits an item costs, ``N K log2 V``; ``None`` when continuous."""
        return self.positions * self.channels * math.log2(self.vocabulary) if self.vocabulary else None

    @property
    def extents(self) -> tuple[int, ...]:
        """How many values each coordinate takes: those of the grid, behind the number of scales where there are scales."""
        return (len(self.scales), *self.grid) if self.scales else self.grid

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Raise ``ValueError`` unless items may have so many tokens: 1 to ``N``, of positions in one line."""
        if self.scales or len(self.grid) != 1:
            places = self.scales or self.grid
            raise ValueError(f"lengths are for tokens in one line, as those of sound, and these stand in {places}: leave them out")
        for index, length in enumerate(lengths):
            if not 1 <= length <= self.positions:
                raise ValueError(f"item {index} cannot have {length} tokens: a length is from 1 to {self.positions}")

    def to_json(self) -> dict[str, Any]:
        """The layout as plain lists and numbers, for files."""
        scales = {"scales": [list(scale) for scale in self.scales]} if self.scales else {}
        return {"grid": list(self.grid), "channels": self.channels, "vocabulary": self.vocabulary, **scales}

    @staticmethod
    def from_json(described: Mapping[str, Any]) -> Layout:
        """What :meth:`to_json` described."""
        scales = tuple(tuple(scale) for scale in described.get("scales", ()))
        return Layout(tuple(described["grid"]), described["channels"], described["vocabulary"], scales)

    def coordinates(self, device: torch.device | str | None = None) -> Tensor:
        """Integer coordinates of every position, ``(N, len(extents))``.

        On a grid: raster order. With scales: the scale's index, then the cell of the finest grid in which the position's centre lies,
        ``floor((2 r + 1) H / (2 h))`` for row ``r`` of ``h``. So a coarse position stands amid the fine ones it covers, relative positions
        mean the same at every scale, and no two positions share their coordinates.
        """
        if not self.scales:
            return _raster(self.grid, device)
        parts = []
        for index, scale in enumerate(self.scales):
            fine, coarse = torch.tensor(self.grid, device=device), torch.tensor(scale, device=device)
            centres = (2 * _raster(scale, device) + 1) * fine // (2 * coarse)
            parts.append(torch.cat([torch.full_like(centres[:, :1], index), centres], dim=1))
        return torch.cat(parts)


def _raster(grid: tuple[int, ...], device: torch.device | str | None) -> Tensor:
    """Every place of a grid in raster order, ``(n, len(grid))``."""
    axes = [torch.arange(size, device=device) for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


@dataclass(frozen=True)
class Tokens:
    """A batch of tokens.

    Attributes:
        values: ``(B, N, C)``: long code indices in ``[0, V)`` when discrete (``C = K``), float when continuous (``C = D``).
        layout: Where they stand.
        lengths: ``(B,)`` long, on the CPU: how many of an item's positions hold tokens, from the first on; behind them may stand
            anything. All of them where nothing is said. Of sound alone, whose positions stand in one line.

    Raises:
        ValueError: if the values do not fit the layout, or the lengths do not fit the values.
    """

    values: Tensor
    layout: Layout
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        wanted = (self.layout.positions, self.layout.channels)
        if self.values.ndim != 3 or tuple(self.values.shape[1:]) != wanted:
            places = f"scales {self.layout.scales}" if self.layout.scales else f"grid {self.layout.grid}"
            raise ValueError(f"tokens of {places} must be (batch, {wanted[0]}, {wanted[1]}), not {tuple(self.values.shape)}")
        if self.lengths is not None:
            if tuple(self.lengths.shape) != (len(self),) or self.lengths.dtype != torch.long:
                raise ValueError(f"lengths must be long ({len(self)},), not {self.lengths.dtype} {tuple(self.lengths.shape)}")
            self.layout.check_lengths(self.lengths.tolist())

    def __len__(self) -> int:
        return self.values.shape[0]

    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on another device."""
        return Tokens(self.values.to(device), self.layout, self.lengths)
