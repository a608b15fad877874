"""Adversarial loss of sound: alike means that several discriminators cannot tell (SoundStream, arXiv 2107.03312; EnCodec, 2210.13438).

Losses are averaged over discriminators of different views of one sound. Feature matching compares their hidden layers on both sounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SerializeAsAny
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from jielong.config.registry import OfFamily, Part
from jielong.core.medium import ALONG_TIME, Axes
from jielong.losses.adversarial import AdversarialLoss
from jielong.losses.base import LossSettings
from jielong.losses.regression import same_shape
from jielong.networks.waveform_discriminators import (
    Discriminator,
    DiscriminatorOutput,
    PeriodDiscriminator,
    SpectrumDiscriminator,
    WaveDiscriminator,
)


class DiscriminatorSettings(Part):
    """What the settings of one kind of discriminator answer."""

    def build(self, channels: int, samples: int) -> list[Discriminator]:
        """The discriminators for sound ``(B, channels, samples)``.

        Raises:
            ValueError: if the sound is too short for one.
        """
        raise NotImplementedError(f"the settings {type(self).__name__} build no discriminator")


class StftDiscriminators(DiscriminatorSettings, family="discriminator", name="stft"):
    """Discriminators of complex spectra, one a window (EnCodec).

    Attributes:
        windows: Samples of each; if not given, those of 2048, 1024, 512, 256 and 128 that fit into a clip.
        channels: Width of their layers.
    """

    windows: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    channels: PositiveInt = 32

    def build(self, channels: int, samples: int) -> list[Discriminator]:
        """One a window."""
        windows = self.windows or tuple(window for window in (2048, 1024, 512, 256, 128) if window <= samples)
        if not windows or max(windows) > samples:
            raise ValueError(f"discriminators of spectra need windows no longer than a clip of {samples} samples, not {windows or 128}")
        return [SpectrumDiscriminator(channels, self.channels, window) for window in windows]


class PeriodDiscriminators(DiscriminatorSettings, family="discriminator", name="period"):
    """Discriminators of every p-th sample (HiFi-GAN).

    Attributes:
        periods: The distances ``p``: primes, so that they overlap least.
        channels: Width of the first layer.
    """

    periods: tuple[PositiveInt, ...] = Field(default=(2, 3, 5, 7, 11), min_length=1)
    channels: PositiveInt = 32

    def build(self, channels: int, samples: int) -> list[Discriminator]:
        """One a period."""
        if max(self.periods) >= samples:
            raise ValueError(f"a period of {max(self.periods)} samples needs clips that are longer, not of {samples}")
        return [PeriodDiscriminator(channels, self.channels, period) for period in self.periods]


class WaveDiscriminators(DiscriminatorSettings, family="discriminator", name="wave"):
    """Discriminators of the waveform at several rates (SoundStream).

    Attributes:
        scales: By how much each lowers the rate.
        channels: Width of the first layer.
    """

    scales: tuple[PositiveInt, ...] = Field(default=(1, 2, 4), min_length=1)
    channels: PositiveInt = 16

    def build(self, channels: int, samples: int) -> list[Discriminator]:
        """One a scale."""
        if samples < 16 * max(self.scales):
            least = 16 * max(self.scales)
            raise ValueError(f"a discriminator at a {max(self.scales)}th of the rate needs clips of {least} samples, not {samples}")
        return [WaveDiscriminator(channels, self.channels, scale) for scale in self.scales]


def hinge_discriminator_loss(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """What discriminators minimise: ``mean_k [ E relu(1 - D_k(x)) + E relu(1 + D_k(x^)) ]``; 2 while they say nothing."""
    terms = [F.relu(1 - x.logits).mean() + F.relu(1 + y.logits).mean() for x, y in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def hinge_generator_loss(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """What the decoder minimises: ``mean_k E relu(1 - D_k(x^))``; 1 while discriminators say nothing, 0 when all are fooled."""
    return torch.stack([F.relu(1 - y.logits).mean() for y in fake]).mean()


def feature_matching_loss(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Relative distance of features: ``mean_(k, l) E |D_k^l(x) - D_k^l(x^)| / E |D_k^l(x)|``, whatever the size of a layer's numbers."""
    pairs = [(a.detach(), b) for x, y in zip(real, fake, strict=True) for a, b in zip(x.features, y.features, strict=True)]
    return torch.stack([(a - b).abs().mean() / a.abs().mean().clamp_min(1e-8) for a, b in pairs]).mean()


