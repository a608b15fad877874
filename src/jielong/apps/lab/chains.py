"""Train systems for equal wall time, tokenizer included, and compare their samples."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome
from jielong.apps.lab.verdict import Check
from jielong.config import recipe
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.kernel import contributions, kernel_distance
from jielong.media.images import sheet
from jielong.system import System
from jielong.training import experiment
from jielong.training import token_cache as cache

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOKENIZER_RECIPE = """
data: {{set: emoji, size: 32}}
tokenizer: {tokenizer}
losses: {{regression: {{kind: l2, weight: 1.0}}}}
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 5.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
GENERATOR_RECIPE = """
data: {{set: emoji, size: 32}}
tokenizer: {{checkpoint: set by the experiment}}
condition: {{class: {{width: 32, cfg_dropout: 0.1}}}}
order: {order}
backbone: {{transformer: {{layers: 3, width: 96, heads: 3, condition: prefix}}}}
head: {head}
train: {{samples: 1000000000, batch: 32, optimizer: muon, lr: 3.0e-3, warmup: 512, ema: 0.98, log_every: 100000, save_every: 1000000}}
"""
AUTOENCODER = "autoencoder: {convolutional: {patch: 4, channels: [64], blocks: [1]}}, dim: 8"
"""Templates of plans at 32 x 32 pixels, and the autoencoder of their tokenizers: 8 x 8 positions of 8 channels."""
LEAST = 0.1
"""Least share of the time for a generator."""
ROUNDS, BATCH = 5, 8
"""Timing rounds and batch size."""
SHOWN = 8


@dataclass(frozen=True)
class TrainingPlan:
    """Recipes of one system.

    Attributes:
        name: Name in files and figures.
        generator: Text of the generator's recipe; its tokenizer is replaced if one is trained.
        tokenizer: Text of the tokenizer's recipe, if it is trained.
        share: Fraction of the time for the tokenizer.
    """

    name: str
    generator: str
    tokenizer: str | None = None
    share: float = 0.3


@dataclass(frozen=True)
class TrainedSystem:
    """A trained system.

    Attributes:
        name: Name of the plan.
        system: The system.
        samples: Samples seen by the generator.
        seconds: Wall time of training and of encoding the data set.
        planned: Seconds that were planned for both; more where those of the tokenizer left less than :data:`LEAST` for the generator.
    """

    name: str
    system: System
    samples: int
    seconds: float
    planned: float

    @property
    def remark(self) -> str | None:
        """That it was trained for longer than planned, if so: more than a tenth longer."""
        if self.seconds <= 1.1 * self.planned:
            return None
        return (
            f"{self.name}: {self.seconds:.1f} s of training in place of {self.planned:.1f} s: training the tokenizer and encoding the "
            f"pictures left less than {LEAST:.0%} of them for the generator; a larger budget keeps to its time"
        )


@dataclass(frozen=True)
class Generated:
    """Samples of one system.

    Attributes:
        items: Images ``(n, C, H, W)``, of the same classes for every system, or clips ``(n, C, T)``.
        distance: Contribution of each item to the kernel distance from real data, ``(n,)``.
        overall: The kernel distance.
        seconds_per_item: In each of several rounds, ``(r,)``.
    """

    items: Tensor
    distance: Tensor
    overall: float
    seconds_per_item: Tensor

    def contributions(self) -> Tensor:
        """Per-item values ``(n,)`` whose mean is the kernel distance."""
        return self.distance + (self.overall - self.distance.mean())


def train_plan(bench: Bench, plan: TrainingPlan, seconds: float, overrides: Sequence[str] = ()) -> TrainedSystem:
    """Train a plan's tokenizer and generator; reading the data set's files is not timed.

    Args:
        bench: Environment.
        plan: Recipes.
        seconds: Total wall time.
        overrides: Changes to both recipes.
    """
    elapsed, changes = 0.0, []
    train = (f"train.seed={bench.seed}", *overrides)
    tokens = bench.folder / f"{plan.name}-tokens.safetensors"
    if plan.tokenizer is not None:
        system, summary = bench.train(f"{plan.name}-tokenizer", plan.tokenizer, train, seconds=plan.share * seconds)
        images = open_data(system.recipe.data.set, "train", medium=system.tokenizer.media, whole=True)
        images.media(range(len(images)))
        started = time.perf_counter()
        cache.write(tokens, cache.tokenize(system.tokenizer, images), cache.identity(system.tokenizer, images))
        elapsed = summary.seconds + time.perf_counter() - started
        changes = [f"tokenizer={{checkpoint: {bench.folder / f'{plan.name}-tokenizer'}}}"]
    else:
        prepared = experiment.prepare(recipe.parse(plan.generator, plan.name, overrides))
        cache.write(tokens, cache.tokenize(prepared.tokenizer, prepared.data), cache.identity(prepared.tokenizer, prepared.data))
    remaining = max(seconds - elapsed, LEAST * seconds)
    system, summary = bench.train(f"{plan.name}-generator", plan.generator, [*changes, *train], seconds=remaining, tokens=tokens)
    return TrainedSystem(plan.name, system, summary.samples, elapsed + summary.seconds, seconds)


