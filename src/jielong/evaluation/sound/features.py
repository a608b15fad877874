"""Features for Fréchet distances of audio: Whisper's encoder, or statistics of mel bands.

Whisper's encoder also represents other sounds than speech: one layer on top of it tags audio events nearly as well as dedicated networks
(Whisper-AT, arXiv 2307.03183). So one extractor serves speech and other sounds, and word error rates need it anyway. Mel statistics need no
package, and are independent of a tokenizer that was distilled from Whisper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.core.json import JSON
from jielong.data.whisper import assembled, installed
from jielong.evaluation.sound.protocol import at_rate, missing, mono
from jielong.media.mel import mel_spectrum
from jielong.training.distill_teacher import RATE, WhisperTeacher


class Extractor(Protocol):
    """Features of clips."""

    details: JSON

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Tensor:
        """Features ``(n, D)`` float32 of clips ``(T,)`` or ``(C, T)`` in [-1, 1]."""
        ...


class WhisperFeatures:
    """Last hidden states of Whisper base's encoder, averaged over time, ``(n, 512)``.

    Raises:
        MissingError: if the packages are not installed.
    """

    def __init__(self) -> None:
        if not installed():
            raise missing("Whisper, whose features compare clips,", "speech")
        self._encoder = WhisperTeacher(RATE)
        self.details: JSON = {
            "features": "Whisper base, the encoder's last states, int8, mean over time, 512",
            "weights_sha256": (assembled() / "sha256").read_text(),
        }

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Tensor:
        """Features of clips of any lengths, without padding."""
        return torch.stack([self._encoder(at_rate(clip, rate, RATE)[None, None])[0].mean(0) for clip in mono(clips)])


class MelStatistics:
    """Mean, deviation and mean absolute change of log power in 40 mel bands, ``(n, 120)``, at the sample rate of the clips."""

    bands: ClassVar[int] = 40

    def __init__(self) -> None:
        self.details: JSON = {"features": f"log power in {self.bands} mel bands (32 ms, hop 8 ms): mean, deviation, mean absolute change"}

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Tensor:
        """Features of clips; those shorter than two frames are padded with silence."""
        window = round(0.032 * rate / 4) * 4
        padded = [F.pad(clip, (0, max(0, 2 * window - len(clip)))).double() for clip in mono(clips)]
        levels = [mel_spectrum(clip * (4 / window), rate, window, window // 4, self.bands) for clip in padded]
        return torch.stack([statistics(each) for each in levels]).float()


def statistics(power: Tensor) -> Tensor:
    """Mean, deviation and mean absolute change over time of log mel power ``(..., bands, frames)``, ``(..., 3 bands)``."""
    levels = power.clamp_min(1e-7).log()
    return torch.cat([levels.mean(-1), levels.std(-1), levels.diff(dim=-1).abs().mean(-1)], dim=-1)


@dataclass(frozen=True)
class Space:
    """Features standardised by mean and deviation over a reference set.

    Attributes:
        extractor: Computes the features.
        centre: Mean of each feature over the set, ``(D,)``.
        spread: Deviation of each feature, ``(D,)``.
        known: Standardised features of the set, ``(m, D)``.
    """

    extractor: Extractor
    centre: Tensor
    spread: Tensor
    known: Tensor

    @staticmethod
    def of(extractor: Extractor, clips: Sequence[Tensor], rate: int) -> Space:
        """The space of reference clips.

        Raises:
            ValueError: with fewer than two clips.
        """
        return Space.fitted(extractor, extractor(clips, rate))

    @staticmethod
    def fitted(extractor: Extractor, rows: Tensor) -> Space:
        """The space of reference features ``(m, D)``.

        Raises:
            ValueError: with fewer than two clips.
        """
        if len(rows) < 2:
            raise ValueError(f"features are standardised over a reference set, which needs at least two clips, not {len(rows)}")
        centre, spread = rows.mean(0), rows.std(0).clamp_min(1e-3)
        return Space(extractor, centre, spread, (rows - centre) / spread)

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Tensor:
        """Standardised features ``(n, D)`` of clips."""
        return self.standardised(self.extractor(clips, rate))

    def standardised(self, rows: Tensor) -> Tensor:
        """Features ``(n, D)`` of the extractor, standardised."""
        return (rows - self.centre) / self.spread
