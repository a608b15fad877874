"""Finite scalar quantization: every channel is bounded and rounded to a few levels (FSQ, arXiv 2309.15505)."""

from __future__ import annotations

import math

import torch
from pydantic import Field, field_validator
from torch import Tensor

from jielong.quantizers.base import Quantized
from jielong.quantizers.estimators import AutogradContext
from jielong.quantizers.implicit import ImplicitQuantizer, ImplicitSettings

_TILE = 64
"""Vectors per row of the elementwise kernels."""


class _RoundBounded(torch.autograd.Function):
    """``round(tanh(z + shift) reach - offset)``, whole numbers, and the same over ``unit``, with the gradient.

    The tanh is written ``2 sigmoid(2 x) - 1``, which takes half the time at the same precision.
    """

    @staticmethod
    def forward(
        ctx: AutogradContext, z: Tensor, twice_shift: Tensor, twice_reach: Tensor, low: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor]:
        bent = torch.add(twice_shift, z, alpha=2).sigmoid_()
        digits = torch.addcmul(low, bent, twice_reach).round_()
        ctx.save_for_backward(bent, 2 * twice_reach / unit)
        ctx.mark_non_differentiable(digits)
        return digits / unit, digits

    @staticmethod
    def backward(ctx: AutogradContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        bent, slope = ctx.saved_tensors
        return torch.ops.aten.sigmoid_backward(gradients[0], bent).mul_(slope), None, None, None, None


class FiniteScalarQuantizer(ImplicitQuantizer):
    r"""Rounds channel ``i`` to ``L_i`` levels; the codebook is their product. ``settings``: ``L_i``, one a channel.

    With ``h = (L - 1)(1 - eps) / 2``, ``o = 1/2`` for even ``L`` and 0 for odd, ``s = tan(o / h)``: ``b = tanh(z + s) h - o`` and
    ``q = round(b) / floor(L / 2)``, so that odd levels span [-1, 1] and even ones [-1, 1 - 2 / L]. The gradient passes the rounding:
    ``dq/dz = (1 - tanh^2(z + s)) h / floor(L / 2)``. There is no loss. The index is ``sum_i (round(b_i) + floor(L_i / 2)) prod_(j<i) L_j``,
    the first channel being the least significant.
    """

    epsilon = 1e-3
    """``eps`` above, which keeps the outermost levels within the range of the tanh."""
    twice_shift: Tensor
    twice_reach: Tensor
    low: Tensor
    unit: Tensor
    sizes: Tensor
    basis: Tensor

    def __init__(self, settings: FiniteScalar, dim: int) -> None:
        super().__init__(settings, dim)
        levels = settings.levels
        reach = [(level - 1) * (1 - self.epsilon) / 2 for level in levels]
        offset = [0.5 * (level % 2 == 0) for level in levels]
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.lowest = sum(level // 2 * weight for level, weight in zip(levels, basis, strict=True))
        # Rows of a few channels are slow in elementwise kernels; constants repeated for many vectors make long ones.
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
        tile = 1 if torch.compiler.is_exporting() else math.gcd(points.shape[0], _TILE)  # which would fix the number of items
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
            "check whether the encoder's last layer saturates the tanh (initialise it smaller, no activation after it)",
            "add a linear map with a bias before the rounding (project: true and a dim that is not the number of levels)",
        ]


class FiniteScalar(ImplicitSettings, family="quantizer", name="finite_scalar"):
    """Settings of :class:`FiniteScalarQuantizer`. Published choices: 2^8 [8, 6, 5], 2^10 [8, 5, 5, 5], 2^12 [7, 5, 5, 5, 5]."""

    levels: tuple[int, ...] = Field(default=(8, 5, 5, 5), min_length=1, description="of each channel; 5 and more are advised")

    @field_validator("levels")
    @classmethod
    def _reachable(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 3 <= level <= 1000 for level in levels):
            raise ValueError(f"levels must be 3 to 1,000 per channel, not {list(levels)}; lookup_free and binary_spherical take two")
        return levels

    @property
    def width(self) -> int:
        """Number of levels."""
        return len(self.levels)

    @property
    def codebook_size(self) -> int:
        """Product of the levels."""
        return math.prod(self.levels)

    def build(self, dim: int) -> FiniteScalarQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return FiniteScalarQuantizer(self, dim)
