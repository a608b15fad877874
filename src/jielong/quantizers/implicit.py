"""Quantizers with an implicit codebook: every channel is rounded by itself, and the codes are all combinations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from jielong.core.rng import PerSampleRNG
from jielong.core.whole_batch import at_step_end
from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import check_indices, checked, in_backward
from jielong.quantizers.parallel import sum_over_processes
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.usage import CodebookUsage

MOST_CODES = 1 << 20
"""Largest codebook: usage is counted per code, and a model predicts it with one softmax. Exact in float32."""


def by_codebook(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Figures of several codebooks as one: their means, and each under its number when there are several."""
    means = {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}
    if len(figures) == 1:
        return means
    return means | {f"{name}_{number}": value for number, each in enumerate(figures, 1) for name, value in each.items()}


class ImplicitSettings(QuantizerSettings):
    """Settings of an :class:`ImplicitQuantizer`; each kind has a ``codebook_size``."""

    project: bool = Field(default=True, description="linear maps between vectors and codes of another width; false: the widths are equal")

    @property
    def width(self) -> int:
        """Channels of a code, which is the width of vectors without a projection."""
        raise NotImplementedError(f"the settings {type(self).__name__} have no width")

    @property
    def codebook_size(self) -> int:
        """``V``."""
        raise NotImplementedError(f"the settings {type(self).__name__} have no codebook size")

    @property
    def num_codebooks(self) -> int:
        """Indices per vector, ``K``, each of its share of the channels."""
        return 1


class ImplicitQuantizer(KeepsPrecision, Quantizer):
    """Projects vectors to the codes' width where they differ, rounds each channel, and projects back.

    The only state is the count of the codes assigned in training, over all processes, which must then call forward together. Raises
    ``ValueError`` if the widths differ without a projection, or there are more than ``MOST_CODES`` codes.
    """

    def __init__(self, settings: ImplicitSettings, dim: int) -> None:
        super().__init__()
        width, size = settings.width, settings.codebook_size
        if not settings.project and dim != width:
            raise ValueError(f"codes of {width} channels do not fit vectors of width {dim}; set project: true or dim: {width}")
        if size > MOST_CODES:
            raise ValueError(f"a codebook may have up to {MOST_CODES:,} codes, not {size:,}; use fewer or more indices a vector")
        self.dim, self.width, self.codebook_size, self.num_codebooks = dim, width, size, settings.num_codebooks
        self.inward: nn.Module = nn.Identity() if dim == width else nn.Linear(dim, width)
        self.outward: nn.Module = nn.Identity() if dim == width else nn.Linear(width, dim)
        self.usages = nn.ModuleList(CodebookUsage(size) for _ in range(self.num_codebooks))

    @abstractmethod
    def _round(self, points: Tensor, samples_seen: int) -> Quantized:
        """Quantize ``(M, width)`` float32 with gradients; indices are ``(M, K)``."""

    @abstractmethod
    def _indices(self, points: Tensor) -> Tensor:
        """``(M, width)`` to indices ``(M, K)``."""

    @abstractmethod
    def _codes(self, indices: Tensor) -> Tensor:
        """Indices ``(..., K)`` to codes ``(..., width)`` float32."""

    def forward(
        self,
        vectors: Tensor,
        *,
        generator: Generator | None = None,
        update: bool = True,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
    ) -> Quantized:
        """See :meth:`Quantizer.forward`; nothing is drawn."""
        update = update and self.training and torch.is_grad_enabled() and not in_backward()
        with torch.autocast(vectors.device.type, enabled=False):
            found = self._round(self.inward(checked(vectors, self.dim, together=update)), samples_seen)
            values = self.outward(found.values)
            if update:
                at_step_end(self._count, None, found.indices)
        indices = found.indices.view(*vectors.shape[:-1], self.num_codebooks)
        return replace(found, values=values.to(vectors.dtype).view(vectors.shape), indices=indices)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices, ``(..., D) -> (..., K)``."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self._indices(self.inward(checked(vectors, self.dim))).view(*vectors.shape[:-1], self.num_codebooks)

    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, ``(..., K) -> (..., D)`` float32."""
        check_indices(indices, self.codebook_size, self.num_codebooks)
        with torch.autocast(indices.device.type, enabled=False):
            return self.outward(self._codes(indices))

    @torch.no_grad()
    def _count(self, _: Generator | None, indices: Tensor) -> None:
        counts = torch.stack([torch.bincount(each, minlength=self.codebook_size) for each in indices.unbind(-1)])
        for usage, count in zip(self._usages, sum_over_processes(counts), strict=True):
            usage.update(count)

    @property
    def _usages(self) -> list[CodebookUsage]:
        return cast("list[CodebookUsage]", list(self.usages))

    def figures(self) -> dict[str, float]:
        """Usage and perplexity of every codebook."""
        return by_codebook([each.figures() for each in self._usages])

    def advice(self) -> str | None:
        """The remedies of the kind, when few codes are used."""
        return next(filter(None, (each.advice(self._remedies()) for each in self._usages)), None)

    def _remedies(self) -> list[str]:
        """What to try when few codes are used, best first."""
        return []
