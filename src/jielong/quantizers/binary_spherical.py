"""Binary spherical quantization: the nearest corner of a cube inscribed in the sphere (BSQ, arXiv 2406.07548)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from jielong.quantizers.binary import BinaryQuantizer, BinarySettings, BitOrder
from jielong.quantizers.estimators import straight_through

Gradient = Literal["sphere", "sign"]


class BinarySphericalQuantizer(BinaryQuantizer):
    r"""``u = z / |z|`` and ``q = sign(u) / sqrt(L)`` with ``sign(0) = -1``, both unit vectors.

    The error is bounded, ``|u - q|^2 = 2 - 2 |u|_1 / sqrt(L) < 2 - 2 / sqrt(L)``. Bit ``k`` is set with probability
    ``sigmoid(4 u_k / (sqrt(L) tau))``. With ``gradient: sphere`` the gradient of ``q`` goes to ``u`` unchanged; with ``sign``, as
    published, it is scaled by ``1 / sqrt(L)``. Learning rates do not transfer between the two.
    """

    def __init__(self, settings: BinarySpherical, dim: int) -> None:
        super().__init__(settings, dim, magnitude=settings.bits**-0.5)
        self.slope = self.magnitude if settings.gradient == "sign" else 1.0

    def _place(self, points: Tensor) -> Tensor:
        return F.normalize(points, dim=-1)

    def _estimate(self, points: Tensor, codes: Tensor) -> Tensor:
        return straight_through(points if self.slope == 1 else points * self.slope, codes)


class BinarySpherical(BinarySettings, family="quantizer", name="binary_spherical"):
    """Settings of :class:`BinarySphericalQuantizer`. As published: 18 bits, big-endian; 36 bits take two groups."""

    bits: int = Field(default=18, ge=1, description="L; the codebook has 2^L codes")
    bit_order: BitOrder = Field(default="big", description="whether an index's first bit is the least (little) or most (big) significant")
    gradient: Gradient = Field(default="sphere", description="gradient of the code passes to the unit vector unchanged, or scaled")

    def build(self, dim: int) -> BinarySphericalQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return BinarySphericalQuantizer(self, dim)
