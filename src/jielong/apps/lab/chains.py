"""Two chains side by side: each trained for the same time, tokenizer and all, and compared by what it draws."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact
from jielong.apps.lab.trial import Bench
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

ROUNDS, AT_ONCE = 5, 8
"""How often drawing is timed, and how many pictures at once."""
SHOWN = 8


@dataclass(frozen=True)
class Plan:
    """How one chain comes to be.

    Attributes:
        name: For files and figures.
        generator: A recipe's text; its tokenizer is replaced where one is trained.
        tokenizer: The text of its tokenizer's recipe; ``None`` where there is nothing to train.
        share: Of the time, the tokenizer's.
    """

    name: str
    generator: str
    tokenizer: str | None = None
    share: float = 0.3


@dataclass(frozen=True)
class Chain:
    """A trained chain.

    Attributes:
        name: Of the plan.
        system: What was trained.
        samples: Pictures that the generator saw.
        seconds: Wall time of all trainings and of cutting the set into tokens.
    """

    name: str
    system: System
    samples: int
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """What a chain drew.

    Attributes:
        pictures: ``(n, C, H, W)``, a class each, the same classes for every chain; or sounds, ``(n, C, T)``.
        distance: Each picture's contribution to the kernel distance from real ones, ``(n,)``.
        overall: The kernel distance.
        pace: Seconds a picture in each of several rounds, ``(r,)``.
    """

    pictures: Tensor
    distance: Tensor
    overall: float
    pace: Tensor


def train_chain(bench: Bench, plan: Plan, seconds: float, overrides: Sequence[str] = ()) -> Chain:
    """Train a plan in so many seconds: tokenizer first, then, of what is left, the generator.

    Reading and decoding the set's files is counted for nobody: every chain needs it, whatever its unit.

    Args:
        bench: Where.
        plan: What.
        seconds: For all of it.
        overrides: Changes to all of its recipes.
    """
    spent, changes = 0.0, []
    train = (f"train.seed={bench.seed}", *overrides)
    tokens = bench.folder / f"{plan.name}-tokens.safetensors"
    if plan.tokenizer is not None:
        system, summary = bench.train(f"{plan.name}-tokenizer", plan.tokenizer, train, seconds=plan.share * seconds)
        images = open_data(system.recipe.data.set, "train", medium=system.tokenizer.media, whole=True)
        images.media(range(len(images)))
        begun = time.perf_counter()
        cache.write(tokens, cache.tokenize(system.tokenizer, images), cache.identity(system.tokenizer, images))
        spent = summary.seconds + time.perf_counter() - begun
        changes = [f"tokenizer={{checkpoint: {bench.folder / f'{plan.name}-tokenizer'}}}"]
    else:
        prepared = experiment.prepare(recipe.parse(plan.generator, plan.name, overrides))
        cache.write(tokens, cache.tokenize(prepared.tokenizer, prepared.data), cache.identity(prepared.tokenizer, prepared.data))
    left = max(seconds - spent, 0.1 * seconds)
    system, summary = bench.train(f"{plan.name}-generator", plan.generator, [*changes, *train], seconds=left, tokens=tokens)
    return Chain(plan.name, system, summary.samples, spent + summary.seconds)


def draw_all(bench: Bench, chains: Sequence[Chain], count: int) -> dict[str, Drawn]:
    """Let every chain draw the same held-out pictures' classes, and measure what comes.

    Args:
        bench: Its seed draws.
        chains: Of one set and one size, told a class each.
        count: Pictures a chain.
    """
    first = chains[0].system
    heldout = open_data(first.recipe.data.set, size=first.tokenizer.media.size[0], split="heldout")
    rows = spread(len(heldout), count)
    classes = [heldout.classes[heldout.labels[row] or 0] for row in rows]
    extractor = FeatureExtractor()
    reference = extractor.extract(heldout.media(spread(len(heldout), max(count, bench.scaled(len(heldout)))))).values
    paces = _paces(bench, chains, classes)
    drawn = {}
    for chain in chains:
        bench.tell(f"drawing {count} pictures by {chain.name}")
        pictures = chain.system.generate(classes=classes, seed=bench.seed).tensor
        features = extractor.extract(pictures).values
        drawn[chain.name] = Drawn(pictures, contributions(features, reference), kernel_distance(features, reference), paces[chain.name])
    return drawn


def _paces(bench: Bench, chains: Sequence[Chain], classes: Sequence[str]) -> dict[str, Tensor]:
    """Seconds a picture of each chain, in turns, so that a disturbance of the machine meets all."""
    told: dict[str, list[float]] = {chain.name: [] for chain in chains}
    some = [classes[index % len(classes)] for index in range(AT_ONCE)]
    for turn in range(bench.scaled(ROUNDS, 2) + 1):
        for chain in chains:
            begun = time.perf_counter()
            chain.system.generate(classes=some, seed=turn)
            if turn:  # the first round prepares what later ones use
                told[chain.name].append((time.perf_counter() - begun) / len(some))
    return {name: torch.tensor(seconds, dtype=torch.float64) for name, seconds in told.items()}


def nearer(better: Drawn, worse: Drawn, seed: int, confidence: float) -> Estimate:
    """How much nearer to real pictures one chain's are than the other's, class by class."""
    return bootstrap(worse.distance - better.distance, seed, confidence, "kernel distance")


def faster(better: Drawn, worse: Drawn, seed: int, confidence: float) -> Estimate:
    """How many times faster one chain draws than the other, round by round."""
    return bootstrap(worse.pace / better.pace, seed, confidence, "times")


def figures_of(chain: Chain, drawn: Drawn, seed: int) -> dict[str, Estimate]:
    """Everything measured of one chain."""
    layout, model = chain.system.tokenizer.layout, chain.system.generator
    own_term = drawn.overall - drawn.distance.mean().item()
    return {
        f"kernel distance, {chain.name}": bootstrap(drawn.distance + own_term, seed, unit="kernel distance"),
        f"time a picture, {chain.name}": bootstrap(drawn.pace, seed, unit="s"),
        f"tokens a picture, {chain.name}": exact(layout.positions),
        **({} if layout.bits is None else {f"bits a picture, {chain.name}": exact(layout.bits, "bit")}),
        f"pictures seen, {chain.name}": exact(chain.samples),
        f"seconds of training, {chain.name}": exact(chain.seconds, "s"),
        f"parameters, {chain.name}": exact(sum(weight.numel() for weight in model.parameters()) if model is not None else 0),
    }


def provenance_of(chains: Sequence[Chain], plans: Sequence[Plan], count: int) -> dict[str, Any]:
    """What the figures of two chains depend on."""
    return {
        "recipes": {plan.name: {"tokenizer": plan.tokenizer, "generator": plan.generator, "share": plan.share} for plan in plans},
        "distance": "unbiased MMD, kernel (x.y/D + 1)^3, EfficientNet-lite2 features, against held-out pictures",
        "drawn": count,
        "timed": f"{AT_ONCE} pictures at once, in turns",
        "sampling": {chain.name: chain.system.recipe.sampling.model_dump(mode="json") for chain in chains},
    }


REMARK = "one training of each chain: the intervals are over pictures drawn and rounds timed, not over other trainings"


def show(axes: Axes, drawn: Drawn, title: str) -> None:
    """The first few pictures of a chain."""
    axes.imshow(sheet(drawn.pictures[:SHOWN], columns=SHOWN // 2, padding=1), interpolation="nearest")
    axes.set_title(title)
    axes.axis("off")


def bars(axes: Axes, figures: dict[str, Estimate], what: str, names: Sequence[str], title: str) -> None:
    """One figure of both chains."""
    told = [figures[f"{what}, {name}"] for name in names]
    error = [[each.value - each.low for each in told], [each.high - each.value for each in told]]
    axes.bar(list(names), [each.value for each in told], yerr=error, color=["#2a7", "#999"], capsize=3)
    axes.set_title(title)
