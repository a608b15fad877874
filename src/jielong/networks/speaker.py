"""The frozen speaker encoder of the package Resemblyzer (GE2E, arXiv 1710.10467).

Three LSTM layers over mel bands of 1.6 s; their last state, through a linear layer, a ReLU and normalisation, is the embedding. Longer
recordings are averaged over overlapping windows. Only the package's weights are used, no code of it, and silences are not removed
(Resemblyzer does that with a compiled detector).
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.media.mel import mel_spectrum
from jielong.networks.efficientnet import WeightsError

RATE = 16_000
WIDTH = 256
SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
_WINDOW, _HOP, _BANDS = 400, 160, 40
_FRAMES, _STEP = 160, 77  # of a window, and from one to the next: 1.3 windows per second
_COVERED = 0.75  # a last window that is filled less than this is left out
_LOUDNESS = -30.0  # dB of full scale; quieter recordings are amplified


class SpeakerEncoder(nn.Module):
    """Recordings to unit vectors ``(256,)``, whose cosine is about 0.9 for one speaker and 0.5 to 0.7 for two.

    Args:
        path: Weights file; that of the installed package by default.

    Raises ``WeightsError`` if there is none, or it is not the published one.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_BANDS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.load_state_dict(read_weights(path))
        self.eval().requires_grad_(False)

    def forward(self, mels: Tensor) -> Tensor:
        """Windows ``(B, frames, 40)`` of mel power to unit vectors ``(B, 256)``."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)

    def embed(self, waveform: Tensor) -> Tensor:
        """A recording ``(T,)`` at 16,000 Hz to its embedding, ``(256,)`` on the CPU; see :meth:`embed_all`."""
        return self.embed_all([waveform])[0]

    @torch.no_grad()
    def embed_all(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Recordings ``(T,)`` at 16,000 Hz to embeddings ``(B, 256)`` on the CPU. Raises ``ValueError`` if one is silent or not finite."""
        windows = [self._windows(waveform) for waveform in waveforms]
        device = self.linear.weight.device
        with torch.autocast(device.type, enabled=False):
            embeddings = self(torch.cat(windows)).split([len(each) for each in windows])
        return F.normalize(torch.stack([each.mean(0) for each in embeddings]), dim=1).cpu()

    def _windows(self, waveform: Tensor) -> Tensor:
        """Mel power ``(windows, frames, 40)`` of a recording, amplified if it is quiet."""
        if waveform.ndim != 1 or not waveform.numel() or not torch.isfinite(waveform).all():
            raise ValueError(f"a recording of a voice is (T,) finite samples, not {tuple(waveform.shape)}")
        loudness = waveform.float().square().mean()
        if loudness < 1e-10:
            raise ValueError("a silent recording has no voice: give another one")
        device = self.linear.weight.device
        gain = max(1.0, 10 ** (_LOUDNESS / 20) / math.sqrt(float(loudness)))
        starts = window_starts(len(waveform))
        padded = F.pad(waveform.float().to(device) * gain, (0, max(0, (starts[-1] + _FRAMES) * _HOP - len(waveform))))
        mels = mel_spectrum(padded, RATE, _WINDOW, _HOP, _BANDS).T  # (frames, 40)
        return torch.stack([mels[start : start + _FRAMES] for start in starts])


def window_starts(samples: int) -> list[int]:
    """First frames of the windows of a recording with this number of samples."""
    frames = math.ceil((samples + 1) / _HOP)
    starts = list(range(0, max(1, frames - _FRAMES + _STEP + 1), _STEP))
    covered = (samples - starts[-1] * _HOP) / (_FRAMES * _HOP)
    return starts[:-1] if len(starts) > 1 and covered < _COVERED else starts


def weights_path() -> Path:
    """The weights file of the installed package. Raises ``WeightsError`` if it is not installed."""
    spec = importlib.util.find_spec("resemblyzer")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / "pretrained.pt").is_file():
            return path
    raise WeightsError("the weights of the speaker encoder are not installed: pip install --no-deps resemblyzer")


def read_weights(path: Path | str | None = None) -> dict[str, Tensor]:
    """The published weights; nothing but tensors is unpickled. Raises ``WeightsError`` if the file is missing or another."""
    path = Path(path) if path is not None else weights_path()
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise WeightsError(
            f"{path} is not the published weights file of resemblyzer 0.1.4: pip install --no-deps --force-reinstall resemblyzer"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    return {name: value for name, value in state.items() if name.startswith(("lstm.", "linear."))}
