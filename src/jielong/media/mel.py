"""Spectra of sound, and the mel scale that hears low tones finely and high ones coarsely."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

_BREAK, _STEP = 1000.0, 200 / 3  # Hz: below the break the scale is linear, a mel every 66.7 Hz
_GROWTH = math.log(6.4) / 27  # above it, 27 mels to a factor of 6.4


def to_mel(hertz: Tensor) -> Tensor:
    """Slaney's mel scale (Auditory Toolbox, 1998)."""
    return torch.where(hertz < _BREAK, hertz / _STEP, _BREAK / _STEP + (hertz.clamp_min(_BREAK) / _BREAK).log() / _GROWTH)


def to_hertz(mel: Tensor) -> Tensor:
    """The inverse of :func:`to_mel`."""
    over = mel - _BREAK / _STEP
    return torch.where(over < 0, mel * _STEP, _BREAK * (over.clamp_min(0) * _GROWTH).exp())


@functools.lru_cache(maxsize=32)
def mel_filters(rate: int, window: int, bands: int) -> Tensor:
    """Triangles of equal area over the bins of a transform, ``(bands, window // 2 + 1)`` float64, from 0 Hz to ``rate / 2``.

    Args:
        rate: Samples a second.
        window: Samples of the transform.
        bands: Number of triangles, whose corners are equally far apart in mels.
    """
    with torch.inference_mode(False):
        bins = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)
        top = to_mel(torch.tensor(rate / 2, dtype=torch.float64)).item()
        corners = to_hertz(torch.linspace(0, top, bands + 2, dtype=torch.float64))
        low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
        rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
        return torch.minimum(rising, falling).clamp_min(0) * 2 / (high - low)


def spectrum(waveform: Tensor, window: int, hop: int) -> Tensor:
    """Magnitudes of short-time spectra, ``(..., window // 2 + 1, 1 + T // hop)``; Hann window, zeros beyond both ends.

    Args:
        waveform: ``(..., T)``.
        window: Samples of a window and of its transform.
        hop: Samples from one window to the next.
    """
    flat = waveform.reshape(-1, waveform.shape[-1])
    shape = torch.hann_window(window, dtype=waveform.dtype, device=waveform.device)
    spectrum = torch.stft(flat, window, hop, window=shape, center=True, pad_mode="constant", return_complex=True).abs()
    return spectrum.reshape(*waveform.shape[:-1], *spectrum.shape[1:])


def mel_spectrum(waveform: Tensor, rate: int, window: int, hop: int, bands: int) -> Tensor:
    """Power in mel bands, ``(..., bands, 1 + T // hop)``; arguments as of :func:`spectrum` and :func:`mel_filters`."""
    filters = mel_filters(rate, window, bands).to(waveform)
    return filters @ spectrum(waveform, window, hop).square()
