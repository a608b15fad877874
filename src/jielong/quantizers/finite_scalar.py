"""Finite scalar quantization: every channel is bounded and rounded to a few levels (FSQ, arXiv 2309.15505)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from jielong.quantizers.base import Quantized
from jielong.quantizers.implicit import ImplicitQuantizer, ImplicitSettings

_TILE = 64
"""Vectors that are rounded side by side."""


class _RoundBounded(torch.autograd.Function):
    """``round(tanh(z + shift) reach - offset)``, whole numbers, and the same over ``unit``, which carries the gradient.

    The tanh is written ``2 sigmoid(2 x) - 1``, which takes half the time and costs no digit here.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, twice_shift: Tensor, twice_reach: Tensor, low: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        bent = torch.add(twice_shift, z, alpha=2).sigmoid_()
        digits = torch.addcmul(low, bent, twice_reach).round_()
        ctx.save_for_backward(bent, 2 * twice_reach / unit)
        ctx.mark_non_differentiable(digits)
        return digits / unit, digits

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        bent, slope = ctx.saved_tensors
        return torch.ops.aten.sigmoid_backward(gradients[0], bent).mul_(slope), None, None, None, None


class FiniteScalarQuantizer(ImplicitQuantizer):
    r"""Rounds channel ``i`` to ``L_i`` levels; the codebook is their product.

    With ``h = (L - 1)(1 - eps) / 2``, ``o = 1/2`` for even ``L`` and 0 for odd, ``s = tan(o / h)``: ``b = tanh(z + s) h - o`` and
    ``q = round(b) / floor(L / 2)``, so that odd levels span [-1, 1] and even ones [-1, 1 - 2 / L]. The gradient passes the rounding:
    ``dq/dz = (1 - tanh^2(z + s)) h / floor(L / 2)``. There is no loss. The index is ``sum_i (round(b_i) + floor(L_i / 2)) prod_(j<i) L_j``,
    the first channel being the least significant.

    Vectors of another width than the number of channels are mapped linearly to it and back when ``project`` is set, and refused
    otherwise; at equal width nothing is mapped.

    Args:
        dim: Width ``D`` of the vectors.
        levels: ``L_i``, one a channel.
        project: Whether linear maps may bridge ``D`` and the number of channels.
        epsilon: ``eps`` above, which keeps the outermost levels inside the reach of the tanh.
    """

    twice_shift: Tensor
    twice_reach: Tensor
    low: Tensor
    unit: Tensor
    sizes: Tensor
    basis: Tensor

    def __init__(self, *, dim: int, levels: Sequence[int], project: bool = True, epsilon: float = 1e-3) -> None:
        _check_levels(levels)
        super().__init__(dim=dim, width=len(levels), codebook_size=math.prod(levels), project=project)
        reach = [(level - 1) * (1 - epsilon) / 2 for level in levels]
        offset = [0.5 * (level % 2 == 0) for level in levels]
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.lowest = sum(level // 2 * weight for level, weight in zip(levels, basis, strict=True))
        # A few channels make for short rows, on which loops with a constant a channel crawl; many vectors side by side make a long one.
        for name, numbers in {
            "twice_shift": [2 * math.tan(o / h) for o, h in zip(offset, reach, strict=True)],
            "twice_reach": [2 * h for h in reach],
            "low": [-h - o for h, o in zip(reach, offset, strict=True)],
            "unit": [float(level // 2) for level in levels],
        }.items():
            self.register_buffer(name, torch.tensor(numbers).repeat(_TILE), persistent=False)
        self.register_buffer("sizes", torch.tensor(list(levels)), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"levels={self.sizes.tolist()}, codebook_size={self.codebook_size}, dim={self.dim}"

    def _bound_and_round(self, points: Tensor) -> tuple[Tensor, Tensor]:
        tile = math.gcd(points.shape[0], _TILE)
        constants = [each[: tile * self.width] for each in (self.twice_shift, self.twice_reach, self.low, self.unit)]
        values, digits = _RoundBounded.apply(points.reshape(-1, tile * self.width), *constants)
        return values.view(points.shape), digits.view(points.shape)

    def _number(self, digits: Tensor) -> Tensor:
        return (digits @ self.basis.float()).long().add_(self.lowest)[:, None]  # whole numbers below 2^24: exact

    def _round(self, points: Tensor, samples_seen: int) -> Quantized:
        values, digits = self._bound_and_round(points)
        return Quantized(values, self._number(digits))

    def _indices(self, points: Tensor) -> Tensor:
        return self._number(self._bound_and_round(points)[1])

    def _codes(self, indices: Tensor) -> Tensor:
        digits = indices // self.basis % self.sizes
        return (digits - self.sizes // 2) / self.unit[: self.width]

    def _remedies(self) -> list[str]:
        return [
            "look whether the encoder's last layer saturates the tanh (start it smaller, no activation behind it)",
            "let a linear map with a bias stand before the rounding (project: true and a dim that is not the number of levels)",
        ]


def _check_levels(levels: Sequence[int]) -> None:
    if not levels or any(not 3 <= level <= 1000 for level in levels):
        raise ValueError(
            f"finite scalar quantization takes 3 to 1,000 levels a channel, not {list(levels)}; lookup_free and binary_spherical take two"
        )


class FiniteScalar(ImplicitSettings, family="quantizer", name="finite_scalar"):
    """Settings of :class:`FiniteScalarQuantizer`. Published choices: 2^8 [8, 6, 5], 2^10 [8, 5, 5, 5], 2^12 [7, 5, 5, 5, 5]."""

    levels: tuple[int, ...] = Field((8, 5, 5, 5), min_length=1, description="of each channel; 5 and more are advised")

    @field_validator("levels")
    @classmethod
    def _reachable(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        _check_levels(levels)
        return levels

    @property
    def width(self) -> int:
        """Channels of a code."""
        return len(self.levels)

    def build(self, dim: int) -> FiniteScalarQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return FiniteScalarQuantizer(dim=dim, **dict(self))