def generate_all(bench: Bench, chains: Sequence[TrainedSystem], count: int) -> dict[str, Generated]:
    """Generate the classes of the same held-out images with each system, and measure distance and time.

    Args:
        bench: Environment; its seed is the sampling seed.
        chains: Class-conditional systems of one data set and size.
        count: Images per system.
    """
    first = chains[0].system
    heldout = open_data(first.recipe.data.set, size=first.tokenizer.media.size, split="heldout")
    rows = spread(len(heldout), count)
    classes = [heldout.classes[heldout.labels[row] or 0] for row in rows]
    extractor = FeatureExtractor()
    reference = extractor.extract(heldout.media(spread(len(heldout), max(count, bench.scaled(len(heldout)))))).values
    times = _times(bench, chains, classes)
    drawn = {}
    for chain in chains:
        bench.log(f"generating {count} images with {chain.name}")
        pictures = chain.system.generate(classes=classes, seed=bench.seed).tensor
        features = extractor.extract(pictures).values
        drawn[chain.name] = Generated(pictures, contributions(features, reference), kernel_distance(features, reference), times[chain.name])
    return drawn


def _times(bench: Bench, chains: Sequence[TrainedSystem], classes: Sequence[str]) -> dict[str, Tensor]:
    """Seconds per image of each system; systems alternate, so that load of the machine affects all."""
    times: dict[str, list[float]] = {chain.name: [] for chain in chains}
    some = [classes[index % len(classes)] for index in range(BATCH)]
    for turn in range(bench.scaled(ROUNDS, 2) + 1):
        for chain in chains:
            started = time.perf_counter()
            chain.system.generate(classes=some, seed=turn)
            if turn:  # the first round warms caches
                times[chain.name].append((time.perf_counter() - started) / len(some))
    return {name: torch.tensor(seconds, dtype=torch.float64) for name, seconds in times.items()}


def distance_gain(better: Generated, worse: Generated, seed: int, confidence: float) -> Estimate:
    """Paired difference of the distances from real data."""
    return bootstrap(worse.distance - better.distance, seed, confidence, "kernel distance")


def speedup(better: Generated, worse: Generated, seed: int, confidence: float) -> Estimate:
    """Ratio of sampling times, paired by round."""
    return bootstrap(worse.seconds_per_item / better.seconds_per_item, seed, confidence, "times")


def better_and_faster(names: tuple[str, str], better: Generated, worse: Generated, seed: int) -> list[Check]:
    """Checks that the first of two systems has the lower kernel distance and takes less time per image.

    Args:
        names: Names of both systems.
        better: Samples of the first.
        worse: Samples of the second.
        seed: Seed of the resampling.
    """
    confidence, (first, second) = level(2), names
    return [
        Check(
            f"{first}: lower kernel distance than {second} at equal training time",
            distance_gain(better, worse, seed, confidence),
            "above",
            0.0,
        ),
        Check(f"{first}: less time per image", speedup(better, worse, seed, confidence), "above", 1.0),
    ]


def figures_of(chain: TrainedSystem, drawn: Generated, seed: int) -> dict[str, Estimate]:
    """All figures of one system."""
    layout, model = chain.system.tokenizer.layout, chain.system.generator
    return {
        f"kernel distance, {chain.name}": bootstrap(drawn.contributions(), seed, unit="kernel distance"),
        f"time per image, {chain.name}": bootstrap(drawn.seconds_per_item, seed, unit="s"),
        f"tokens per image, {chain.name}": exact(layout.positions),
        **({} if layout.bits is None else {f"bits per image, {chain.name}": exact(layout.bits, "bit")}),
        f"images seen, {chain.name}": exact(chain.samples),
        f"seconds of training, {chain.name}": exact(chain.seconds, "s"),
        f"parameters, {chain.name}": exact(sum(weight.numel() for weight in model.parameters()) if model is not None else 0),
    }


