"""How well generators continue given frames of moving digits, after training for equal time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.chains import REMARK, Generated, TrainedSystem, TrainingPlan, bars, distance_gain, train_plan
from jielong.apps.lab.moving import moving_digits, write_clips
from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome
from jielong.apps.lab.verdict import Check
from jielong.core.tokens import Layout
from jielong.data.moving_digits import RATE
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.kernel import contributions, kernel_distance
from jielong.media.videos import Videos
from jielong.orders.tasks import known_region
from jielong.system import System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINING_CLIPS, REFERENCE = 2_000, 256
"""Clips to train on, and held-out clips whose last frames are the reference of the kernel distance."""
SIZE, FRAMES, GIVEN = 16, 8, 2
"""Pixels a side, frames of a clip, and those that are given: two, as one does not show where a digit moves."""
ROUNDS, BATCH = 3, 8
"""Timing rounds and batch size."""
PLOTTED, SCALE = 4, 2
"""Clips of each system in the plot, and their enlargement."""
ERROR = "of repeating a frame"
"""Unit of errors."""
RECIPE = f"""
data: {{{{set: set by the experiment, size: {SIZE}, frames: {FRAMES}, frame_rate: {RATE:g}}}}}
tokenizer: {{{{patches: {{{{patch: 4, std: 1.0}}}}}}}}
order: {{order}}
backbone: {{backbone}}
head: {{head}}
train:
  {{{{samples: 1000000000, batch: 16, optimizer: muon, lr: 3.0e-3, warmup: 256, ema: 0.98, log_every: 100000,
  sample_every: 1000000000, save_every: 1000000000}}}}
"""
"""Template of plans: a token is a patch of a frame, so that no tokenizer decides."""


@dataclass(frozen=True)
class Continued:
    """Clips of one system that begin with given frames.

    Attributes:
        clips: ``(n, 1, T, H, W)``.
        errors: Squared error of each drawn frame against the true one, ``(n, T - given)``; 1 is the mean of repeating the last given frame.
        last: The last frames, their kernel distance from real ones, and the time a clip.
    """

    clips: Tensor
    errors: Tensor
    last: Generated


def given_region(layout: Layout) -> Tensor:
    """Positions of the given frames, ``(N,)`` bool."""
    return known_region(layout, "frame_prediction", GIVEN)


def squared_errors(clips: Tensor, real: Tensor) -> Tensor:
    """Mean squared error of each frame behind the given ones, ``(n, 1, T, H, W)`` to ``(n, T - given)``."""
    return (clips - real)[:, :, GIVEN:].square().mean((1, 3, 4)).double()


def repeated(real: Tensor) -> Tensor:
    """The given frames, and then the last of them again and again."""
    return torch.cat([real[:, :, :GIVEN], real[:, :, GIVEN - 1 : GIVEN].expand_as(real[:, :, GIVEN:])], dim=2)


def continue_clips(system: System, real: Tensor, seed: int) -> Tensor:
    """Clips that begin with the first frames of others ``(n, 1, T, H, W)``; a clip's random numbers depend on the seed and its number."""
    start = system.encode(real)
    return system.decode(system.generate_tokens(None, len(real), start=start, known=given_region(start.layout), seed=seed)).clamp(-1, 1)


def continue_all(bench: Bench, trained: Sequence[TrainedSystem], count: int) -> tuple[Tensor, dict[str, Continued]]:
    """Continue the same held-out clips with each system.

    Args:
        bench: Environment; its seed is the sampling seed.
        trained: Systems of clips.
        count: Clips.

    Returns:
        The true clips, and those of each system by name.
    """
    heldout = moving_digits(max(count, bench.scaled(REFERENCE, 8)), "heldout", SIZE, FRAMES)
    real, extractor = heldout[:count], FeatureExtractor()
    reference = extractor.extract(heldout[:, :, -1]).values
    unit = squared_errors(repeated(real), real).mean()
    times = _times(bench, trained, real)
    found = {}
    for each in trained:
        bench.log(f"continuing {count} clips with {each.name}")
        clips = continue_clips(each.system, real, bench.seed)
        last = clips[:, :, -1]
        features = extractor.extract(last).values
        generated = Generated(last, contributions(features, reference), kernel_distance(features, reference), times[each.name])
        found[each.name] = Continued(clips, squared_errors(clips, real) / unit, generated)
    return real, found


def _times(bench: Bench, trained: Sequence[TrainedSystem], real: Tensor) -> dict[str, Tensor]:
    """Seconds a clip of each system; systems alternate, so that load of the machine affects all."""
    times: dict[str, list[float]] = {each.name: [] for each in trained}
    some = real[:BATCH]
    for turn in range(bench.scaled(ROUNDS, 2) + 1):
        for each in trained:
            started = time.perf_counter()
            continue_clips(each.system, some, turn)
            if turn:  # the first round warms caches
                times[each.name].append((time.perf_counter() - started) / len(some))
    return {name: torch.tensor(seconds, dtype=torch.float64) for name, seconds in times.items()}


