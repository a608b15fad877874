"""Adversarial loss of audio with several discriminators (SoundStream, arXiv 2107.03312; EnCodec, 2210.13438).

Losses are averaged over discriminators of different views of one sound. Feature matching compares their hidden layers on both sounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, SerializeAsAny
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from jielong.config.registry import OfFamily, Part
from jielong.core.medium import ALONG_TIME, Axes
from jielong.losses.base import AdversarialLoss, AdversarialSettings, LossContext, check_same_shape
from jielong.networks.waveform_discriminators import (
    Discriminator,
    DiscriminatorOutput,
    PeriodDiscriminator,
    SpectrumDiscriminator,
    WaveDiscriminator,
)


class DiscriminatorSettings(Part):
    """Settings of one kind of discriminator."""

    axes: ClassVar[Axes | None] = ALONG_TIME

    def build(self, channels: int, samples: int) -> list[Discriminator]:
        """The discriminators for audio ``(B, channels, samples)``. Raises ``ValueError`` if the clips are too short."""
        raise NotImplementedError(f"the settings {type(self).__name__} build no discriminator")


class StftDiscriminators(DiscriminatorSettings, family="discriminator", name="stft"):
    """Discriminators of complex spectra, one per window (EnCodec).

    Attributes:
        windows: Samples of each; if not given, those of 2048, 1024, 512, 256 and 128 that fit into a clip.
        channels: Channels of a layer.
    """

    windows: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    channels: PositiveInt = 32

    def build(self, channels: int, samples: int) -> list[Discriminator]:
        """One per window."""
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
        """One per period."""
        if max(self.periods) >= samples:
            raise ValueError(f"a period of {max(self.periods)} samples needs clips that are longer, not of {samples}")
        return [PeriodDiscriminator(channels, self.channels, period) for period in self.periods]


class WaveDiscriminators(DiscriminatorSettings, family="discriminator", name="wave"):
    """Discriminators of the waveform at several rates (SoundStream).

    Attributes:
        scales: Factor by which each lowers the rate.
        channels: Width of the first layer.
    """

    scales: tuple[PositiveInt, ...] = Field(default=(1, 2, 4), min_length=1)
    channels: PositiveInt = 16

    def build(self, channels: int, samples: int) -> list[Discriminator]:
        """One per scale."""
        if samples < 16 * max(self.scales):
            least = 16 * max(self.scales)
            raise ValueError(f"a discriminator at a {max(self.scales)}th of the rate needs clips of {least} samples, not {samples}")
        return [WaveDiscriminator(channels, self.channels, scale) for scale in self.scales]


def hinge_discriminator_loss(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """``mean_k [ E relu(1 - D_k(x)) + E relu(1 + D_k(x^)) ]``; 2 at logits of 0."""
    terms = [F.relu(1 - x.logits).mean() + F.relu(1 + y.logits).mean() for x, y in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def hinge_generator_loss(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """``mean_k E relu(1 - D_k(x^))``; 1 at logits of 0, 0 when all discriminators take fakes for real."""
    return torch.stack([F.relu(1 - y.logits).mean() for y in fake]).mean()


def feature_matching_loss(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Relative distance of features, ``mean_(k, l) E_x [|D_k^l(x) - D_k^l(x^)|_1 / |D_k^l(x)|_1]``, item by item."""
    pairs = [(a.detach(), b) for x, y in zip(real, fake, strict=True) for a, b in zip(x.features, y.features, strict=True)]
    ratios = [(a - b).abs().flatten(1).mean(1) / a.abs().flatten(1).mean(1).clamp_min(1e-8) for a, b in pairs]
    return torch.stack([each.mean() for each in ratios]).mean()


class SoundAdversarialLoss(AdversarialLoss):
    """Discriminators of audio and both sides' losses, in float32."""

    reuse_fakes = True

    def __init__(self, settings: SoundAdversarial, channels: int, samples: int) -> None:
        super().__init__(settings)
        self.settings = settings
        self.discriminators = nn.ModuleList(each for kind in settings.discriminators for each in kind.build(channels, samples))

    def learns(self, samples_seen: int) -> bool:
        """Whether the discriminators learn in this step: with probability ``updates``, equal on every process and in every run."""
        drawn = torch.rand((), generator=torch.Generator().manual_seed(samples_seen))
        return self.active(samples_seen) and float(drawn) < self.settings.updates

    def judge(self, sound: Tensor, constant: bool = False) -> list[DiscriminatorOutput]:
        """Outputs of all discriminators on ``(B, C, T)``. ``constant``: let no gradient reach the discriminators' weights."""
        with torch.autocast(sound.device.type, enabled=False):
            if not constant:
                return [each(sound.float()) for each in self.discriminators]
            weights = [{name: weight.detach() for name, weight in each.named_parameters()} for each in self.discriminators]
            return [functional_call(each, held, (sound.float(),)) for each, held in zip(self.discriminators, weights, strict=True)]

    def generator_losses(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Unweighted ``adversarial`` and ``features`` of reconstructions ``(B, C, T)``."""
        check_same_shape(fake, real)
        with torch.no_grad():
            targets = self.judge(real) if self.settings.features else []
        outputs = self.judge(fake, constant=True)
        losses = {"adversarial": hinge_generator_loss(outputs)}
        return losses | {"features": feature_matching_loss(targets, outputs)} if targets else losses

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of ``adversarial`` and ``features``."""
        return {"adversarial": self.settings.weight, "features": self.settings.features}

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """``total``, to minimise, and the mean logits ``real`` and ``fake`` (detached), to log; both inputs are ``(B, C, T)``."""
        check_same_shape(fake, real)
        outputs_real, outputs_fake = self.judge(real.detach()), self.judge(fake.detach())
        means = [torch.stack([each.logits.detach().mean() for each in outputs]).mean() for outputs in (outputs_real, outputs_fake)]
        return {"total": hinge_discriminator_loss(outputs_real, outputs_fake), "real": means[0], "fake": means[1]}


class SoundAdversarial(AdversarialSettings, family="loss", name="adversarial_sound"):
    """Settings of the adversarial loss of audio.

    Attributes:
        weight: Of the hinge loss.
        features: Weight of feature matching; 0 leaves it out.
        updates: Probability that the discriminators learn in a step; 2/3 in EnCodec. Lower values slow them down and cost less.
        discriminators: The discriminators, each with its own settings.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    weight: NonNegativeFloat = 3.0
    features: NonNegativeFloat = 3.0
    updates: float = Field(default=2 / 3, gt=0, le=1)
    discriminators: Annotated[tuple[SerializeAsAny[DiscriminatorSettings], ...], OfFamily("discriminator", many=True)] = Field(
        default=(StftDiscriminators(),), min_length=1
    )

    def build(self, context: LossContext) -> SoundAdversarialLoss:
        """The loss for clips of the medium's length. Raises ``ValueError`` if they are too short for a discriminator."""
        return SoundAdversarialLoss(self, context.medium.channels, context.medium.frames)