def provenance_of(chains: Sequence[TrainedSystem], plans: Sequence[TrainingPlan], count: int) -> dict[str, object]:
    """Provenance of the figures of trained systems."""
    return {
        "recipes": {plan.name: {"tokenizer": plan.tokenizer, "generator": plan.generator, "share": plan.share} for plan in plans},
        "distance": "unbiased MMD, kernel (x.y/D + 1)^3, EfficientNet-lite2 features, against held-out images",
        "generated": count,
        "timed": f"{BATCH} images per batch, alternating between systems",
        "sampling": {chain.name: chain.system.recipe.sampling.model_dump(mode="json") for chain in chains},
    }


REMARK = "one training run per system: intervals are over samples and timing rounds, not over training runs"


def show(axes: Axes, drawn: Generated, title: str) -> None:
    """The first few images of a system."""
    axes.imshow(sheet(drawn.items[:SHOWN], columns=SHOWN // 2, padding=1), interpolation="nearest")
    axes.set_title(title)
    axes.axis("off")


def bars(axes: Axes, figures: dict[str, Estimate], what: str, names: Sequence[str], title: str) -> None:
    """Bar plot of one figure by system."""
    values = [figures[f"{what}, {name}"] for name in names]
    error = [[each.value - each.low for each in values], [each.high - each.value for each in values]]
    axes.bar(list(names), [each.value for each in values], yerr=error, color=["#2a7", "#999"], capsize=3)
    axes.set_title(title)


@dataclass(frozen=True)
class Comparison:
    """Systems trained for equal time.

    Attributes:
        plans: Their plans.
        systems: The trained systems, in the order of the plans.
        generated: Samples by name of the plan.
        figures: All figures of all systems.
    """

    plans: Sequence[TrainingPlan]
    systems: Sequence[TrainedSystem]
    generated: Mapping[str, Generated]
    figures: dict[str, Estimate]

    def outcome(
        self,
        checks: Sequence[Check],
        remarks: Sequence[str] = (),
        *,
        size: tuple[float, float] = (7.5, 4.6),
        titles: Mapping[str, str] | None = None,
    ) -> Outcome:
        """The outcome of a trial, with a plot of images, distances and times.

        Args:
            checks: Checks of the claim.
            remarks: Caveats, besides the one of a single training run.
            size: Width and height of the plot in inches.
            titles: Titles of the images by name of the system; the name by default.
        """
        count = len(next(iter(self.generated.values())).items)
        draw, late = partial(self.draw, titles=titles or {}), [each.remark for each in self.systems if each.remark is not None]
        return Outcome(checks, self.figures, draw, size, provenance_of(self.systems, self.plans, count), (REMARK, *late, *remarks))

    def draw(self, figure: Figure, titles: Mapping[str, str]) -> None:
        """A few images of each system, and bars of the kernel distance and the time per image."""
        (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.1])
        names = [system.name for system in self.systems]
        for axes, name in zip(above.subplots(1, len(names)), names, strict=True):
            show(axes, self.generated[name], titles.get(name, name))
        left, right = below.subplots(1, 2)
        bars(left, self.figures, "kernel distance", names, "distance from real images")
        bars(right, self.figures, "time per image", names, "seconds per image")
        if len(names) > 2:
            for axes in (left, right):
                axes.tick_params(axis="x", rotation=15)


def compare_plans(bench: Bench, plans: Sequence[TrainingPlan], seconds: float, count: int) -> Comparison:
    """Train each plan for the same time, tokenizer included, and generate images.

    Args:
        bench: Environment; its budget scales time and count.
        plans: Plans of one data set and size.
        seconds: Training time of each plan at the full budget.
        count: Images of each system at the full budget.
    """
    systems = [train_plan(bench, plan, max(1.0, seconds * bench.budget)) for plan in plans]
    generated = generate_all(bench, systems, bench.scaled(count, 4))
    figures = {name: each for system in systems for name, each in figures_of(system, generated[system.name], bench.seed).items()}
    return Comparison(plans, systems, generated, figures)