class SoundAdversarialLoss(AdversarialLoss):
    """Discriminators of sound, and both sides of their game. Its parameters are the discriminators'.

    Args:
        settings: See :class:`SoundAdversarial`.
        discriminators: At least one.
    """

    reuse_fakes = True

    def __init__(self, settings: SoundAdversarial, discriminators: Sequence[Discriminator]) -> None:
        super().__init__()
        self.settings, self.lr_ratio = settings, settings.lr_ratio
        self.discriminators = nn.ModuleList(discriminators)

    def active(self, samples_seen: int) -> bool:
        """Whether the warm-up is over."""
        return samples_seen >= self.settings.start_samples

    def learns(self, samples_seen: int) -> bool:
        """Whether the discriminators learn in this step: with probability ``updates``, the same on every process and in every run."""
        drawn = torch.rand((), generator=torch.Generator().manual_seed(samples_seen))
        return self.active(samples_seen) and float(drawn) < self.settings.updates

    def judge(self, sound: Tensor, constant: bool = False) -> list[DiscriminatorOutput]:
        """What all discriminators say of ``(B, C, T)``, in float32.

        Args:
            sound: Real or made.
            constant: Let no gradient reach the discriminators' weights.
        """
        with torch.autocast(sound.device.type, enabled=False):
            if not constant:
                return [discriminator(sound.float()) for discriminator in self.discriminators]
            weights = [
                {name: weight.detach() for name, weight in discriminator.named_parameters()} for discriminator in self.discriminators
            ]
            return [
                functional_call(discriminator, each, (sound.float(),))
                for discriminator, each in zip(self.discriminators, weights, strict=True)
            ]

    def generator_losses(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """``adversarial`` and ``features``, of made sound ``(B, C, T)`` and the sound it was made from; before their weights."""
        same_shape(fake, real)
        with torch.no_grad():
            meant = self.judge(real) if self.settings.features else []
        said = self.judge(fake, constant=True)
        losses = {"adversarial": hinge_generator_loss(said)}
        return losses | {"features": feature_matching_loss(meant, said)} if meant else losses

    @property
    def shares(self) -> dict[str, float]:
        """Weights of the decoder's losses."""
        return {"adversarial": self.settings.weight, "features": self.settings.features}

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The discriminators' loss: ``total``, to minimise, and their mean logits ``real`` and ``fake`` (detached), to log.

        Args:
            real: ``(B, C, T)``.
            fake: What was made of it; detached here.
        """
        same_shape(fake, real)
        said_real, said_fake = self.judge(real.detach()), self.judge(fake.detach())
        means = [torch.stack([each.logits.detach().mean() for each in said]).mean() for said in (said_real, said_fake)]
        return {"total": hinge_discriminator_loss(said_real, said_fake), "real": means[0], "fake": means[1]}


class SoundAdversarial(LossSettings, family="loss", name="adversarial_sound"):
    """Discriminators that learn beside a tokenizer of sound.

    Attributes:
        weight: Share of fooling them.
        features: Share of the distance of their features; 0 leaves it out.
        start_samples: Samples seen before the game begins.
        updates: Probability that they learn in a step; 2/3 in EnCodec. Less slows a discriminator that wins, and time.
        lr_ratio: Their learning rate over the tokenizer's.
        discriminators: Which discriminators.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    weight: NonNegativeFloat = 3.0
    features: NonNegativeFloat = 3.0
    start_samples: NonNegativeInt = 0
    updates: float = Field(default=2 / 3, gt=0, le=1)
    lr_ratio: PositiveFloat = 1.0
    discriminators: Annotated[tuple[SerializeAsAny[DiscriminatorSettings], ...], OfFamily("discriminator", many=True)] = Field(
        default=(StftDiscriminators(),), min_length=1
    )

    def build(self, *, channels: int, samples: int) -> SoundAdversarialLoss:
        """The game for sound ``(B, channels, samples)``.

        Raises:
            ValueError: if clips are too short for a discriminator.
        """
        return SoundAdversarialLoss(
            self, [discriminator for kind in self.discriminators for discriminator in kind.build(channels, samples)]
        )
