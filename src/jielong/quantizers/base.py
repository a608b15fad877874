"""What a quantizer is: vectors to code indices and back, and, while it learns, the losses and the figures of its codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.core.tokens import Layout


@dataclass(frozen=True)
class Quantized:
    """What a lookup gives.

    Attributes:
        values: ``(..., D)``, the codes themselves, in the vectors' dtype; their gradient reaches the vectors through the estimator.
        indices: ``(..., K)``, long, in ``[0, V)``.
        losses: Scalars, weighted already, to be added to the training loss, by name.
        statistics: Scalars to log, such as ``error`` (mean square distance a component), ``usage`` and ``perplexity``.
        first: What the first of several levels gives by itself, ``(..., D)``, with gradients as of ``values``; ``None`` of one level.
    """

    values: Tensor
    indices: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    first: Tensor | None = None


class Quantizer(nn.Module, ABC):
    """Replaces vectors by codes. Everything inside is float32, whatever the autocast.

    Attributes:
        dim: Width ``D`` of the vectors it reads and gives.
        codes: Size ``V`` of a codebook.
        levels: Indices a vector, ``K``: 1, or the number of levels where residuals are quantized in turn.
        progressive: Whether :meth:`decode` takes leading levels alone, ``(..., n)`` with ``n <= K``.
        mapped: Whether its values have gone through weights that learn from what becomes of them.
    """

    dim: int
    codebook_size: int
    num_codebooks: int = 1
    progressive: bool = False
    mapped: bool = False

    @abstractmethod
    def forward(
        self, vectors: Tensor, *, generator: torch.Generator | None = None, update: bool = True, samples_seen: int = 0
    ) -> Quantized:
        """Quantize ``(..., D)``, with gradients, and in training let the codes follow.

        Args:
            vectors: ``(..., D)``.
            generator: Draws what quantizing needs (starts, restarts, noise).
            update: Whether training may change the codes' state now; ``False`` for a second forward within one step.
            samples_seen: Items trained on before this step, for what is annealed.
        """

    @abstractmethod
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices, ``(..., D) -> (..., K)``; changes nothing."""

    @abstractmethod
    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, ``(..., K) -> (..., D)`` float32.

        Raises:
            ValueError: if an index is outside ``[0, V)``.
        """

    def embed(self, indices: Tensor) -> Tensor:
        """What each position says by itself, ``(..., K) -> (..., D)``: :meth:`decode` is :meth:`assemble` of it."""
        return self.decode(indices)

    def assemble(self, vectors: Tensor, known: Tensor | None = None) -> Tensor:
        """The feature map of one vector a position, of :meth:`embed` or mixtures of them.

        Args:
            vectors: ``(B, N, D)``.
            known: ``(B, N)`` bool; positions that are not known add nothing.
        """
        return vectors if known is None else vectors * known[..., None]

    def residuals(self, vectors: Tensor) -> Tensor | None:
        """What is left of feature maps ``(..., D)`` after each of several parts, as shares, ``(parts,)``; ``None`` of one part."""
        return None

    def layout(self, grid: tuple[int, ...]) -> Layout:
        """Where the tokens of a feature map ``(B, *grid, D)`` stand: one position a vector, unless the quantizer says otherwise."""
        return Layout(grid, self.num_codebooks, self.codebook_size)

    def figures(self) -> dict[str, float]:
        """Numbers to log, such as the codebook's usage over the last assignments."""
        return {}

    def advice(self) -> str | None:
        """What the figures warn of, and what to try; ``None`` when all is well or too little was seen to tell."""
        return None


class QuantizerSettings(Part):
    """What the settings of every quantizer answer."""

    def on(self, grid: tuple[int, ...]) -> QuantizerSettings:
        """These settings for feature maps of this grid, where that makes a difference."""
        return self

    def build(self, dim: int) -> Quantizer:
        """The quantizer for vectors of width ``dim``."""
        raise NotImplementedError(f"the settings {type(self).__name__} build no quantizer")
