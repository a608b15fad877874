"""Interface of quantizers: vectors to code indices and back, with losses and figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Generator, Tensor, nn

from jielong.config.registry import Part
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout


@dataclass(frozen=True)
class Quantized:
    """Result of a forward pass."""

    values: Tensor  # (..., D), the codes, in the vectors' dtype; their gradient reaches the vectors through the estimator
    indices: Tensor  # (..., K), long, in [0, V)
    losses: dict[str, Tensor] = field(default_factory=dict)  # weighted scalars by name, to be added to the training loss
    # Scalars to log, such as error (mean square distance per component), usage and perplexity.
    statistics: dict[str, Tensor] = field(default_factory=dict)
    first: Tensor | None = None  # value of the first codebook alone, (..., D), with gradients as of values; None with one codebook


class Quantizer(nn.Module, ABC):
    """Replaces vectors by codes. Everything inside is float32, whatever the autocast."""

    dim: int  # width D of the vectors
    codebook_size: int  # size V of a codebook
    num_codebooks: int = 1  # indices per vector, K
    progressive: bool = False  # whether decode takes the first n <= K codebooks alone, (..., n)
    mapped: bool = False  # whether its values have passed trained weights

    @abstractmethod
    def forward(
        self,
        vectors: Tensor,
        *,
        generator: Generator | None = None,
        update: bool = True,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
    ) -> Quantized:
        """Quantize with gradients, and in training update the codes.

        Args:
            vectors: ``(..., D)``.
            generator: Draws starts, restarts and what all items share; under data parallelism the first process's counts. Seeded by the
                number of updates so far when not given.
            update: Whether training may change the state; ``False`` for a second forward within one step.
            samples_seen: Items trained on before this step, for annealing.
            rng: Draws noise and what is dropped, a stream for each item of the first axis. Drawn from ``generator`` when not given.

        Raises ``ValueError`` if the last axis is not ``D``, or ``NonFiniteVectors`` if a number is NaN or infinite, or ``RuntimeError`` if
        activation checkpointing repeats a forward that draws or counts.
        """

    @abstractmethod
    def encode(self, vectors: Tensor) -> Tensor:
        """Indices, ``(..., D) -> (..., K)``; changes nothing. Raises as :meth:`forward`."""

    @abstractmethod
    def decode(self, indices: Tensor) -> Tensor:
        """The codes at ``indices``, ``(..., K) -> (..., D)`` float32. Raises ``ValueError`` for other shapes, or one outside ``[0, V)``."""

    def embed(self, indices: Tensor) -> Tensor:
        """The vector of each position, ``(..., K) -> (..., D)``: :meth:`decode` is :meth:`assemble` of it."""
        return self.decode(indices)

    def assemble(self, vectors: Tensor, known: Tensor | None = None) -> Tensor:
        """The feature map of one vector a position, of :meth:`embed` or mixtures of them.

        Args:
            vectors: ``(B, N, D)``.
            known: ``(B, N)`` bool; positions that are not known add nothing.
        """
        return vectors if known is None else vectors * known[..., None]

    def residuals(self, vectors: Tensor) -> Tensor | None:
        """Share of the square of feature maps ``(..., D)`` left after each summand, ``(parts,)``; ``None`` without a sum."""
        return None

    def layout(self, grid: tuple[int, ...]) -> Layout:
        """Layout of the tokens of a feature map ``(B, *grid, D)``."""
        return Layout(grid, self.num_codebooks, self.codebook_size)

    def figures(self) -> dict[str, float]:
        """Numbers to log, such as the codebook's usage over recent assignments."""
        return {}

    def advice(self) -> str | None:
        """What to try when few codes are used; ``None`` when many are, or too few assignments were counted."""
        return None


class QuantizerSettings(Part):
    """Settings of a :class:`Quantizer`."""

    def on(self, grid: tuple[int, ...]) -> QuantizerSettings:
        """These settings for feature maps of this grid."""
        return self

    def build(self, dim: int) -> Quantizer:
        """The quantizer for vectors of width ``dim``."""
        raise NotImplementedError(f"the settings {type(self).__name__} build no quantizer")
