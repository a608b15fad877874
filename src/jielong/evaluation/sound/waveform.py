"""Signal metrics: distances of waveforms, spectra and mel bands, and bitrates.

They are not perceptual: a shift by one sample is inaudible and ruins ``si_sdr``. For codecs that do not reproduce the waveform see
:mod:`jielong.evaluation.sound.listening`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from jielong.core.tokens import Layout
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.sound.protocol import of_pairs
from jielong.media.mel import mel_spectrum, spectrum

CAP = 100.0
"""Upper limit of ``si_sdr`` in decibels, the value of an exact reconstruction."""
FLOOR = 1e-10
"""Power floor relative to full scale 1: -100 dB."""
QUIET = -40.0
"""Silence threshold in decibels relative to the loudest 20 ms of a clip."""
BANDS = 80
WINDOWS = (2048, 512, 128)
"""Window lengths of :func:`stft_distance` in samples; the hop is a quarter."""


def si_sdr(clips: Iterable[Tensor], real: Iterable[Tensor], rate: int) -> Measurement:
    """Scale-invariant signal-to-distortion ratio in decibels (Le Roux et al., arXiv 1811.02508), means removed, mean over clips.

    With ``a = <x, y> / <y, y>`` for a clip ``x`` of the reference ``y``: ``10 log10(|a y|^2 / |a y - x|^2)``. Clips whose reference is
    silent are left out.

    Args:
        clips: Clips ``(T,)`` or ``(C, T)`` in [-1, 1].
        real: References of the same lengths.
        rate: Sample rate in Hz.

    Raises:
        ValueError: if numbers or lengths of clips and references differ, or values are outside [-1, 1].
    """
    return of_pairs("si_sdr", clips, real, rate, _si_sdr, {"unit": "dB", "cap_db": CAP})


def _si_sdr(x: Tensor, y: Tensor) -> float | None:
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    power = y.square().sum()
    if power <= 0:
        return None
    target = (x @ y) / power * y
    ratio = target.square().sum() / (target - x).square().sum().clamp_min(1e-300)
    return float(10 * ratio.clamp(10 ** (-CAP / 10), 10 ** (CAP / 10)).log10())


def mel_distance(clips: Iterable[Tensor], real: Iterable[Tensor], rate: int) -> Measurement:
    """Mean absolute difference of log power in 80 mel bands, in decibels; 0 is equal. Arguments as :func:`si_sdr`.

    Windows of 32 ms with a hop of 8 ms; a full-scale sine has power of order 1, and power is floored at -100 dB.
    """
    window = round(0.032 * rate / 4) * 4

    def score(x: Tensor, y: Tensor) -> float:
        levels = [_decibels(mel_spectrum(clip.double() * (4 / window), rate, window, window // 4, BANDS)) for clip in (x, y)]
        return float((levels[0] - levels[1]).abs().mean())

    details = {"unit": "dB", "bands": BANDS, "scale": "Slaney, equal areas", "window": window, "hop": window // 4, "floor_db": -100}
    return of_pairs("mel_distance", clips, real, rate, score, details)


def _decibels(power: Tensor) -> Tensor:
    return 10 * power.clamp_min(FLOOR).log10()


def stft_distance(clips: Iterable[Tensor], real: Iterable[Tensor], rate: int) -> Measurement:
    """Multi-resolution STFT distance (Yamamoto et al., arXiv 1910.11480, eqs. 4 to 6): 0 is equal. Arguments as :func:`si_sdr`.

    With magnitudes ``X`` and ``Y``, the mean over three windows of ``|Y - X| / |Y|`` (Frobenius norms) and the mean of ``|ln X - ln Y|``,
    added up. Clips whose reference is silent are left out.
    """

    def score(x: Tensor, y: Tensor) -> float | None:
        if not bool(y.any()):
            return None
        return sum(_resolution(x.double(), y.double(), window) for window in WINDOWS) / len(WINDOWS)

    details = {"windows": list(WINDOWS), "hop": "a quarter", "formula": "spectral convergence + mean |ln X - ln Y|", "floor_db": -100}
    return of_pairs("stft_distance", clips, real, rate, score, details)


def _resolution(x: Tensor, y: Tensor, window: int) -> float:
    ours, theirs = (spectrum(clip, window, window // 4) * (2 / window) for clip in (x, y))
    converged = torch.linalg.norm(theirs - ours) / torch.linalg.norm(theirs)
    logs = (ours.clamp_min(FLOOR**0.5).log() - theirs.clamp_min(FLOOR**0.5).log()).abs().mean()
    return float(converged + logs)


def bitrate(layout: Layout, seconds: float) -> Measurement:
    """Bitrate in kbit/s of the codes of ``seconds`` of audio, without entropy coding.

    Raises:
        ValueError: if the tokens are continuous, or ``seconds`` is not positive.
    """
    if layout.bits is None:
        raise ValueError("continuous tokens have no bitrate: only codes of a finite vocabulary have")
    if not seconds > 0:
        raise ValueError(f"a bitrate needs a positive duration, not {seconds} s")
    details = {
        "unit": "kbit/s",
        "positions_per_second": layout.positions / seconds,
        "codebooks": layout.channels,
        "codes": layout.vocabulary,
    }
    return Measurement("kbps", layout.bits / seconds / 1000, 1, details)


def sounding_share(clip: Tensor, rate: int) -> float:
    """Fraction of a clip ``(C, T)`` before its trailing silence: up to the last 20 ms within 40 dB of the loudest; 0 for silence."""
    mono, window = clip.mean(0), max(1, rate // 50)
    power = torch.nn.functional.pad(mono, (0, -len(mono) % window)).view(-1, window).square().mean(1)
    if not bool(power.any()):
        return 0.0
    last = int((power >= power.max() * 10 ** (QUIET / 10)).nonzero()[-1])
    return min(1.0, (last + 1) * window / len(mono))
