"""Interfaces of losses: reconstruction, adversarial, and on the vectors of the first codebook; and their settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.config.schedule import Start
from jielong.core.medium import ALONG_FRAMES, Axes, Medium, axes_text


class Teacher(Protocol):
    """A frozen network: audio ``(B, C, T)`` to features ``(B, M, width)``, evenly spaced over its length."""

    width: int

    def __call__(self, media: Tensor, /) -> Tensor:
        """Features without gradient."""


@dataclass(frozen=True)
class LossContext:
    """What losses are built for."""

    medium: Medium  # media that are compared
    code_dim: int | None = None  # width of the first codebook's vectors; None without a quantizer
    # Constructors of distillation teachers by name; the argument is the sample rate.
    teachers: Mapping[str, Callable[[int], Teacher]] = field(default_factory=dict)


class ReconstructionLoss(nn.Module, ABC):
    """A distance between a reconstruction and its target, times ``weight``."""

    # Output of the tokenizer that is compared: its reconstruction, or the parameters of a predicted distribution.
    reads: ClassVar[Literal["media", "likelihood"]] = "media"

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Weighted scalar in float32, with gradients to the reconstruction. Raises ``ValueError`` if the shapes do not fit."""


class CodeLoss(nn.Module, ABC):
    """A loss on the vectors of the first codebook."""

    @abstractmethod
    def forward(self, first: Tensor, media: Tensor) -> Tensor:
        """Weighted scalar of vectors ``(B, N, D)``, with gradients, and the media they encode."""


class AdversarialLoss(nn.Module, ABC):
    """Discriminators, whose weights are its parameters, against a decoder."""

    # Whether the discriminators' step uses the reconstructions of the tokenizer's step, and not new ones.
    reuse_fakes: ClassVar[bool] = False

    def __init__(self, settings: AdversarialSettings) -> None:
        super().__init__()
        self.lr_ratio, self.start_samples = settings.lr_ratio, settings.start_samples

    def active(self, samples_seen: int) -> bool:
        """Whether the warm-up is over."""
        return samples_seen >= self.start_samples

    def learns(self, samples_seen: int) -> bool:
        """Whether the discriminators learn in this step."""
        return self.active(samples_seen)

    @property
    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """Weights of :meth:`generator_losses` by name."""

    @abstractmethod
    def generator_losses(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The decoder's unweighted scalar losses by name, of ``fake`` with a gradient; the discriminators are constant."""

    def weights(self, reconstruction_loss: Tensor, losses: Mapping[str, Tensor], last_layer: nn.Parameter) -> dict[str, Tensor]:
        """Weights of this step, by name.

        Args:
            reconstruction_loss: Sum of the reconstruction losses, a scalar.
            losses: Of :meth:`generator_losses`.
            last_layer: The decoder's last weight.
        """
        return {name: reconstruction_loss.new_tensor(self.loss_weights[name]) for name in losses}

    @abstractmethod
    def discriminator_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """``total``, to minimise, and mean logits ``real`` and ``fake``, to log; no gradient reaches the decoder."""


@dataclass
class LossTerms:
    """The losses of a recipe, built."""

    reconstruction: dict[str, ReconstructionLoss] = field(default_factory=dict)  # by name
    code: dict[str, CodeLoss] = field(default_factory=dict)  # by name
    adversarial: AdversarialLoss | None = None  # at most one
    start_samples: dict[str, int] = field(default_factory=dict)  # samples seen before a reconstruction or code loss is added, by name

    @staticmethod
    def of(losses: Iterable[LossSettings], context: LossContext) -> LossTerms:
        """Build a recipe's losses.

        Raises ``ValueError`` if a loss does not fit the medium, or all reconstruction losses start later, or ``MissingLibraryError`` if a
        teacher is not installed.
        """
        terms = LossTerms()
        for loss in losses:
            loss.contribute(terms, context)
            terms.start_samples[loss.name] = loss.start_samples
        if terms.reconstruction and all(terms.start_samples[name] for name in terms.reconstruction):
            raise ValueError(f"one of the losses {', '.join(terms.reconstruction)} must start at once: set its start_samples to 0")
        return terms


class LossSettings(Part):
    """Settings of a loss.

    Attributes:
        weight: Factor of the loss in the sum of all losses.
        start_samples: Samples seen, or a share of the budget, before it is added.
    """

    reconstructs: ClassVar[bool] = False  # whether a tokenizer can learn from it alone
    of_frames: ClassVar[bool] = False  # whether a loss of pictures takes clips, too, as their frames
    weight: NonNegativeFloat = 1.0
    start_samples: Start = 0

    def contribute(self, terms: LossTerms, context: LossContext) -> None:
        """Build the loss and add it to ``terms``. Raises ``ValueError`` if it does not fit the medium."""
        raise NotImplementedError(f"the settings {type(self).__name__} contribute no loss")

    @classmethod
    def compares(cls, axes: Axes) -> bool:
        """Whether it takes media with these axes."""
        return cls.axes in (None, axes) or (cls.of_frames and axes == ALONG_FRAMES)

    def check_axes(self, medium: Medium) -> None:
        """Raise ``ValueError`` when a medium has other axes than the loss compares."""
        if not self.compares(medium.axes):
            raise ValueError(f"the loss {self.name} compares media with the axes {axes_text(self.axes or ())}, not {medium}")


class ReconstructionSettings(LossSettings):
    """Settings of a :class:`ReconstructionLoss`."""

    def build(self, context: LossContext) -> ReconstructionLoss:
        """The loss, ``loss(reconstruction, target) -> scalar``."""
        raise NotImplementedError(f"the settings {type(self).__name__} build no loss")

    def contribute(self, terms: LossTerms, context: LossContext) -> None:
        """Add a reconstruction loss."""
        self.check_axes(context.medium)
        terms.reconstruction[self.name] = self.build(context)


class AdversarialSettings(LossSettings):
    """Settings of an :class:`AdversarialLoss`.

    Attributes:
        lr_ratio: The discriminators' learning rate over the tokenizer's.
    """

    lr_ratio: PositiveFloat = 1.0

    def build(self, context: LossContext) -> AdversarialLoss:
        """The discriminators and both sides' losses."""
        raise NotImplementedError(f"the settings {type(self).__name__} build no loss")

    def contribute(self, terms: LossTerms, context: LossContext) -> None:
        """Add the adversarial phase. Raises ``ValueError`` if there is one already."""
        self.check_axes(context.medium)
        if terms.adversarial is not None:
            raise ValueError(f"a tokenizer has one adversarial loss: remove {self.name} or the other one")
        terms.adversarial = self.build(context)


def check_same_shape(reconstruction: Tensor, target: Tensor) -> None:
    """Raise ``ValueError`` unless both tensors have one shape (a silent broadcast would train on nonsense)."""
    if reconstruction.shape != target.shape:
        raise ValueError(f"reconstruction {tuple(reconstruction.shape)} and target {tuple(target.shape)} must have the same shape")
