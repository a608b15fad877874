"""Sound to look at: pictures of its power over time and pitch; and several clips in one file to listen to."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.media.mel import mel_spectrum

FLOOR_DB = -90.0
"""Decibels of full scale that are black; 0 is the brightest."""
# Anchors of a scale whose lightness rises evenly, from black over purple and orange to pale yellow.
_COLOURS = ((0, 0, 4), (80, 18, 123), (182, 54, 121), (251, 136, 97), (252, 253, 191))


def spectrogram(waveform: Tensor, rate: int, height: int = 64, width: int = 192) -> Tensor:
    """A waveform ``(C, T)`` as a picture ``(3, height, width)`` in [-1, 1]: time to the right, pitch (mel) upwards, decibels as light.

    Windows of 32 ms; the scale is absolute, so two pictures of one clip compare.
    """
    window = max(64, round(0.032 * rate / 4) * 4)
    hop = max(1, waveform.shape[-1] // width)
    mono = torch.nan_to_num(waveform.detach().cpu().double()).mean(0) * (4 / window)
    power = mel_spectrum(mono, rate, window, hop, height)
    levels = (10 * power.clamp_min(1e-12).log10() / -FLOOR_DB + 1).clamp(0, 1)
    fitted = F.interpolate(levels.flip(0)[None, None], size=(height, width), mode="nearest")[0, 0]
    return _coloured(fitted.float())


def spectrograms(sound: Tensor, rate: int) -> Tensor:
    """A picture of each clip of ``(B, C, T)``, ``(B, 3, 64, 192)``; see :func:`spectrogram`."""
    return torch.stack([spectrogram(clip, rate) for clip in sound])


def in_a_row(sound: Iterable[Tensor], rate: int, pause: float = 0.25) -> Tensor:
    """Clips ``(C, T)`` one after the other with ``pause`` seconds of silence behind each, ``(C, sum of T + pause rate)``."""
    return torch.cat([F.pad(clip, (0, round(pause * rate))) for clip in sound], dim=1)


def _coloured(levels: Tensor) -> Tensor:
    """Numbers ``(H, W)`` from 0 to 1 as colours ``(3, H, W)`` in [-1, 1], in straight lines between the anchors."""
    anchors = torch.tensor(_COLOURS, dtype=torch.float32) / 127.5 - 1
    place = levels * (len(anchors) - 1)
    below = place.floor().clamp_max(len(anchors) - 2)
    first = below.long()
    share = (place - below)[..., None]
    return (anchors[first] * (1 - share) + anchors[first + 1] * share).permute(2, 0, 1)
