"""Prosody features that depend little on the speaker: pitch contour, stress, rate and pauses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.media.mel import spectrum

RATE = 16_000
"""Samples a second that :func:`prosody` reads."""
MODULATIONS = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5, 11.0, 16.0)
"""Hz: at which loudness is looked at for rhythm."""
FEATURES = 9 + len(MODULATIONS)
_HOP, _WINDOW, _LOWEST, _HIGHEST = 160, 640, 70.0, 400.0
_VOICED, _QUIET, _OCTAVE = 0.5, 30.0, 0.03


def pitch(waveform: Tensor) -> tuple[Tensor, Tensor]:
    """Fundamental frequency in Hz, ``(n,)``, and how periodic each frame is, ``(n,)`` up to 1, every 10 ms.

    The highest peak of the autocorrelation between 70 and 400 Hz, over that of the window itself; of two equal ones the higher pitch, by a
    small cost of every octave down (Boersma 1993, without his candidates).

    Args:
        waveform: ``(T,)`` at 16 kHz.
    """
    window = torch.hann_window(_WINDOW)
    frames = F.pad(waveform.float(), (_WINDOW // 2, _WINDOW // 2)).unfold(0, _WINDOW, _HOP)

    def correlated(x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, 2 * _WINDOW).abs().square())

    found = correlated((frames - frames.mean(1, keepdim=True)) * window)
    found = found / found[:, :1].clamp_min(1e-9) / (correlated(window) / correlated(window)[0]).clamp_min(1e-3)
    first, last = int(RATE / _HIGHEST), int(RATE / _LOWEST)
    lags = torch.arange(first, last + 1)
    best = (found[:, lags] - _OCTAVE * (lags / first).log2()).argmax(1)
    return RATE / lags[best], found[:, lags].gather(1, best[:, None])[:, 0].clamp(max=1.0)


def prosody(waveform: Tensor) -> Tensor:
    """Numbers of the order of 1, ``(FEATURES,)``; loudness counts from the clip's own, so a gain changes nothing. Zeros for silence.

    Spread, range, movement and fall of the pitch in octaves, how much is voiced, spread and movement of loudness, how much is pause, how
    much the balance of high and low changes; then the rhythm, by the strength of loudness's movements at several rates.

    Args:
        waveform: ``(T,)`` at 16 kHz.
    """
    if waveform.numel() < _WINDOW or not bool(waveform.square().mean() > 1e-9):
        return torch.zeros(FEATURES)
    power = spectrum(waveform.float(), _WINDOW, _HOP).square() + 1e-10  # (bins, n)
    loud = 10 * power.sum(0).log10()
    loud = (loud - loud.max()).clamp_min(-2 * _QUIET)
    spoken = loud > -_QUIET
    hertz, periodic = pitch(waveform)
    count = min(len(hertz), len(loud))
    voiced = (periodic[:count] > _VOICED) & spoken[:count]
    octaves, moves = hertz[:count].log2(), loud.diff().abs()
    melody = torch.zeros(4)
    if int(voiced.sum()) > 2:
        tune = octaves[voiced]
        beside = voiced[1:] & voiced[:-1]
        step = octaves.diff().abs()[beside].clamp(max=0.5)
        when = torch.arange(count)[voiced] * _HOP / RATE
        apart = when - when.mean()
        low, high = tune.quantile(torch.tensor([0.1, 0.9]))
        fall = (apart * tune).sum() / apart.square().sum().clamp_min(1e-6)
        melody = torch.stack([4 * tune.std(), 2 * (high - low), 20 * step.mean() if len(step) else tune.new_zeros(()), fall.clamp(-2, 2)])
    half = power.shape[0] // 8  # 1 kHz
    balance = 10 * (power[half:].sum(0) / power[:half].sum(0)).log10()
    stress = [loud[spoken].std(correction=0) / 10, moves.mean() / 3, 1 - spoken.float().mean(), balance[spoken].std(correction=0) / 10]
    times = torch.arange(len(loud)) * (_HOP / RATE)
    contour = (loud - loud.mean()) / 10
    waves = [torch.polar(torch.ones(len(times)), 2 * math.pi * rate * times) for rate in MODULATIONS]
    rhythm = [2 * (contour * wave).mean().abs() for wave in waves]
    return torch.stack([*melody, voiced.float().mean(), *stress, *rhythm])
