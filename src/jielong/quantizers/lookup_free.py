"""Lookup-free quantization: a code is the signs of the channels (MAGVIT-v2, arXiv 2310.05737)."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from jielong.quantizers.binary import BinaryQuantizer, BinarySettings


class LookupFreeQuantizer(BinaryQuantizer):
    r"""``q = sign(z)`` with ``sign(0) = -1``, codes of +-1, and the gradient handed through unchanged.

    The index is ``sum_i 2^(i-1) [z_i > 0]``, the first channel being worth least, as published; ``bit_order: big`` numbers the same codes
    as vector-quantize-pytorch does. Bit ``i`` is set with probability ``sigmoid(4 z_i / tau)``; that library's ``inv_temperature`` is
    ``1 / tau``. Arguments and losses are :class:`~jielong.quantizers.binary.BinaryQuantizer`'s.
    """

    def __init__(self, *, dim: int, bits: int, **settings: Any) -> None:
        super().__init__(dim=dim, bits=bits, magnitude=1.0, **settings)

    def _place(self, points: Tensor) -> Tensor:
        return points


class LookupFree(BinarySettings, family="quantizer", name="lookup_free"):
    """Settings of :class:`LookupFreeQuantizer`.

    Vectors of another width than ``bits`` are mapped linearly to it and back, unless ``project`` is false: they are then refused.
    """

    commitment: float = Field(0.25, ge=0, description="weight of the loss that keeps the encoder near its codes")

    def build(self, dim: int) -> LookupFreeQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return LookupFreeQuantizer(dim=dim, **dict(self))
