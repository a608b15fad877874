"""Factorized codes: lookup in a smaller width (ViT-VQGAN, arXiv 2110.04627, section 3.2; DAC, 2306.06546, 3.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Generator, Tensor, nn

from jielong.config.registry import OfFamily
from jielong.core.rng import PerSampleRNG
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import checked
from jielong.quantizers.multi_scale import MultiScale
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.vector import Vector


class ProjectedQuantizer(KeepsPrecision, Quantizer):
    """``q(z) = P' Q(P z)`` with trained linear maps ``P: D -> W`` and ``P': W -> D``; ``P`` learns through the estimator of ``Q``."""

    mapped = True

    def __init__(self, settings: Projected, dim: int) -> None:
        super().__init__()
        quantizer = settings.quantizer.build(settings.width)
        self.dim, self.codebook_size, self.num_codebooks, self.progressive = (
            dim,
            quantizer.codebook_size,
            quantizer.num_codebooks,
            quantizer.progressive,
        )
        self.inward = nn.Linear(dim, quantizer.dim, bias=settings.bias)
        self.quantizer = quantizer
        self.outward = nn.Linear(quantizer.dim, dim, bias=settings.bias)

    def forward(
        self,
        vectors: Tensor,
        *,
        generator: Generator | None = None,
        update: bool = True,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
    ) -> Quantized:
        """See :meth:`Quantizer.forward`; losses and statistics are those of ``Q``."""
        together = update and self.training and torch.is_grad_enabled()
        with torch.autocast(vectors.device.type, enabled=False):
            narrow = self.inward(checked(vectors, self.dim, together=together).view(vectors.shape))
            found = self.quantizer(narrow, generator=generator, update=update, samples_seen=samples_seen, rng=rng)
            values = self.outward(found.values).to(vectors.dtype)
            first = None if found.first is None else self.outward(found.first).to(vectors.dtype)
        return replace(found, values=values, first=first)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices, ``(..., D) -> (..., K)``."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.quantizer.encode(self.inward(checked(vectors, self.dim).view(vectors.shape)))

    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, projected back, ``(..., K) -> (..., D)`` float32."""
        with torch.autocast(indices.device.type, enabled=False):
            return self.outward(self.quantizer.decode(indices))

    def figures(self) -> dict[str, float]:
        """Those of ``Q``."""
        return self.quantizer.figures()

    def advice(self) -> str | None:
        """That of ``Q``."""
        return self.quantizer.advice()


class Projected(QuantizerSettings, family="quantizer", name="projected"):
    """Settings of :class:`ProjectedQuantizer`.

    Attributes:
        quantizer: Quantizer of the projected vectors.
    """

    width: int = Field(default=8, ge=1, description="W, of the vectors looked up")
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector()
    bias: bool = Field(default=True, description="of the two linear maps")

    @model_validator(mode="after")
    def _vector_by_vector(self) -> Projected:
        if isinstance(self.quantizer, MultiScale):
            raise ValueError("multi_scale quantizes whole feature maps: set its width by the tokenizer's dim, without projected around it")
        return self

    def build(self, dim: int) -> ProjectedQuantizer:
        """The quantizer for vectors of width ``dim``."""
        return ProjectedQuantizer(self, dim)