def closer(names: tuple[str, str], better: Continued, worse: Continued, seed: int) -> list[Check]:
    """Checks that the first of two systems continues clips better, paired by clip.

    A blurred or empty continuation may have a low error, and a sharp one that is wrong looks real, so both figures decide.

    Args:
        names: Names of both systems.
        better: Clips of the first.
        worse: Clips of the second.
        seed: Seed of the resampling.
    """
    confidence, (first, second) = level(2), names
    gain = (worse.errors - better.errors).mean(1)
    return [
        Check(
            f"{first}: lower error of the continuation than {second} at equal training time",
            bootstrap(gain, seed, confidence, ERROR),
            "above",
            0.0,
        ),
        Check(
            f"{first}: lower kernel distance of last frames than {second} at equal training time",
            distance_gain(better.last, worse.last, seed, confidence),
            "above",
            0.0,
        ),
    ]


def compare_continuations(
    bench: Bench, plans: tuple[TrainingPlan, TrainingPlan], seconds: float, count: int, remarks: Sequence[str] = ()
) -> Outcome:
    """Train two plans for the same time, continue held-out clips with both, and check that the first does it better.

    Args:
        bench: Environment; its budget scales time and count.
        plans: The plan that is claimed to be better, and the other.
        seconds: Training time of each plan at the full budget.
        count: Clips at the full budget.
        remarks: Caveats, besides the one of a single training run.
    """
    clips = moving_digits(bench.scaled(TRAINING_CLIPS, 48), "train", SIZE, FRAMES)
    path = write_clips(bench.folder / "digits.parquet", clips)
    trained = [train_plan(bench, plan, max(1.0, seconds * bench.budget), [f"data.set={path}"]) for plan in plans]
    real, found = continue_all(bench, trained, bench.scaled(count, 4))
    first, second = (plan.name for plan in plans)
    figures = {key: value for each in trained for key, value in _figures(each, found[each.name], bench.seed).items()}
    unit = squared_errors(repeated(real), real).mean()
    figures["error, empty frames"] = bootstrap(squared_errors(-torch.ones_like(real), real) / unit, bench.seed, unit=ERROR)

    def draw(figure: Figure) -> None:
        _draw(figure, real, found, figures)

    return Outcome(
        closer((first, second), found[first], found[second], bench.seed),
        figures,
        draw,
        (9.0, 5.0),
        {
            "recipes": {plan.name: plan.generator for plan in plans},
            "data": f"the first {len(clips):,} clips of digits, {FRAMES} frames of {SIZE} x {SIZE}, {GIVEN} given",
            "continued": len(real),
            "error": "squared error of drawn frames; 1 is the mean error of repeating the last given frame",
            "distance": "unbiased MMD, kernel (x.y/D + 1)^3, EfficientNet-lite2 features of last frames, against held-out ones",
            "timed": f"{BATCH} clips per batch, alternating between systems",
            "sampling": {each.name: each.system.recipe.sampling.model_dump(mode="json") for each in trained},
        },
        (REMARK, *(each.remark for each in trained if each.remark is not None), *remarks),
    )


def _figures(each: TrainedSystem, found: Continued, seed: int) -> dict[str, Estimate]:
    weights = [] if each.system.generator is None else list(each.system.generator.parameters())
    return {
        f"error, {each.name}": bootstrap(found.errors, seed, unit=ERROR),
        f"error of the first drawn frame, {each.name}": bootstrap(found.errors[:, 0], seed, unit=ERROR),
        f"error of the last frame, {each.name}": bootstrap(found.errors[:, -1], seed, unit=ERROR),
        f"kernel distance of last frames, {each.name}": bootstrap(found.last.contributions(), seed, unit="kernel distance"),
        f"time per clip, {each.name}": bootstrap(found.last.seconds_per_item, seed, unit="s"),
        f"clips seen, {each.name}": exact(each.samples),
        f"seconds of training, {each.name}": exact(each.seconds, "s"),
        f"parameters, {each.name}": exact(sum(weight.numel() for weight in weights)),
    }


def _draw(figure: Figure, real: Tensor, found: Mapping[str, Continued], figures: Mapping[str, Estimate]) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1])
    columns = {f"true clips, of which {GIVEN} frames are given": real, **{name: each.clips for name, each in found.items()}}
    for axes, (name, clips) in zip(above.subplots(1, len(columns)), columns.items(), strict=True):
        axes.imshow(Videos(clips[:PLOTTED], RATE).sheet(scale=SCALE), interpolation="nearest")
        axes.set_title(name)
        axes.axis("off")
    left, right = below.subplots(1, 2)
    for name, each in found.items():
        left.plot(range(GIVEN + 1, real.shape[2] + 1), each.errors.mean(0).tolist(), "o-", label=name)
    left.axhline(figures["error, empty frames"].value, color="0.6", linestyle=":", label="empty frames")
    left.set(xlabel="frame", title="squared error (1: repeating the last given frame)")
    left.legend()
    bars(right, dict(figures), "kernel distance of last frames", list(found), "distance from real last frames")
