"""Spectral losses: distances of spectrogram magnitudes, which ignore phase, at several resolutions.

Magnitudes are of a Hann window whose squares add up to 1 (a "normalised" transform), so no window counts more for its length; a mel band
is the weighted mean of the magnitudes in it. Everything is float32, whatever the autocast.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from jielong.core.medium import ALONG_TIME, Axes
from jielong.losses.base import LossContext, ReconstructionLoss, ReconstructionSettings, check_same_shape
from jielong.media.mel import mel_filters, spectrum

FLOOR = 1e-5
"""Magnitude below which logarithms do not differ; white noise at full scale has about 1."""

Form = Literal["encodec", "soundstream", "hifi_gan"]


class SpectralLoss(ReconstructionLoss):
    """``weight`` times the mean over windows of a distance between magnitudes.

    Args:
        settings: Weight and windows; the stride is a quarter of a window.
        samples: Length ``T`` of the clips.

    Raises ``ValueError`` if a window is longer than the clips, or shorter than 4 samples.
    """

    def __init__(self, settings: SpectralSettings, samples: int) -> None:
        super().__init__(settings.weight)
        self.windows = settings.fitting(samples)
        for window in self.windows:
            if not 4 <= window <= samples:
                raise ValueError(f"a window of {window} samples does not fit clips of {samples}; list windows from 4 to {samples} samples")

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Weighted distance of sounds ``(B, C, T)`` in [-1, 1]. Raises ``ValueError`` if shapes differ, or are not those of sound."""
        check_same_shape(reconstruction, target)
        if reconstruction.ndim != 3:
            raise ValueError(f"a spectral loss compares sound (batch, channels, samples), not {tuple(reconstruction.shape)}")
        with torch.autocast(reconstruction.device.type, enabled=False):
            fake, real = reconstruction.float(), target.float()
            pairs = ((self._magnitudes(fake, window), self._magnitudes(real, window)) for window in self.windows)
            terms = [self.distance(index, x, y) for index, (x, y) in enumerate(pairs)]
            return self.weight * torch.stack(terms).mean()

    @abstractmethod
    def distance(self, index: int, fake: Tensor, real: Tensor) -> Tensor:
        """Scalar distance of magnitudes ``(B, C, bins, frames)`` at the window of this index."""

    def _magnitudes(self, sound: Tensor, window: int) -> Tensor:
        return spectrum(sound, window, window // 4) / math.sqrt(3 * window / 8)  # the squares of a Hann window add up to 3/8 of its length


class StftLoss(SpectralLoss):
    """``|Y - X|_F / |Y|_F + mean |ln Y - ln X|`` of each item's magnitudes ``X`` and its original's ``Y`` (arXiv 1910.11480, eqs. 4-6)."""

    def distance(self, index: int, fake: Tensor, real: Tensor) -> Tensor:
        """Spectral convergence and distance of logarithms."""
        size, error = (torch.linalg.vector_norm(each.flatten(1), dim=1) for each in (real, real - fake))
        return (error / size.clamp_min(FLOOR)).mean() + (real.clamp_min(FLOOR).log() - fake.clamp_min(FLOOR).log()).abs().mean()


class MelLoss(SpectralLoss):
    r"""Distance in mel bands ``S``, in one of three published forms. ``samples``: length ``T`` of the clips.

    ``encodec`` (arXiv 2210.13438, section 3.4, with the logarithm that its authors' training code has):
    ``(mean |S - S^| + alpha mean (log10 S - log10 S^)^2) / (1 + alpha)`` with ``alpha = 1``.

    ``soundstream`` (2107.03312, eqs. 4 and 5), means over frames of norms over bands:
    ``|S - S^|_1 + sqrt(s / 2) |ln S - ln S^|_2`` for a window of ``s`` samples.

    ``hifi_gan`` (2010.05646, eq. 5; Vocos, 2306.00814): ``mean |ln S - ln S^|``. Its gradient does not grow with the error.

    Bands too narrow to contain a bin of their transform are left out.

    The gradient of a logarithm is one over the magnitude: near silence, which no convolutional network reproduces exactly, outweighs
    speech. With ``quiet`` a frame of root mean square ``r`` weighs ``r / (r + quiet)`` in logarithms. (DAC's authors, 2306.06546, train on
    loud excerpts instead.)
    """

    def __init__(self, settings: Mel, samples: int, rate: int) -> None:
        super().__init__(settings, samples)
        self.form, self.floor, self.quiet = settings.form, settings.floor, settings.quiet
        for index, window in enumerate(self.windows):
            filters = mel_filters(rate, window, settings.bands) * rate / window
            self.register_buffer(f"filters{index}", filters[filters.sum(1) > 0].float(), persistent=False)

    def distance(self, index: int, fake: Tensor, real: Tensor) -> Tensor:
        """Distance of mel bands."""
        filters = self.get_buffer(f"filters{index}")
        x, y = filters @ fake, filters @ real
        logs = (x.clamp_min(self.floor) / y.clamp_min(self.floor)).log()
        if self.quiet:
            size = real.square().mean(2, keepdim=True).sqrt()
            logs = logs * (size / (size + self.quiet))
        if self.form == "hifi_gan":
            return logs.abs().mean()
        if self.form == "encodec":
            return ((x - y).abs().mean() + (logs / math.log(10)).square().mean()) / 2
        return (x - y).abs().sum(2).mean() + math.sqrt(self.windows[index] / 2) * torch.linalg.vector_norm(logs, dim=2).mean()


class SpectralSettings(ReconstructionSettings):
    """Settings of a :class:`SpectralLoss`.

    Attributes:
        windows: Samples of each window; if not given, those of the paper that fit into a clip.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    reconstructs: ClassVar[bool] = True
    windows: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)

    @property
    def published(self) -> tuple[int, ...]:
        """The paper's windows, shortest first."""
        raise NotImplementedError(f"the settings {type(self).__name__} name no windows")

    def fitting(self, samples: int) -> tuple[int, ...]:
        """The windows for clips of ``samples``. Raises ``ValueError`` if none of the paper's fits."""
        windows = self.windows or tuple(window for window in self.published if window <= samples)
        if not windows:
            raise ValueError(
                f"clips of {samples} samples are too short for the loss {self.name}, whose windows have {self.published[0]} and more: "
                "take longer clips (data.duration), or list shorter windows"
            )
        return windows


class Stft(SpectralSettings, family="loss", name="stft"):
    """Multi-resolution STFT loss (Parallel WaveGAN)."""

    @property
    def published(self) -> tuple[int, ...]:
        """Around the paper's 240, 600 and 1,200 samples at 24 kHz."""
        return (128, 256, 512, 1024, 2048)

    def build(self, context: LossContext) -> StftLoss:
        """The loss for clips of the medium's length."""
        return StftLoss(self, context.medium.frames)


class Mel(SpectralSettings, family="loss", name="mel"):
    """Multi-resolution mel loss (SoundStream, EnCodec, HiFi-GAN).

    Attributes:
        form: ``encodec``, ``soundstream`` or ``hifi_gan``, see :class:`MelLoss`.
        bands: Mel bands of each window.
        floor: Magnitude below which logarithms do not differ; white noise at full scale has about 1.
        quiet: Root mean square of a frame that weighs half; at 0 all weigh 1.
    """

    form: Form = "encodec"
    bands: PositiveInt = 64
    floor: PositiveFloat = FLOOR
    quiet: NonNegativeFloat = 0.0

    @property
    def published(self) -> tuple[int, ...]:
        """EnCodec's; SoundStream begins with 64."""
        windows = (32, 64, 128, 256, 512, 1024, 2048)
        return windows[1:] if self.form == "soundstream" else windows

    def build(self, context: LossContext) -> MelLoss:
        """The loss for clips of the medium's length and rate."""
        return MelLoss(self, context.medium.frames, context.medium.sample_rate)
