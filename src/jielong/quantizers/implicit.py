"""Quantizers whose codebook is a rule and not a table: every channel is rounded by itself, and the codes are all combinations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from jielong.quantizers.base import Quantized, Quantizer, QuantizerSettings
from jielong.quantizers.checks import check_indices, flattened, in_backward
from jielong.quantizers.parallel import sum_over_processes
from jielong.quantizers.precision import KeepsPrecision
from jielong.quantizers.usage import CodebookUsage

MOST_CODES = 1 << 20
"""The largest codebook: its usage is counted code by code, and a model predicts it with one softmax. Exact in float32."""


def by_level(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Figures of several levels as one: their means, and each by the number of its level when there is more than one."""
    means = {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}
    if len(figures) == 1:
        return means
    return means | {f"{name}_{level}": value for level, each in enumerate(figures, 1) for name, value in each.items()}


class ImplicitSettings(QuantizerSettings):
    """What the settings of all rounding quantizers share."""

    project: bool = Field(True, description="linear maps between vectors and codes of another width; false: the widths must be equal")

    @property
    def width(self) -> int:
        """Channels of a code, which is the width the vectors must have when nothing is projected."""
        raise NotImplementedError(f"the settings {type(self).__name__} say no width")


class ImplicitQuantizer(KeepsPrecision, Quantizer):
    """Projects vectors to the codes' width, rounds each channel, and projects back.

    Where the widths agree nothing is projected, and values are the codes themselves. The only state is the count of the codes assigned in
    training, over all processes, which must then call forward together.

    Args:
        dim: Width ``D`` of the vectors.
        width: Channels of a code.
        codebook_size: Size ``V`` of a codebook.
        num_codebooks: Indices a vector ``K``; each tells its share of the channels.
        project: Whether linear maps may bridge ``D`` and ``width``.

    Raises:
        ValueError: if the widths differ and nothing may bridge them, or if there are more than ``MOST_CODES`` codes.
    """

    def __init__(self, *, dim: int, width: int, codebook_size: int, num_codebooks: int = 1, project: bool = True) -> None:
        super().__init__()
        if not project and dim != width:
            raise ValueError(f"codes of {width} channels do not fit vectors of width {dim}; set project: true or dim: {width}")
        if codebook_size > MOST_CODES:
            raise ValueError(f"a codebook may have up to {MOST_CODES:,} codes, not {codebook_size:,}; use fewer or more indices a vector")
        self.dim, self.width, self.codebook_size, self.num_codebooks = dim, width, codebook_size, num_codebooks
        self.inward: nn.Module = nn.Identity() if dim == width else nn.Linear(dim, width)
        self.outward: nn.Module = nn.Identity() if dim == width else nn.Linear(width, dim)
        self.usages = nn.ModuleList(CodebookUsage(codebook_size) for _ in range(num_codebooks))

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
        self, vectors: Tensor, *, generator: torch.Generator | None = None, update: bool = True, samples_seen: int = 0
    ) -> Quantized:
        """Quantize ``(..., D)``; draws nothing.

        Raises:
            ValueError: if the last axis is not ``D``.
            NonFiniteVectors: if a number is NaN or infinite.
        """
        update = update and self.training and torch.is_grad_enabled() and not in_backward()
        with torch.autocast(vectors.device.type, enabled=False):
            found = self._round(self.inward(flattened(vectors, self.dim, together=update)), samples_seen)
            values = self.outward(found.values)
            if update:
                self._count(found.indices)
        return replace(
            found, values=values.to(vectors.dtype).view(vectors.shape), indices=found.indices.view(*vectors.shape[:-1], self.num_codebooks)
        )

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices, ``(..., D) -> (..., K)``; changes nothing. Raises as :meth:`forward` does."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self._indices(self.inward(flattened(vectors, self.dim))).view(*vectors.shape[:-1], self.num_codebooks)

    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, ``(..., K) -> (..., D)`` float32.

        Raises:
            ValueError: if they are not ``(..., K)`` or one is outside ``[0, V)``.
        """
        check_indices(indices, self.codebook_size, self.num_codebooks)
        with torch.autocast(indices.device.type, enabled=False):
            return self.outward(self._codes(indices))

    @torch.no_grad()
    def _count(self, indices: Tensor) -> None:
        counts = torch.stack([torch.bincount(each, minlength=self.codebook_size) for each in indices.unbind(-1)])
        for usage, count in zip(self._usages, sum_over_processes(counts), strict=True):
            usage.update(count)

    @property
    def _usages(self) -> list[CodebookUsage]:
        return list(self.usages)  # type: ignore[arg-type]

    def figures(self) -> dict[str, float]:
        """Usage and perplexity over a long window, of every index of a vector when it has several."""
        return by_level([each.figures() for each in self._usages])

    def advice(self) -> str | None:
        """What to try when codes lie idle; says nothing before enough of them were assigned to tell."""
        return next(filter(None, (each.advice(self._remedies()) for each in self._usages)), None)

    def _remedies(self) -> list[str]:
        """What to try when codes lie idle, most promising first."""
        return []
