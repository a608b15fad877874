"""Scales: grids from coarse to fine, and the sum of their codes as one feature map (arXiv 2404.02905)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

Scale = tuple[int, int]
"""Rows and columns of one scale."""
Kernel = tuple[Tensor, Tensor]
"""Weight ``(D, D, 3, 3)`` and bias ``(D,)`` of a convolution."""

GROWTH = 1.4
"""Ratio of two neighbouring scales of :func:`schedule`. VAR's own schedules grow by 1.2 to 2, mostly by 1.3 (256 pixels) or 1.4 (512)."""


def schedule(grid: Scale, growth: float = GROWTH) -> tuple[Scale, ...]:
    """Near-geometric scales from one position to the grid, the longer axis growing by at least one position a scale.

    A last step below ``sqrt(growth)`` is merged with the one before it.

    >>> [rows for rows, _ in schedule((8, 8))]
    [1, 2, 3, 4, 6, 8]
    >>> [rows for rows, _ in schedule((16, 16), growth=1.3)]  # VAR's at 256 pixels
    [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
    """
    longest = max(grid)
    sides = [1]
    while sides[-1] < longest:
        side = max(sides[-1] + 1, round(sides[-1] * growth))
        sides.append(side if side * growth**0.5 <= longest or side == longest else longest)
    return tuple((max(1, round(side * grid[0] / longest)), max(1, round(side * grid[1] / longest))) for side in sides)


def check_scales(scales: Sequence[Scale]) -> tuple[Scale, ...]:
    """The scales. Raises ``ValueError`` if there are none, or one is not larger than the one before it, or shorter along an axis."""
    grows = all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(scales))
    if not scales or not grows or min(scales[0]) < 1:
        raise ValueError(f"scales must grow from coarse to fine, such as 1, 2, 4, 8, not {list(scales)}")
    return tuple(scales)


def nearest_ticks(scales: int, ticks: int) -> tuple[int, ...]:
    """The shared convolution of each scale: the tick nearest to ``k / (scales - 1)``, the upper of two equally near.

    Four ticks are spread evenly from ``1/12`` to ``11/12``, as in VAR's released weights; another number ``T`` from ``1/(2T)`` to
    ``1 - 1/(2T)``.

    >>> nearest_ticks(10, 4)
    (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    """
    margin = 1 / 12 if ticks == 4 else 1 / (2 * max(ticks, 1))
    places = [margin + (1 - 2 * margin) * tick / max(ticks - 1, 1) for tick in range(ticks)]

    def nearest(place: float) -> int:
        return min(range(ticks), key=lambda tick: (round(abs(places[tick] - place), 9), -tick))  # rounding errors decide no tie

    return tuple(nearest(scale / max(scales - 1, 1)) for scale in range(scales)) if ticks else ()


def shrink(features: Tensor, scale: Scale) -> Tensor:
    """``(B, D, H, W)`` averaged over areas to ``(B, D, h, w)``; unchanged where it has that size."""
    return features if features.shape[-2:] == scale else F.interpolate(features, size=scale, mode="area")


@dataclass(frozen=True)
class Pyramid:
    """Codes of several scales as one feature map, ``f_k = sum_(j <= k) phi_j(up(e_j))``."""

    scales: tuple[Scale, ...]  # coarse to fine; the last is the feature map's own grid
    ticks: tuple[int, ...] = ()  # which convolution each scale uses; empty where phi is the identity
    ratio: float = 0.5  # share of the convolution in phi(x) = (1 - ratio) x + ratio conv(x)
    spans: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        stops = torch.tensor([rows * columns for rows, columns in self.scales]).cumsum(0).tolist()
        object.__setattr__(self, "spans", tuple(zip([0, *stops[:-1]], stops, strict=True)))

    @property
    def grid(self) -> Scale:
        """The finest scale."""
        return self.scales[-1]

    @property
    def positions(self) -> int:
        """Positions of all scales together, ``N``."""
        return self.spans[-1][1]

    def lift(self, codes: Tensor, scale: int, kernels: Sequence[Kernel]) -> Tensor:
        """The summand of one scale: codes ``(B, h w, D)`` to ``phi(up(codes))``, ``(B, D, H, W)``, bicubic."""
        x = codes.transpose(1, 2).unflatten(2, self.scales[scale])
        # One memory format whatever the codes are a view of (a single position fits several), so that sums agree bit for bit.
        x = x.clone(memory_format=torch.contiguous_format)
        if self.scales[scale] != self.grid:
            x = F.interpolate(x, size=self.grid, mode="bicubic", align_corners=False)
        if not self.ticks:
            return x
        weight, bias = kernels[self.ticks[scale]]
        return x * (1 - self.ratio) + F.conv2d(x, weight, bias, padding=1) * self.ratio

    def running(self, codes: Tensor, kernels: Sequence[Kernel], known: Tensor | None = None) -> Iterator[Tensor]:
        """The sum after each scale, ``(B, D, H, W)``, for as many whole scales as codes are given.

        Args:
            codes: ``(B, n, D)``.
            kernels: Weights and biases of ``phi``.
            known: ``(B, n)`` bool. Codes that are not known count as 0, and of a scale without a known code not even the bias is added.
        """
        total = codes.new_zeros(len(codes), codes.shape[-1], *self.grid)
        if known is not None:
            codes = codes * known[..., None]
        for scale, (start, stop) in enumerate(self.spans):
            if stop > codes.shape[1]:
                return
            added = self.lift(codes[:, start:stop], scale, kernels)
            if known is not None:
                added = added * known[:, start:stop].any(1)[:, None, None, None]
            total = total + added
            yield total


def shares(count: int, sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Divide ``count`` draws among groups in proportion to weights, none more than its size; what is left over goes to the largest.

    >>> shares(12, [2, 100, 100], [1, 1, 1])
    [2, 5, 5]
    """
    dealt = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        open_ = [group for group, size in enumerate(sizes) if dealt[group] < size]
        unit = left / sum(weights[group] for group in open_)
        for group in open_:
            more = min(max(1, int(unit * weights[group])), sizes[group] - dealt[group], left)
            dealt[group] += more
            left -= more
    dealt[max(range(len(sizes)), key=lambda group: sizes[group])] += count - sum(dealt)
    return dealt
