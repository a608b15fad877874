"""Binary spherical quantization: a code is the corner of a cube nearest to the vector on the sphere around it (BSQ, arXiv 2406.07548)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from jielong.quantizers.binary import BinaryQuantizer, BinarySettings, BitOrder
from jielong.quantizers.estimators import straight_through

Gradient = Literal["sphere", "sign"]


class BinarySphericalQuantizer(BinaryQuantizer):
    r"""``u = z / |z|`` and ``q = sign(u) / sqrt(L)`` with ``sign(0) = -1``: unit vectors, both of them.

    The error is bounded, ``|u - q|^2 = 2 - 2 |u|_1 / sqrt(L) < 2 - 2 / sqrt(L)``. Bit ``k`` is set with probability
    ``sigmoid(4 u_k / (sqrt(L) tau))``. Arguments and losses are :class:`~jielong.quantizers.binary.BinaryQuantizer`'s, and:

    Args:
        gradient: ``sphere`` hands the gradient of ``q`` to ``u`` as it is; ``sign``, as published, estimates that of the sign alone, and
            ``u`` receives ``1 / sqrt(L)`` of it. Learning rates do not carry over from one to the other.
    """

    def __init__(self, *, dim: int, bits: int, gradient: Gradient = "sphere", **settings: Any) -> None:
        super().__init__(dim=dim, bits=bits, magnitude=bits**-0.5, **settings)
        self.slope = self.magnitude if gradient == "sign" else 1.0

    def _place(self, points: Tensor) -> Tensor:
        return F.normalize(points, dim=-1)

    def _estimate(self, points: Tensor, codes: Tensor) -> Tensor:
        return straight_through(points if self.slope == 1 else points * self.slope, codes)


class BinarySpherical(BinarySettings, family="quantizer", name="binary_spherical"):
    """Settings of :class:`BinarySphericalQuantizer`.

    Vectors of another width than ``bits`` are mapped linearly to it and back, unless ``project`` is false: they are then refused. As
    published: 18 bits, big-endian; 36 bits take two groups.
    """

    bits: int = Field(18, ge=1, description="L; the codebook has 2^L codes")
    bit_order: BitOrder = Field("big", description="whether an index's first bit is worth least (little) or most (big)")
    gradient: Gradient = Field("sphere", description="what the estimator passes over: the step from the sphere, or the sign alone")

    def build(self, dim: int) -> BinarySphericalQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return BinarySphericalQuantizer(dim=dim, **dict(self))
