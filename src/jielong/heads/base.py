"""The interface of heads: a head models the distribution of a token given a hidden vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.config.sampling import SamplingConfig
from jielong.core.phases import MAIN, Phased
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.networks.conditioning import Conditioning

StateCallback = Callable[[Tensor], None]
"""Receives every state ``(B, n, C)`` between noise and tokens; the last one is the tokens."""


FigureCallback = Callable[[str, Tensor], None]
"""Receives figures of a loss: a name, and a number of each item, ``(B,)``, without gradient."""


def ignore_state(_: Tensor) -> None:
    """The callback that does nothing."""


def ignore_figure(_: str, __: Tensor) -> None:
    """The callback that does nothing."""


@dataclass(frozen=True)
class Mismatch:
    """Conditions that are not those of the items, for losses that compare the two."""

    condition: Conditioning  # of B K items, K an item
    paired: Tensor  # (B, K) bool: false where there is no other condition, and this one may be the item's


@dataclass(frozen=True)
class Source:
    """The tokens of a block that is edited, for joint heads that draw in several steps (:attr:`Head.edits`)."""

    values: Tensor  # (B, n, C)
    kept: Tensor  # (B, n) bool: those that are not drawn
    strength: float = 1.0  # share of the way from noise to tokens that the others go, in (0, 1]: 1 begins at noise


@dataclass(frozen=True)
class HeadContext:
    """What a head is given beside hidden vectors."""

    null: Tensor | None = None  # hidden vectors without condition, (B, n, D), for guidance
    guidance: float = 1.0  # scale: null + guidance (conditional - null); 1 is the conditional model, 0 the unconditional one
    known_fraction: float = 0.0  # fraction of the tokens that are known, in [0, 1] (SamplingConfig.num_inference_steps_at)
    progress: float = 1.0  # fraction of the steps that are done, in [0, 1]
    coords: Tensor | None = None  # coordinates of the positions, (n, axes), on the CPU; joint heads need them
    mask: Tensor | None = None  # (B, n) bool, false at padding; None where no position is padding
    condition: Conditioning | None = None  # the condition, of B items, for joint networks that read its states
    null_condition: Conditioning | None = None  # what guidance compares it with: the null or a negative condition, of B items
    given: Tensor | None = None  # codes (B, n, K) that are fixed (V: no code) and -1 elsewhere, for heads with sequential_codebooks
    source: Source | None = None  # of a block that is edited, for heads that edit
    on_state: StateCallback = ignore_state  # called with every state of a joint head that draws in several steps
    mismatch: Mismatch | None = None  # other conditions, for heads that read them (Head.mismatches)
    on_figure: FigureCallback = ignore_figure  # called with the figures of a loss of a joint head
    phase: str = MAIN  # the phase of the training step (Head.phases)
    draws: Draws | None = None  # random numbers of a loss, a stream for each row of hidden vectors
    guidance_at: Callable[[float], float] | None = None  # of joint heads: the scale at a share of signal in [0, 1], instead of `guidance`
    rescale: float = 0.0  # of joint heads: how far the guided prediction gets back its deviation (SamplingConfig.guidance_rescale)
    weaker: Head | None = None  # the head that null is for, where it is another model's (autoguidance)
    blank: Tensor | None = None  # hidden vectors without any condition, (B, n, D), where null has the source picture and a scale of its own
    blank_condition: Conditioning | None = None  # that of blank, of B items
    image_guidance: float = 1.0  # the scale from blank to null (SamplingConfig.image_guidance)
    predicted: Tensor | None = None  # (B, n) bool: positions that a loss of a joint head is of; None for all that are no padding

    def streams(self, hidden: Tensor) -> Draws:
        """:attr:`draws`, or fresh ones for the rows of ``hidden`` ``(M, ...)``."""
        return Draws.fresh(len(hidden), hidden.device) if self.draws is None else Draws(self.draws.keys)

    @property
    def unconditional(self) -> Tensor | None:
        """:attr:`null` where it is to be used: ``None`` at guidance 1, unless it is compared with :attr:`blank` too."""
        return None if self.guidance == 1.0 and self.guidance_at is None and self.blank is None else self.null

    @property
    def conditions(self) -> Conditioning | None:
        """The condition followed by what guidance compares it with, and that of :attr:`blank`; ``None`` where one is not there."""
        if self.condition is None or self.null_condition is None:
            return None
        both = Conditioning.cat(self.condition, self.null_condition)
        return both if self.blank_condition is None else Conditioning.cat(both, self.blank_condition)

    def guided(self, hidden: Tensor) -> Tensor:
        """Hidden vectors with guidance, for heads that are linear in them (or guide them instead of predictions)."""
        null = self.unconditional
        if null is None:
            return hidden
        found = torch.lerp(null.float(), hidden.float(), self.guidance)
        return (found if self.blank is None else found + self.beyond(null.float(), self.blank.float())).to(hidden.dtype)

    def beyond(self, null: Tensor, blank: Tensor) -> Tensor:
        """What the scale of the source picture ``s_I`` adds, ``(s_I - 1) (null - blank)``.

        With the scale ``s_T`` of the text this is ``blank + s_I (null - blank) + s_T (conditional - null)`` (InstructPix2Pix, arXiv
        2211.09800, equation 3).
        """
        return (self.image_guidance - 1.0) * (null - blank)


NO_CONTEXT = HeadContext()


@dataclass(frozen=True)
class SampleOutput:
    """Sampled tokens."""

    values: Tensor  # (B, n, C): codes (long) or numbers (float)
    confidence: Tensor | None = None  # (B, n) log-probability of what was drawn; None where the head has no likelihood


class Head(nn.Module, Phased, ABC):
    """The distribution of a token given a hidden vector; with :attr:`phases` it has a loss for each :attr:`HeadContext.phase`."""

    discrete: bool
    """Whether it predicts code indices (and needs a tokenizer that has them)."""
    missing_codes_allowed: bool = False
    """Whether targets may lack codebooks: there the code is ``V`` and has no loss."""
    sequential_codebooks: bool = False
    """Whether it draws the codebooks of a position in sequence, and so reads :attr:`HeadContext.given`."""
    loss_ranks_weights: bool = True
    """Whether, of weights at two times of a training, those of the lower held-out loss are better; not if the model makes its targets."""
    edits: bool = False
    """Whether as a joint head it reads :attr:`HeadContext.source`: it begins at a noised source, and keeps tokens of it."""
    mismatches: int = 0
    """Conditions of other items that a phase of its loss reads for each item (:attr:`HeadContext.mismatch`)."""
    guides_twice: bool = False
    """Whether it reads :attr:`HeadContext.blank`, for guidance with a scale of its own for the source picture."""
    iterative: bool = False
    """Whether it evaluates a network several times per token (:attr:`SamplingConfig.num_inference_steps`)."""
    guides_inside: bool = False
    """Whether as a joint head it guides by how much of the block is known at each of its own steps (:attr:`HeadContext.guidance_at`)."""
    samplers: tuple[str, ...] = ()
    """The samplers it can draw with (:attr:`SamplingConfig.sampler`), whatever it was trained with; none where there is no choice."""

    whole: bool = False
    """Whether it draws all positions of the layout together, so that they must be one block."""

    @property
    def joint(self) -> bool:
        """Whether it draws all tokens of a block together.

        Then :meth:`loss` takes ``hidden (B, n, D)`` and ``targets (B, n, C)`` to ``(B,)``, the mean over the positions of the mask.
        """
        return False

    @property
    def relative(self) -> bool:
        """Whether it knows of places along the first axis no more than their differences, so that there may be more of them."""
        return True

    @abstractmethod
    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Loss of each selected position: hidden ``(M, D)``, targets ``(M, C)`` to ``(M,)``; see :attr:`joint`."""

    @property
    def measures(self) -> bool:
        """Whether :meth:`measure` has something to measure."""
        return False

    def measure(self, tokens: Iterable[Tokens]) -> None:
        """Measure what the head needs to know of training tokens, before training."""

    def on_train_step(self, samples_seen: int) -> None:
        """Training hook: receives the number of samples seen."""

    @property
    def bound(self) -> str:
        """Which upper bound of the negative log-likelihood :meth:`nats_a_value` is; empty where it is that itself."""
        return ""

    def advice(self, figures: Mapping[str, float]) -> str | None:
        """What is wrong, and what to try, where figures of a loss, means over many items, show it; ``None`` otherwise."""
        return None

    def nats_a_value(self, loss: float) -> float | None:
        """A mean loss as negative log-likelihood in nats per value (a code, a channel); ``None`` where it is not one."""
        return None

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-probability or log-density per token, nats: ``(..., D)``, ``(..., C)`` to ``(...)``; of a joint head per block, ``(B,)``.

        Raises ``ValueError`` if it has none.
        """
        raise ValueError(f"the {type(self).__name__} has no likelihood; for continuous tokens take the head gaussian_mixture or tarflow")

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Refuse sampling parameters that do not apply to this head.

        Raises ``ValueError`` for numbers of steps if the head is not iterative, for a sampler that it has not, for top-k or top-p if it is
        continuous, and for rescaled guidance if it is not joint and iterative.
        """
        name = type(self).__name__
        if sampling.sampler is not None and sampling.sampler not in self.samplers:
            has = f"the samplers {', '.join(self.samplers)}" if self.samplers else "one way to draw and no choice of sampler: leave it out"
            raise ValueError(f"sampler {sampling.sampler!r}: the {name} has {has}")
        if not self.iterative and (sampling.num_inference_steps is not None or sampling.final_inference_steps is not None):
            raise ValueError(
                f"the {name} draws a token in one evaluation; num_inference_steps and final_inference_steps are for iterative heads, "
                "such as diffusion: leave them out"
            )
        if sampling.guidance_rescale and not (self.joint and self.iterative):
            raise ValueError(
                f"guidance_rescale is of the predictions of an iterative head that draws a block together, and the {name} is none: "
                "leave it out, or lower the guidance"
            )
        if not self.discrete and (sampling.top_k or sampling.top_p < 1):
            raise ValueError(
                f"the {name} draws numbers, not codes, so top_k and top_p do not apply: leave them out, or lower the temperature"
            )

    def check_weaker(self, other: Head) -> None:
        """Raise ``ValueError`` if predictions of ``other``, a weaker model's head, cannot take the place of the unconditional ones."""
        raise ValueError(f"autoguidance is for iterative heads that draw all tokens together, and the {type(self).__name__} is none")

    @abstractmethod
    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens at hidden vectors ``(B, n, D)``."""

    def soft_codes(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Random weights over all codes instead of a code, ``(B, n, K, V)``. Raises ``ValueError`` if the head has no codes."""
        raise ValueError(f"the {type(self).__name__} has no codes to mix; soft_codes needs a softmax head")


class HeadSettings(Part):
    """Settings of a head."""

    gives_confidence: ClassVar[bool] = True
    """Whether its draws have a :attr:`SampleOutput.confidence`, which some orders need."""

    @abstractmethod
    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> Head:
        """The head for tokens of ``layout`` and hidden vectors of ``width``. Raises ``ValueError`` if the settings do not fit it.

        ``condition_width``: channels of the condition's states; ``None`` without a condition.
        """
