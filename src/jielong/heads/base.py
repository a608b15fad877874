"""What a head is: from a hidden vector to a distribution over the token that stands there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.core.phases import MAIN, Phased
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout

StateCallback = Callable[[Tensor], None]
"""Receives every state ``(B, n, C)`` between noise and tokens; the last one is the tokens."""


def ignore_state(_: Tensor) -> None:
    """The callback that does nothing."""


@dataclass(frozen=True)
class HeadContext:
    """What a head is given beside hidden vectors.

    Attributes:
        null: Hidden vectors without condition, ``(B, n, D)``, for guidance.
        guidance: Scale: ``null + guidance (conditional - null)``; 1 is the conditional model, 0 the unconditional one.
        known_fraction: Fraction of the tokens that are known, in [0, 1] (:meth:`SamplingConfig.num_inference_steps_at`).
        progress: Fraction of the steps that are done, in [0, 1].
        coords: Coordinates of the positions, ``(n, axes)``, on the CPU; joint heads need them.
        mask: ``(B, n)`` bool, false at padding; ``None`` where no position is padding.
        given: Codes ``(B, n, K)`` that are fixed (``V``: no code) and -1 elsewhere, for heads with ``sequential_codebooks``.
        on_state: Called with every state of a joint head that draws in several steps.
        phase: The phase of the training step (:attr:`Head.phases`).
    """

    null: Tensor | None = None
    guidance: float = 1.0
    known_fraction: float = 0.0
    progress: float = 1.0
    coords: Tensor | None = None
    mask: Tensor | None = None
    given: Tensor | None = None
    on_state: StateCallback = ignore_state
    phase: str = MAIN

    @property
    def unconditional(self) -> Tensor | None:
        """:attr:`null` where it is to be used: ``None`` at guidance 1."""
        return None if self.guidance == 1.0 else self.null

    def guided(self, hidden: Tensor) -> Tensor:
        """Hidden vectors with guidance, for heads that are linear in them (or guide them instead of predictions)."""
        null = self.unconditional
        return hidden if null is None else torch.lerp(null.float(), hidden.float(), self.guidance).to(hidden.dtype)


NO_CONTEXT = HeadContext()


@dataclass(frozen=True)
class SampleOutput:
    """Sampled tokens.

    Attributes:
        values: ``(B, n, C)``: codes (long) or numbers (float).
        confidence: ``(B, n)`` log-probability of what was drawn; ``None`` where the head has no likelihood.
    """

    values: Tensor
    confidence: Tensor | None = None


@dataclass(frozen=True)
class SamplingConfig:
    """How boldly to draw.

    Attributes:
        temperature: Divides the logits; 1 is the model's own distribution, 0 the most likely code. Heads of continuous tokens have their
            own notions of it (``docs/heads.md``), in which 1 is the model's own distribution too.
        top_k: Keep the k most likely codes; 0 keeps all.
        top_p: Keep the smallest set of codes whose probability reaches p; 1 keeps all.
        num_inference_steps: Evaluations of a head that draws in several (diffusion, flow matching); ``None`` is the head's own number.
        final_inference_steps: Their number at the last token, interpolated linearly with the fraction of known tokens (DiSA, arXiv
            2505.20297); ``None`` keeps the number constant.

    Raises:
        ValueError: for a number out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_inference_steps: int | None = None
    final_inference_steps: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:  # NaN too
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all codes) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        for name, number in (("num_inference_steps", self.num_inference_steps), ("final_inference_steps", self.final_inference_steps)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be 1 or more, not {number}")

    def num_inference_steps_at(self, progress: float, own: int) -> int:
        """Evaluations of an iterative head when a share ``progress`` in [0, 1] of the tokens is known; ``own`` is the head's number."""
        early = self.num_inference_steps or own
        late = self.final_inference_steps or early
        return max(1, round(early + (late - early) * progress))


class Head(nn.Module, Phased, ABC):
    """Learns and samples the distribution of a token given a hidden vector.

    A head with :attr:`phases` computes the loss of each: its name is in :attr:`HeadContext.phase`.
    """

    discrete: bool
    """Whether it predicts code indices (and needs a tokenizer that has them)."""
    missing_codes_allowed: bool = False
    """Whether it can leave out codebooks of a position: where a target is ``V``, there is nothing to predict."""
    sequential_codebooks: bool = False
    """Whether it draws the codebooks of a position one after the other, and so reads :attr:`HeadContext.given`."""
    iterative: bool = False
    """Whether it draws a token in several evaluations of a network, whose number can be asked for."""

    @property
    def joint(self) -> bool:
        """Whether it draws all tokens of a block together.

        Then :meth:`loss` takes ``hidden (B, n, D)`` and ``targets (B, n, C)`` to ``(B,)``, the mean over the positions of the mask.
        """
        return False

    @abstractmethod
    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Loss of each selected position: hidden ``(M, D)``, targets ``(M, C)`` to ``(M,)``; see :attr:`joint`."""

    def on_train_step(self, samples_seen: int) -> None:
        """Training hook: receives the number of samples seen."""

    def nats_a_value(self, loss: float) -> float | None:
        """A mean loss as negative log-likelihood in nats a value (a code, a colour); ``None`` where the loss is something else."""
        return None

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-probability of codes, or log-density of numbers, in nats a token: hidden ``(..., D)``, values ``(..., C)`` to ``(...)``.

        Raises:
            ValueError: if the head can draw a token, but not say how likely one is.
        """
        raise ValueError(
            f"the {type(self).__name__} draws tokens but cannot say how likely one is; over continuous tokens that needs the head "
            "gaussian_mixture"
        )

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Refuse what means nothing to this head, rather than pass it over.

        Raises:
            ValueError: if evaluations are asked of a head that has no steps, or top-k or top-p of one that has no codes.
        """
        name = type(self).__name__
        if not self.iterative and (sampling.num_inference_steps is not None or sampling.final_inference_steps is not None):
            raise ValueError(
                f"the {name} draws a token in one evaluation; num_inference_steps and final_inference_steps are for heads that take "
                "several, such as diffusion: leave them out"
            )
        if not self.discrete and (sampling.top_k or sampling.top_p < 1):
            raise ValueError(
                f"the {name} draws numbers, not codes, so top_k and top_p have nothing to choose from: leave them out; what sharpens its "
                "draws is temperature"
            )

    @abstractmethod
    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens at hidden vectors ``(B, n, D)``."""

    def mixture(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Random weights over all codes instead of a code, ``(B, n, K, V)``, for soft codes.

        Raises:
            ValueError: if the head has no codes.
        """
        raise ValueError(f"the {type(self).__name__} has no codes to mix; smooth sampling needs a softmax head")


class HeadSettings(Part):
    """Settings of a head."""

    @abstractmethod
    def build(self, width: int, layout: Layout) -> Head:
        """The head that predicts tokens of ``layout`` from hidden vectors of ``width`` channels.

        Raises:
            ValueError: if the settings do not fit the layout.
        """
