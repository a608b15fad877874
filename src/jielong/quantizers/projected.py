"""Lookup in another width than that of the vectors: factorized codes (ViT-VQGAN, arXiv 2110.04627, section 3.2; DAC, 2306.06546, 3.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from jielong.config.registry import OfFamily
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import flattened
from jielong.quantizers.multi_scale import MultiScale
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.vector import Vector


class ProjectedQuantizer(KeepsPrecision, Quantizer):
    """``q(z) = P' Q(P z)`` with linear maps ``P: D -> W`` and ``P': W -> D``, which learn: ``P'`` from what becomes of the codes, ``P``
    through the estimator of ``Q`` and from its losses.

    Args:
        quantizer: ``Q``, of width ``W``.
        dim: Width ``D`` of the vectors.
        bias: Whether the maps have one.
    """

    mapped = True

    def __init__(self, quantizer: Quantizer, *, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.dim, self.codebook_size, self.num_codebooks, self.progressive = (
            dim,
            quantizer.codebook_size,
            quantizer.num_codebooks,
            quantizer.progressive,
        )
        self.inward = nn.Linear(dim, quantizer.dim, bias=bias)
        self.quantizer = quantizer
        self.outward = nn.Linear(quantizer.dim, dim, bias=bias)

    def forward(
        self, vectors: Tensor, *, generator: torch.Generator | None = None, update: bool = True, samples_seen: int = 0
    ) -> Quantized:
        """Quantize ``(..., D)``; arguments, losses and statistics are those of ``Q``.

        Raises:
            ValueError: if the last axis is not ``D``.
            NonFiniteVectors: if a number is NaN or infinite.
        """
        together = update and self.training and torch.is_grad_enabled()
        with torch.autocast(vectors.device.type, enabled=False):
            narrow = self.inward(flattened(vectors, self.dim, together=together).view(vectors.shape))
            found = self.quantizer(narrow, generator=generator, update=update, samples_seen=samples_seen)
            values = self.outward(found.values).to(vectors.dtype)
            first = None if found.first is None else self.outward(found.first).to(vectors.dtype)
        return replace(found, values=values, first=first)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices, ``(..., D) -> (..., K)``; changes nothing. Raises as :meth:`forward` does."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.quantizer.encode(self.inward(flattened(vectors, self.dim).view(vectors.shape)))

    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, projected back, ``(..., K) -> (..., D)`` float32. Raises as ``Q`` does."""
        with torch.autocast(indices.device.type, enabled=False):
            return self.outward(self.quantizer.decode(indices))

    def figures(self) -> dict[str, float]:
        """Those of ``Q``."""
        return self.quantizer.figures()

    def advice(self) -> str | None:
        """That of ``Q``."""
        return self.quantizer.advice()


class Projected(QuantizerSettings, family="quantizer", name="projected"):
    """Settings of :class:`ProjectedQuantizer`: a quantizer that looks up ``width`` numbers of every vector."""

    width: int = Field(8, ge=1, description="W, of the vectors looked up")
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector.model_validate({})
    bias: bool = Field(True, description="of the two linear maps")

    @model_validator(mode="after")
    def _vector_by_vector(self) -> Projected:
        if isinstance(self.quantizer, MultiScale):
            raise ValueError("multi_scale looks at whole feature maps: set its width by the tokenizer's dim, without projected around it")
        return self

    def build(self, dim: int) -> ProjectedQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return ProjectedQuantizer(self.quantizer.build(self.width), dim=dim, bias=self.bias)
