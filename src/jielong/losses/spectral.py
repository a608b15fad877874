"""Spectral losses: sounds are alike when they have the same power at the same time and pitch, whatever the waves' phases.

A sound shifted by a single sample is another waveform in every number, and the same to every listener. Spectra of short windows hardly
change. Short windows tell when something sounds, long ones at which pitch, so several are compared.

Magnitudes are those of a Hann window whose squares add up to 1 (a "normalised" transform), so no window counts more for its length; a mel
band is the weighted mean of the magnitudes in it. Everything is float32, whatever the autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from jielong.core.medium import ALONG_TIME, Axes
from jielong.losses.base import LossSettings
from jielong.losses.regression import same_shape
from jielong.media.mel import mel_filters, spectrum

FLOOR = 1e-5
"""Magnitude below which silences are alike; white noise at full scale has about 1."""

Form = Literal["encodec", "soundstream", "hifi_gan"]


class SpectralLoss(nn.Module):
    """A mean over windows of a distance between magnitudes, ``weight`` times.

    Args:
        windows: Samples of each; one moves on by a quarter of itself.
        weight: Its share of the objective.
        samples: Length ``T`` of the clips.

    Raises:
        ValueError: if a window is longer than the clips, or shorter than 4 samples.
    """

    def __init__(self, windows: Sequence[int], weight: float, samples: int) -> None:
        super().__init__()
        for window in windows:
            if not 4 <= window <= samples:
                raise ValueError(f"a window of {window} samples does not fit clips of {samples}; list windows from 4 to {samples} samples")
        self.windows, self.weight = tuple(windows), weight

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Weighted scalar distance of sounds ``(B, C, T)`` in [-1, 1].

        Raises:
            ValueError: if the shapes differ, or are not those of sound.
        """
        same_shape(reconstruction, target)
        if reconstruction.ndim != 3:
            raise ValueError(f"a spectral loss compares sound (batch, channels, samples), not {tuple(reconstruction.shape)}")
        with torch.autocast(reconstruction.device.type, enabled=False):
            made, real = reconstruction.float(), target.float()
            pairs = ((self._magnitudes(made, window), self._magnitudes(real, window)) for window in self.windows)
            terms = [self.distance(index, x, y) for index, (x, y) in enumerate(pairs)]
            return self.weight * torch.stack(terms).mean()

    def distance(self, index: int, made: Tensor, real: Tensor) -> Tensor:
        """Scalar distance of magnitudes ``(B, C, bins, frames)`` at the window of this index."""
        raise NotImplementedError

    def _magnitudes(self, sound: Tensor, window: int) -> Tensor:
        return spectrum(sound, window, window // 4) / math.sqrt(3 * window / 8)  # the squares of a Hann window add up to 3/8 of its length


class StftLoss(SpectralLoss):
    """``|Y - X|_F / |Y|_F + mean |ln Y - ln X|`` of magnitudes ``X`` of the reconstruction and ``Y`` (arXiv 1910.11480, eqs. 4 to 6)."""

    def distance(self, index: int, made: Tensor, real: Tensor) -> Tensor:
        """Spectral convergence and distance of logarithms."""
        converged = torch.linalg.vector_norm(real - made) / torch.linalg.vector_norm(real).clamp_min(FLOOR)
        return converged + (real.clamp_min(FLOOR).log() - made.clamp_min(FLOOR).log()).abs().mean()


class MelLoss(SpectralLoss):
    r"""Distance in mel bands ``S``, in one of three published forms.

    ``encodec`` (arXiv 2210.13438, section 3.4, with the logarithm that its authors' training code has):
    ``(mean |S - S^| + alpha mean (log10 S - log10 S^)^2) / (1 + alpha)`` with ``alpha = 1``.

    ``soundstream`` (2107.03312, eqs. 4 and 5), means over frames of norms over bands:
    ``|S - S^|_1 + sqrt(s / 2) |ln S - ln S^|_2`` for a window of ``s`` samples.

    ``hifi_gan`` (2010.05646, eq. 5; Vocos, 2306.00814): ``mean |ln S - ln S^|``. Whatever is wrong pulls alike, by however much.

    Bands too narrow to hold a bin of their transform are left out.

    A logarithm's slope is one over the magnitude, so that near silence, which no network of convolutions meets exactly, pulls far harder
    than the speech beside it. With ``quiet`` a frame of root mean square ``r`` weighs ``r / (r + quiet)`` in logarithms. (DAC's authors,
    2306.06546, train on clips that were chosen for being loud.)

    Args:
        windows: Samples of each.
        weight: Its share of the objective.
        samples: Length ``T`` of the clips.
        rate: Their samples a second.
        bands: Mel bands.
        form: See above.
        floor: Magnitude below which silences are alike.
        quiet: Root mean square of a frame that weighs half; at 0 all weigh 1.
    """

    def __init__(
        self,
        windows: Sequence[int],
        weight: float,
        samples: int,
        rate: int,
        bands: int = 64,
        form: Form = "encodec",
        floor: float = FLOOR,
        quiet: float = 0.0,
    ) -> None:
        super().__init__(windows, weight, samples)
        self.form, self.floor, self.quiet = form, floor, quiet
        for index, window in enumerate(windows):
            filters = mel_filters(rate, window, bands) * rate / window
            self.register_buffer(f"filters{index}", filters[filters.sum(1) > 0].float(), persistent=False)

    def distance(self, index: int, made: Tensor, real: Tensor) -> Tensor:
        """Of the bands of both."""
        filters = self.get_buffer(f"filters{index}")
        x, y = filters @ made, filters @ real
        logs = (x.clamp_min(self.floor) / y.clamp_min(self.floor)).log()
        if self.quiet:
            size = real.square().mean(2, keepdim=True).sqrt()
            logs = logs * (size / (size + self.quiet))
        if self.form == "hifi_gan":
            return logs.abs().mean()
        if self.form == "encodec":
            return ((x - y).abs().mean() + (logs / math.log(10)).square().mean()) / 2
        return (x - y).abs().sum(2).mean() + math.sqrt(self.windows[index] / 2) * torch.linalg.vector_norm(logs, dim=2).mean()


class SpectralSettings(LossSettings):
    """What both settings share.

    Attributes:
        weight: Its share of the objective.
        windows: Samples of each window. If not given, those of the paper that fit into a clip.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    reconstructs: ClassVar[bool] = True
    weight: NonNegativeFloat = 1.0
    windows: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)

    @property
    def published(self) -> tuple[int, ...]:
        """The paper's windows, shortest first."""
        raise NotImplementedError(f"the settings {type(self).__name__} name no windows")

    def fitting(self, samples: int) -> tuple[int, ...]:
        """The windows for clips of so many samples.

        Raises:
            ValueError: if none of the paper's fits.
        """
        windows = self.windows or tuple(window for window in self.published if window <= samples)
        if not windows:
            raise ValueError(
                f"clips of {samples} samples are too short for the loss {self.name}, whose windows have {self.published[0]} and more: "
                "take longer clips (data.seconds), or list shorter windows"
            )
        return windows

    def build(self, *, samples: int, rate: int) -> SpectralLoss:
        """The loss for clips of so many samples at so many a second, ``loss(reconstruction, target) -> scalar``.

        Raises:
            ValueError: if a window is longer than the clips.
        """
        raise NotImplementedError(f"the settings {type(self).__name__} build no loss")


class Stft(SpectralSettings, family="loss", name="stft"):
    """Distance of the magnitudes of short-time spectra at several resolutions (Parallel WaveGAN)."""

    @property
    def published(self) -> tuple[int, ...]:
        """Around the paper's 240, 600 and 1,200 samples at 24 kHz."""
        return (128, 256, 512, 1024, 2048)

    def build(self, *, samples: int, rate: int) -> StftLoss:
        """The loss, see :meth:`SpectralSettings.build`."""
        return StftLoss(self.fitting(samples), self.weight, samples)


class Mel(SpectralSettings, family="loss", name="mel"):
    """Distance in mel bands at several resolutions (SoundStream, EnCodec, HiFi-GAN).

    Attributes:
        form: ``encodec``, ``soundstream`` or ``hifi_gan``, see :class:`MelLoss`.
        bands: Mel bands.
        floor: Magnitude below which silences are alike; white noise at full scale has about 1.
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

    def build(self, *, samples: int, rate: int) -> MelLoss:
        """The loss, see :meth:`SpectralSettings.build`."""
        return MelLoss(self.fitting(samples), self.weight, samples, rate, self.bands, self.form, self.floor, self.quiet)
