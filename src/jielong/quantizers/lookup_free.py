"""Lookup-free quantization (MAGVIT-v2, arXiv 2310.05737)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from jielong.quantizers.binary import BinaryQuantizer, BinarySettings


class LookupFreeQuantizer(BinaryQuantizer):
    r"""``q = sign(z)`` with ``sign(0) = -1``, codes of +-1, and a straight-through gradient.

    The index is ``sum_i 2^(i-1) [z_i > 0]``, least significant channel first, as published; ``bit_order: big`` numbers the codes as
    vector-quantize-pytorch does. Bit ``i`` is set with probability ``sigmoid(4 z_i / tau)``; that library's ``inv_temperature`` is
    ``1 / tau``.
    """

    def __init__(self, settings: LookupFree, dim: int) -> None:
        super().__init__(settings, dim, magnitude=1.0)

    def _place(self, points: Tensor) -> Tensor:
        return points


class LookupFree(BinarySettings, family="quantizer", name="lookup_free"):
    """Settings of :class:`LookupFreeQuantizer`."""

    commitment: float = Field(default=0.25, ge=0, description="weight of the loss that keeps the encoder near its codes")

    def build(self, dim: int) -> LookupFreeQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return LookupFreeQuantizer(self, dim)
