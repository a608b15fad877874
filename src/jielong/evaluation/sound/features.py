"""What a Fréchet distance of sounds looks at: Whisper's encoder, which also hears what is no speech, or statistics of mel bands.

Whisper was trained on speech among all the noises of the world and tells them apart: a layer on its encoder tags sounds nearly as well as
networks made for it (Whisper-AT, arXiv 2307.03183). So one extractor serves speech and sounds, and it is installed for word errors anyway.
Mel statistics need nothing, and no loss of a tokenizer that was taught by Whisper has seen them.
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
    """Sounds to vectors."""

    details: JSON

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Tensor:
        """Clips ``(T,)`` or ``(C, T)`` in [-1, 1] to ``(n, D)`` float32."""
        ...


class WhisperFeatures:
    """The last states of Whisper base's encoder, averaged over a clip, ``(n, 512)``.

    Raises:
        MissingError: if the packages are not installed.
    """

    def __init__(self) -> None:
        if not installed():
            raise missing("Whisper, in whose features sounds are compared,", "speech")
        self._encoder = WhisperTeacher(RATE)
        self.details: JSON = {
            "features": "Whisper base, the encoder's last states, int8, mean over time, 512",
            "weights_sha256": (assembled() / "sha256").read_text(),
        }

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Tensor:
        """Clips to vectors, each heard as long as it is."""
        return torch.stack([self._encoder(at_rate(clip, rate, RATE)[None, None])[0].mean(0) for clip in mono(clips)])


class MelStatistics:
    """Of each of 40 mel bands' log power the mean, the spread, and how fast it moves, ``(n, 120)``, at the clips' own rate."""

    bands: ClassVar[int] = 40

    def __init__(self) -> None:
        self.details: JSON = {"features": f"log power in {self.bands} mel bands (32 ms, hop 8 ms): mean, deviation, mean absolute change"}

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Tensor:
        """Clips to vectors; one too short for two frames is filled with silence."""
        window = round(0.032 * rate / 4) * 4
        heard = [F.pad(clip, (0, max(0, 2 * window - len(clip)))).double() for clip in mono(clips)]
        levels = [mel_spectrum(clip * (4 / window), rate, window, window // 4, self.bands) for clip in heard]
        return torch.stack([statistics(each) for each in levels]).float()


def statistics(power: Tensor) -> Tensor:
    """Of mel power ``(..., bands, frames)`` the mean, the deviation and the mean absolute change of its logarithm, ``(..., 3 bands)``."""
    levels = power.clamp_min(1e-7).log()
    return torch.cat([levels.mean(-1), levels.std(-1), levels.diff(dim=-1).abs().mean(-1)], dim=-1)


@dataclass(frozen=True)
class Space:
    """Features in deviations from what is usual in a set.

    Attributes:
        extractor: What makes them.
        centre: Mean of each feature over the set, ``(D,)``.
        spread: Its deviation.
        known: The set's own features, in these units, ``(m, D)``.
    """

    extractor: Extractor
    centre: Tensor
    spread: Tensor
    known: Tensor

    @staticmethod
    def of(extractor: Extractor, clips: Sequence[Tensor], rate: int) -> Space:
        """The space of a set's clips.

        Raises:
            ValueError: if there are fewer than two.
        """
        if len(clips) < 2:
            raise ValueError(f"features are compared in deviations over a set, which needs two clips at least, not {len(clips)}")
        rows = extractor(clips, rate)
        centre, spread = rows.mean(0), rows.std(0).clamp_min(1e-3)
        return Space(extractor, centre, spread, (rows - centre) / spread)

    def __call__(self, clips: Sequence[Tensor], rate: int) -> Tensor:
        """Clips to ``(n, D)``."""
        return (self.extractor(clips, rate) - self.centre) / self.spread
