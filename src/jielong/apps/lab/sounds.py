"""Synthetic vowels and distances between waveforms."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

RATE = 16_000
"""Hz."""

# First three formants of spoken vowels, in Hz (after Peterson and Barney, 1952, men's voices).
_VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (390, 1990, 2550), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
_WIDTHS = (80.0, 110.0, 160.0)


def vowels(count: int, generator: torch.Generator, seconds: float = 0.4) -> Tensor:
    """Vowels with breath noise: harmonics of a gliding pitch filtered by three formants, ``(count, samples)`` with an RMS of 0.1.

    Args:
        count: Number of vowels.
        generator: Source of vowel, pitch (90 to 250 Hz), glide, phases and noise.
        seconds: Duration.
    """
    time = torch.arange(round(RATE * seconds), dtype=torch.float64) / RATE
    sounds = []
    for _ in range(count):
        draw = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        formants = _VOWELS[int(draw[0] * len(_VOWELS))]
        pitch, glide = 90 + 160 * draw[1], 0.3 * (draw[2] - 0.5)
        phase = 2 * math.pi * pitch * (time + glide * time.square() / 2)  # the integral of pitch (1 + glide t)
        numbers = torch.arange(1, int(6000 / pitch), dtype=torch.float64)
        frequencies = numbers * pitch
        resonance = sum(1 / (1 + ((frequencies - centre) / width).square()) for centre, width in zip(formants, _WIDTHS, strict=True))
        level = (resonance + 0.003) / numbers  # glottis and lips together: 6 dB less an octave
        offsets = 2 * math.pi * torch.rand(len(numbers), generator=generator, dtype=torch.float64)
        voice = (level[:, None] * torch.sin(numbers[:, None] * phase + offsets[:, None])).sum(0)
        breath = torch.randn(len(time), generator=generator, dtype=torch.float64)
        sound = voice / voice.square().mean().sqrt() + 0.03 * breath
        sounds.append(0.1 * sound / sound.square().mean().sqrt())
    return torch.stack(sounds).float()


def delayed(sounds: Tensor, samples: int) -> Tensor:
    """The sounds delayed by ``samples``."""
    return F.pad(sounds, (samples, 0))[:, : sounds.shape[1]]


def muffled(sounds: Tensor, cutoff: float) -> Tensor:
    """The sounds low-pass filtered at ``cutoff`` Hz."""
    spectrum = torch.fft.rfft(sounds)
    frequencies = torch.fft.rfftfreq(sounds.shape[1], 1 / RATE)
    return torch.fft.irfft(spectrum * (frequencies <= cutoff), n=sounds.shape[1])


def mel_filters(bands: int, bins: int) -> Tensor:
    """Triangular filters evenly spaced in mel, ``m = 2595 log10(1 + f / 700)``, over ``bins`` from 0 to Nyquist: ``(bands, bins)``."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, RATE / 2, bins, dtype=torch.float64)
    rising = (frequencies - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - frequencies) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


def log_mel(sounds: Tensor, window: int = 1024, hop: int = 256, bands: int = 64) -> Tensor:
    """Log-mel spectrogram ``(B, bands, frames)``."""
    spectrum = torch.stft(sounds, window, hop, window=torch.hann_window(window), return_complex=True, center=False).abs().square()
    return (mel_filters(bands, window // 2 + 1) @ spectrum + 1e-5).log()


def log_mel_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference of log-mel spectrograms, ``(B,)``."""
    return (log_mel(x) - log_mel(y)).square().mean((1, 2))


def sample_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference of samples relative to the power of ``x``, ``(B,)``: 2 for uncorrelated sounds."""
    return (x - y).square().mean(1) / x.square().mean(1)
