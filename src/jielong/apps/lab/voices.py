"""A set of synthetic voices to train on, as many more to compare with, and what chains of sound draw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.chains import Drawn
from jielong.apps.lab.sounds import RATE as SUNG_RATE
from jielong.apps.lab.sounds import vowels
from jielong.apps.lab.trial import Bench
from jielong.evaluation.kernel import contributions, kernel_distance
from jielong.evaluation.sound.features import statistics
from jielong.evaluation.sound.waveform import mel_distance
from jielong.media.audio import resample, write_audio
from jielong.media.mel import mel_spectrum
from jielong.media.spectrograms import spectrogram
from jielong.system import System

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATE, SECONDS = 8_000, 0.25
TRAINED_ON, BANDS, WINDOW = 400, 40, 256
ROUNDS, AT_ONCE = 3, 4
"""How often drawing is timed, and how many clips at once."""
DATA = f"data: {{set: given by the experiment, sample_rate: {RATE}, duration: {SECONDS}}}"
"""Of recipes: what :func:`sung` writes."""
# In a minute only a shallow codec learns anything: one convolution in and out, a vector every 5 ms, led by the waveform above all.
BODY = "autoencoder: {seanet: {channels: 16, ratios: [40], residual_layers: 0, lstm: 0, norm: none}}"
CODES = "{vector: {codebook_size: 256, kmeans_iterations: 10, restart_below: 0.1, decay: 0.9}}"
REGRESSION, MEL = "regression: {kind: l2, weight: 100.0}", "mel: {windows: [256, 64]}"
FAST = "adamw, lr: 5.0e-3"
"""An optimizer for it."""


def voices(count: int, seed: int) -> Tensor:
    """Sung vowels, ``(count, 1, T)`` in [-1, 1] at :data:`RATE`; other seeds sing others."""
    made = vowels(count, torch.Generator().manual_seed(seed), SECONDS)
    return resample(made, SUNG_RATE, RATE)[:, None]


def sung(bench: Bench) -> Path:
    """A folder of voices to train on, written once."""
    folder = bench.folder / "voices"
    if not folder.exists():
        for place, voice in enumerate(voices(bench.scaled(TRAINED_ON, 24), bench.seed)):
            write_audio(folder / f"{place:04d}.wav", voice, RATE)
    return folder


def timbre(sounds: Tensor) -> Tensor:
    """What a clip sounds like, ``(n, 1, T)`` to ``(n, 3 bands)``: of each mel band's logarithm the mean, the spread, and how it moves."""
    return statistics(mel_spectrum(sounds[:, 0].double(), RATE, WINDOW, WINDOW // 4, BANDS))


def draw_voices(bench: Bench, systems: dict[str, System], count: int) -> dict[str, Drawn]:
    """Let every system draw, and measure what comes against voices that none was trained on.

    The distance is the unbiased kernel distance of :func:`timbre`, each number in standard deviations of the real voices.

    Args:
        bench: Its seed draws.
        systems: Generators without a condition.
        count: Clips of each.
    """
    real = timbre(voices(max(count, bench.scaled(256, 8)), bench.seed + 10_000))
    centre, spread = real.mean(0), real.std(0).clamp_min(1e-3)
    reference = (real - centre) / spread
    at_once = bench.scaled(AT_ONCE)
    paces: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(bench.scaled(ROUNDS, 2) + 1):
        for name, system in systems.items():
            begun = time.perf_counter()
            system.generate(count=at_once, seed=turn)
            if turn:  # the first round prepares what later ones use
                paces[name].append((time.perf_counter() - begun) / at_once)
    drawn = {}
    for name, system in systems.items():
        bench.tell(f"drawing {count} voices by {name}")
        sounds = system.generate(count=count, seed=bench.seed).tensor
        features = (timbre(sounds) - centre) / spread
        own, overall = contributions(features, reference), kernel_distance(features, reference)
        drawn[name] = Drawn(sounds, own, overall, torch.tensor(paces[name], dtype=torch.float64))
    return drawn


def mel_errors(made: Tensor, real: Tensor) -> Tensor:
    """:func:`~jielong.evaluation.sound.waveform.mel_distance` of each pair, ``(n, 1, T)`` to ``(n,)`` decibels."""
    return torch.tensor([mel_distance([x], [y], RATE).value for x, y in zip(made, real, strict=True)])


def quiet(optimizer: str = "muon, lr: 3.0e-3", warmup: int = 64, batch: int = 8) -> str:
    """The line ``train`` of a recipe whose time the experiment limits."""
    rest = "ema: 0.98, log_every: 100000, sample_every: 1000000000, save_every: 1000000000"
    return f"train: {{samples: 1000000000, batch: {batch}, optimizer: {optimizer}, warmup: {warmup}, {rest}}}"


def given(bench: Bench, *more: str) -> Sequence[str]:
    """The overrides that every training of an experiment on voices takes."""
    return (f"data.set={sung(bench)}", f"data.duration={SECONDS}", f"train.seed={bench.seed}", *more)


def show(axes: Axes, sound: Tensor, title: str | None = None) -> None:
    """The spectrogram of a clip, ``(1, T)``."""
    axes.imshow(spectrogram(sound, RATE).permute(1, 2, 0).add(1).div(2).clamp(0, 1).numpy(), aspect="auto")
    axes.axis("off")
    if title is not None:
        axes.set_title(title)
