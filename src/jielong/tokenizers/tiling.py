"""Frames and pictures in overlapping tiles whose edges are blended, for those too large to be computed at once.

As ``enable_tiling`` of `diffusers`: each tile is computed by itself, and where two overlap the result fades linearly from one to the other.
Convolutions see zeros beyond the edge of a tile, and norms over a frame are then over a tile; so results differ a little from the whole,
most at the seams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

Half = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tiling:
    """Tiles in positions of the grid, along rows and columns."""

    tile: tuple[int, int]  # positions of a tile
    overlap: tuple[int, int]  # positions that it shares with the next one

    @staticmethod
    def of(tile: int | tuple[int, int], overlap: float, reduction: tuple[int, ...]) -> Tiling:
        """Tiles of a size in pixels, which overlap by a share of it, rounded down to whole positions.

        Raises ``ValueError`` unless tiles are multiples of a token, and the share is from 0 to 1/2.
        """
        sides = (tile, tile) if isinstance(tile, int) else tile
        if not 0 <= overlap <= 0.5:
            raise ValueError(f"tiles overlap by a share of 0 to 0.5 of their size, so that two meet along an axis, not {overlap}")
        if wrong := [(side, each) for side, each in zip(sides, reduction[-2:], strict=True) if side < each or side % each]:
            raise ValueError(f"a tile of {wrong[0][0]} pixels is no multiple of a token's {wrong[0][1]}")
        rows, columns = (side // each for side, each in zip(sides, reduction[-2:], strict=True))
        return Tiling((rows, columns), (int(rows * overlap), int(columns * overlap)))


def tiled(half: Half, x: Tensor, tile: tuple[int, int], overlap: tuple[int, int], scales: tuple[Fraction, Fraction]) -> Tensor:
    """``half(x)`` for ``x`` ``(B, C, ..., H, W)``, tile by tile.

    Args:
        half: Maps rows and columns to ``scales`` times as many.
        tile: Rows and columns of ``x`` in a tile.
        overlap: Those shared with the next one; at most half of them.
        scales: Rows and columns of the result over those of ``x``.
    """
    result: Tensor | None = None
    for top, bottom, down in _spans(x.shape[-2], tile[0], overlap[0], scales[0]):
        for left, right, across in _spans(x.shape[-1], tile[1], overlap[1], scales[1]):
            part = half(x[..., top:bottom, left:right])
            if result is None:
                sides = (int(size * scale) for size, scale in zip(x.shape[-2:], scales, strict=True))
                result = part.new_zeros(*part.shape[:-2], *sides)
            place = (..., _scaled(top, bottom, scales[0]), _scaled(left, right, scales[1]))
            result[place] += part * (down[:, None] * across).to(part)
    if result is None:
        raise ValueError(f"there is nothing to compute in maps of {tuple(x.shape)}")
    return result


def _scaled(start: int, stop: int, scale: Fraction) -> slice:
    return slice(int(start * scale), int(stop * scale))


def _spans(size: int, tile: int, overlap: int, scale: Fraction) -> Iterator[tuple[int, int, Tensor]]:
    """Start and end of each tile along an axis, and its weights in the result, which sum to 1 at every place."""
    starts = range(0, max(1, size - overlap), tile - overlap)
    extent = int(overlap * scale)
    ramp = torch.arange(extent) / max(1, extent)
    for start in starts:
        stop = min(start + tile, size)
        weights = torch.ones(int((stop - start) * scale))
        if start:
            weights[:extent] = ramp
        if start != starts[-1]:
            weights[len(weights) - extent :] = 1 - ramp
        yield start, stop, weights
