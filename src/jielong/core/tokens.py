"""Tokens and their layout, which every part hands to the next.

Shapes, here and everywhere: ``B`` batch, ``N`` positions, ``K`` codebooks, ``V`` vocabulary, ``D`` width,
``C H W T`` channels, height, width, frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

import torch
from torch import Tensor

from jielong.core.medium import Axis

GridAxis = Axis | Literal["channels", "latents"]
_USUAL: dict[int, tuple[GridAxis, ...]] = {1: ("time",), 2: ("rows", "columns"), 3: ("time", "rows", "columns")}


class LayoutJSON(TypedDict):
    """A :class:`Layout` in a file."""

    grid: list[int]
    channels: int
    vocabulary: int | None
    scales: NotRequired[list[list[int]]]
    axes: NotRequired[list[GridAxis]]


@dataclass(frozen=True)
class Layout:
    """Positions of tokens and their values.

    Attributes:
        grid: Positions along each axis.
        channels: Values at a position: ``K`` codebooks when discrete, ``D`` numbers when continuous.
        vocabulary: Number of codes ``V`` of every codebook; ``None`` when the values are continuous.
        scales: Grids of the scales of a multi-scale tokenizer, coarse to fine (VAR, arXiv 2404.02905), the last being ``grid``. Positions
            run through all scales, row by row in each. Empty for one grid.
        axes: Names of the axes of ``grid``; by default time, (rows, columns), or (time, rows, columns). ``channels`` where each
            colour channel or codebook is a position of its own, ``latents`` for a sequence without places in the medium.

    Raises:
        ValueError: if the scales do not end at the grid, or the axes do not fit it.
    """

    grid: tuple[int, ...]
    channels: int = 1
    vocabulary: int | None = None
    scales: tuple[tuple[int, ...], ...] = ()
    axes: tuple[GridAxis, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", self.axes or _USUAL.get(len(self.grid), ()))
        if len(self.axes) != len(self.grid):
            raise ValueError(f"a grid needs a name for each axis: {self.grid} has {len(self.grid)}, and {self.axes or 'none'} are given")
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
        """Number of values of each coordinate: of the scale, if there are scales, and of each axis of the grid."""
        return (len(self.scales), *self.grid) if self.scales else self.grid

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Raise ``ValueError`` unless time is the only axis and each length is 1 to ``N`` tokens."""
        if self.scales or self.axes != ("time",):
            raise ValueError(f"lengths are along time alone, but these tokens have {self.describe()}: leave them out")
        for index, length in enumerate(lengths):
            if not 1 <= length <= self.positions:
                raise ValueError(f"item {index} cannot have {length} tokens: a length is from 1 to {self.positions}")

    def describe(self) -> str:
        """Where positions are, for messages: ``a grid (rows, columns) of (4, 4)``."""
        return f"scales {self.scales}" if self.scales else f"a grid ({', '.join(self.axes)}) of {self.grid}"

    def to_json(self) -> LayoutJSON:
        """Plain lists and numbers, for files."""
        described: LayoutJSON = {"grid": list(self.grid), "channels": self.channels, "vocabulary": self.vocabulary}
        if self.scales:
            described["scales"] = [list(scale) for scale in self.scales]
        if self.axes != _USUAL.get(len(self.grid)):
            described["axes"] = list(self.axes)
        return described

    @staticmethod
    def from_json(described: LayoutJSON) -> Layout:
        """The inverse of :meth:`to_json`."""
        scales = tuple(tuple(scale) for scale in described.get("scales", ()))
        return Layout(tuple(described["grid"]), described["channels"], described["vocabulary"], scales, tuple(described.get("axes", ())))

    def coordinates(self, device: torch.device | str | None = None) -> Tensor:
        """Integer coordinates of every position, ``(N, len(extents))``.

        On a grid: raster order. With scales: the scale's index, then the cell of the finest grid in which the position's centre lies,
        ``floor((2 r + 1) H / (2 h))`` for row ``r`` of ``h``. So a coarse position is at the centre of the fine ones it covers, relative
        positions are comparable between scales, and coordinates are unique.
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
    """Coordinates of a grid in raster order, ``(n, len(grid))``."""
    axes = [torch.arange(size, device=device) for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


@dataclass(frozen=True)
class Tokens:
    """A batch of tokens.

    Attributes:
        values: ``(B, N, C)``: long code indices in ``[0, V)`` when discrete (``C = K``), float when continuous (``C = D``).
        layout: Their positions.
        lengths: ``(B,)`` long, on the CPU: number of tokens of each item along time, if that is the only axis; values beyond are
            undefined. ``None`` means all.

    Raises:
        ValueError: if the values do not fit the layout, or the lengths do not fit the values.
    """

    values: Tensor
    layout: Layout
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        wanted = (self.layout.positions, self.layout.channels)
        if self.values.ndim != 3 or tuple(self.values.shape[1:]) != wanted:
            where = self.layout.describe()
            raise ValueError(f"tokens of {where} must be (batch, {wanted[0]}, {wanted[1]}), not {tuple(self.values.shape)}")
        if self.lengths is not None:
            if tuple(self.lengths.shape) != (len(self),) or self.lengths.dtype != torch.long:
                raise ValueError(f"lengths must be long ({len(self)},), not {self.lengths.dtype} {tuple(self.lengths.shape)}")
            self.layout.check_lengths(self.lengths.tolist())

    def __len__(self) -> int:
        return self.values.shape[0]

    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on another device."""
        return Tokens(self.values.to(device), self.layout, self.lengths)
