"""Whose voice it is: the frozen speaker encoder of the package Resemblyzer (GE2E, arXiv 1710.10467).

Three recurrent layers read mel bands of 1.6 s; their last state, mapped, cut at zero and normalised, is the voice. Longer recordings
are averages over overlapping pieces. Only the package's weights are used: the network is rebuilt here, silences are not cut out
(Resemblyzer does that with a compiled detector), and nothing of the package is imported.
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
_FRAMES, _STEP = 160, 77  # of a piece, and from one to the next: 1.3 pieces a second
_COVERED = 0.75  # a last piece with less sound in it than this share is left out
_LOUDNESS = -30.0  # dB of full scale: quieter recordings are made as loud


class SpeakerEncoder(nn.Module):
    """Recordings to unit vectors (256,); alike are those of one speaker (cosine about 0.9, other speakers 0.5 to 0.7).

    Args:
        path: The weights file; that of the installed package by default.

    Raises:
        WeightsError: if there is none, or it is another one.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_BANDS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.load_state_dict(read_weights(path))
        self.eval().requires_grad_(False)

    def forward(self, mels: Tensor) -> Tensor:
        """Pieces ``(B, frames, 40)`` of mel power to unit vectors ``(B, 256)``."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)

    def embed(self, waveform: Tensor) -> Tensor:
        """A recording ``(T,)`` at 16,000 Hz to its voice, ``(256,)`` on the CPU; see :meth:`embed_all`."""
        return self.embed_all([waveform])[0]

    @torch.no_grad()
    def embed_all(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Recordings ``(T,)`` at 16,000 Hz to their voices, ``(B, 256)`` on the CPU, in one pass over all of their pieces.

        Raises:
            ValueError: if one is silent, or holds numbers that are not finite.
        """
        cut = [self._pieces(waveform) for waveform in waveforms]
        device = self.linear.weight.device
        with torch.autocast(device.type, enabled=False):
            each = self(torch.cat(cut)).split([len(own) for own in cut])
        return F.normalize(torch.stack([own.mean(0) for own in each]), dim=1).cpu()

    def _pieces(self, waveform: Tensor) -> Tensor:
        """Mel power ``(pieces, frames, 40)`` of a recording, brought to its loudness."""
        if waveform.ndim != 1 or not waveform.numel() or not torch.isfinite(waveform).all():
            raise ValueError(f"a recording of a voice is (T,) finite samples, not {tuple(waveform.shape)}")
        loudness = waveform.float().square().mean()
        if loudness < 1e-10:
            raise ValueError("a silent recording has no voice in it")
        device = self.linear.weight.device
        gain = max(1.0, 10 ** (_LOUDNESS / 20) / math.sqrt(float(loudness)))
        starts = pieces(len(waveform))
        padded = F.pad(waveform.float().to(device) * gain, (0, max(0, (starts[-1] + _FRAMES) * _HOP - len(waveform))))
        mels = mel_spectrum(padded, RATE, _WINDOW, _HOP, _BANDS).T  # (frames, 40)
        return torch.stack([mels[start : start + _FRAMES] for start in starts])


def pieces(samples: int) -> list[int]:
    """First frames of the pieces that a recording of so many samples is read in."""
    frames = math.ceil((samples + 1) / _HOP)
    starts = list(range(0, max(1, frames - _FRAMES + _STEP + 1), _STEP))
    covered = (samples - starts[-1] * _HOP) / (_FRAMES * _HOP)
    return starts[:-1] if len(starts) > 1 and covered < _COVERED else starts


def weights_path() -> Path:
    """The weights file of the installed package.

    Raises:
        WeightsError: if it is not installed.
    """
    spec = importlib.util.find_spec("resemblyzer")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(place) / "pretrained.pt").is_file():
            return path
    raise WeightsError("the weights that tell voices apart are not installed: pip install --no-deps resemblyzer")


def read_weights(path: Path | str | None = None) -> dict[str, Tensor]:
    """The published weights, read as tensors alone; nothing is unpickled.

    Raises:
        WeightsError: if the file is missing or not the published one.
    """
    path = Path(path) if path is not None else weights_path()
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise WeightsError(
            f"{path} is not the published weights file of resemblyzer 0.1.4: pip install --no-deps --force-reinstall resemblyzer"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    return {name: value for name, value in state.items() if name.startswith(("lstm.", "linear."))}
