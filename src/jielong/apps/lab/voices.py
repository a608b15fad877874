"""Data set of synthetic vowels, and measurements of audio generators trained on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.chains import Generated
from jielong.apps.lab.sounds import RATE as VOWEL_RATE
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
TRAINING_CLIPS, BANDS, WINDOW = 400, 40, 256
ROUNDS, BATCH = 3, 4
"""Timing rounds and batch size."""
DATA = f"data: {{set: set by the experiment, sample_rate: {RATE}, duration: {SECONDS}}}"
"""``data`` section of recipes for the set that :func:`training_set` writes."""
# Within a minute only a shallow codec learns: one convolution in and out, one vector per 5 ms, mainly a waveform loss.
BODY = "autoencoder: {seanet: {channels: 16, ratios: [40], residual_layers: 0, lstm: 0, norm: none}}"
CODES = "{vector: {codebook_size: 256, kmeans_iterations: 10, restart_below: 0.1, decay: 0.9}}"
REGRESSION, MEL = "regression: {kind: l2, weight: 100.0}", "mel: {windows: [256, 64]}"
FAST = "adamw, lr: 5.0e-3"
"""Optimizer of the codec."""


def voices(count: int, seed: int) -> Tensor:
    """Vowels, ``(count, 1, T)`` in [-1, 1] at :data:`RATE`."""
    return resample(vowels(count, torch.Generator().manual_seed(seed), SECONDS), VOWEL_RATE, RATE)[:, None]


def training_set(bench: Bench) -> Path:
    """Folder of training clips; written once."""
    folder = bench.folder / "voices"
    if not folder.exists():
        for index, voice in enumerate(voices(bench.scaled(TRAINING_CLIPS, 24), bench.seed)):
            write_audio(folder / f"{index:04d}.wav", voice, RATE)
    return folder


def timbre(sounds: Tensor) -> Tensor:
    """Features of clips, ``(n, 1, T)`` to ``(n, 3 bands)``: mean, standard deviation and change of each log-mel band."""
    return statistics(mel_spectrum(sounds[:, 0].double(), RATE, WINDOW, WINDOW // 4, BANDS))


def generate_voices(bench: Bench, systems: dict[str, System], count: int) -> dict[str, Generated]:
    """Generate clips with each system and measure distance from held-out vowels and time.

    The distance is the unbiased kernel distance of :func:`timbre` features, standardised by the real clips.

    Args:
        bench: Environment; its seed is the sampling seed.
        systems: Unconditional generators.
        count: Clips per system.
    """
    real = timbre(voices(max(count, bench.scaled(256, 8)), bench.seed + 10_000))
    centre, spread = real.mean(0), real.std(0).clamp_min(1e-3)
    reference = (real - centre) / spread
    batch = bench.scaled(BATCH)
    times: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(bench.scaled(ROUNDS, 2) + 1):
        for name, system in systems.items():
            started = time.perf_counter()
            system.generate(count=batch, seed=turn)
            if turn:  # the first round warms caches
                times[name].append((time.perf_counter() - started) / batch)
    drawn = {}
    for name, system in systems.items():
        bench.log(f"generating {count} clips with {name}")
        sounds = system.generate(count=count, seed=bench.seed).tensor
        features = (timbre(sounds) - centre) / spread
        distance, overall = contributions(features, reference), kernel_distance(features, reference)
        drawn[name] = Generated(sounds, distance, overall, torch.tensor(times[name], dtype=torch.float64))
    return drawn


def mel_errors(decoded: Tensor, real: Tensor) -> Tensor:
    """:func:`~jielong.evaluation.sound.waveform.mel_distance` of each pair, ``(n, 1, T)`` to ``(n,)`` decibels."""
    return torch.tensor([mel_distance([x], [y], RATE).value for x, y in zip(decoded, real, strict=True)])


def train_section(optimizer: str = "muon, lr: 3.0e-3", warmup: int = 64, batch: int = 8) -> str:
    """``train`` section of a recipe with a wall-time budget and without sample grids."""
    rest = "ema: 0.98, log_every: 100000, sample_every: 1000000000, save_every: 1000000000"
    return f"train: {{samples: 1000000000, batch: {batch}, optimizer: {optimizer}, warmup: {warmup}, {rest}}}"


def data_overrides(bench: Bench, *more: str) -> Sequence[str]:
    """Overrides of every training run on the synthetic vowels."""
    return (f"data.set={training_set(bench)}", f"data.duration={SECONDS}", f"train.seed={bench.seed}", *more)


def show(axes: Axes, sound: Tensor, title: str | None = None) -> None:
    """Spectrogram of a clip ``(1, T)``."""
    axes.imshow(spectrogram(sound, RATE).permute(1, 2, 0).add(1).div(2).clamp(0, 1).numpy(), aspect="auto")
    axes.axis("off")
    if title is not None:
        axes.set_title(title)
