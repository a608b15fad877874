"""A picture token by token, group by group, scale by scale, and all at once, by the shipped models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.conditions.text import TEXT
from jielong.config.schema import Recipe
from jielong.core.tokens import Tokens
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.evaluation.attributes import AttributeJudge, accuracy_of_each
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.kernel import contributions, kernel_distance
from jielong.generation.callbacks import StepCallback, StepEvent
from jielong.heads.continuous import IterativeHead
from jielong.media.images import animation, from_tensor, sheet
from jielong.system import System, load
from jielong.system.inputs import gather, stage_names
from jielong.system.shipped import best_of, shipped_generators
from jielong.training.checkpoint import fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SET, PICTURES, REFERENCE, BATCH = "faces", 32, 256, 8
SHOWN, MOVING, FRAMES, SECONDS = 4, 3, 36, 5.0
"""Captions of the plot and of the animation, its frames and its duration."""
LESS = 0.05
"""Bound: how much lower the attribute accuracy of a picture drawn at once may be."""
AT_ONCE = "at once"


def _chain(order: str) -> Callable[[Recipe], bool]:
    return lambda each: each.order is not None and each.order.name == order and each.head is not None and each.head.name == "softmax"


def _joint(*heads: str) -> Callable[[Recipe], bool]:
    return lambda each: each.order is not None and each.order.name == "at_once" and each.head is not None and each.head.name in heads


STRATEGIES: Mapping[str, Callable[[Recipe], bool]] = {
    "raster": _chain("raster"),
    "masked": _chain("masked"),
    "next scale": _chain("next_scale"),
    AT_ONCE: _joint("flow_matching", "diffusion"),
    "at once, MeanFlow": _joint("mean_flow"),
    "at once, GAN": _joint("gan"),
}
"""Ways to a picture: chains of codes, then noise that becomes all tokens together."""


@dataclass(frozen=True)
class Drawn:
    """Pictures by one model.

    Attributes:
        model: Its name.
        pictures: ``(n, C, H, W)``, of the same captions and seeds for every model.
        right: Share of its caption's attributes that each picture shows, ``(n,)``.
        distance: Contribution of each picture to the kernel distance from held-out pictures, ``(n,)``.
        overall: The kernel distance.
        seconds: Seconds per picture of each batch, ``(b,)``.
        evaluations: Evaluations of a network that follow one another, for one picture.
        frames: Pictures of a few captions after each step, at most :data:`FRAMES`, ``(T, m, C, H, W)``.
    """

    model: str
    pictures: Tensor
    right: Tensor
    distance: Tensor
    overall: float
    seconds: Tensor
    evaluations: int
    frames: Tensor


def shipped(strategies: Mapping[str, Callable[[Recipe], bool]] = STRATEGIES) -> dict[str, str]:
    """The best shipped model of each strategy, by its held-out attribute accuracy; strategies without one are left out."""
    recipes = shipped_generators(SET)
    found = {name: best_of(recipes, wanted) for name, wanted in strategies.items()}
    return {name: model for name, model in found.items() if model is not None}


@contextmanager
def counted(system: System) -> Iterator[list[str]]:
    """Lists evaluations of a system's networks inside: ``step`` of the backbone, and ``head`` of an iterative head's network.

    Those of earlier stages of a cascade too.
    A head is called once a step, after the backbone; a backbone ``none`` has no network, but a head of one evaluation has.
    """
    calls, parts = list[str](), [part for each in _drawn_by(system) for part in _counted_parts(each)]

    def counting(work: Callable[..., object], name: str) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            calls.append(name)
            return work(*arguments, **options)

        return run

    try:
        for part, method, name in parts:
            object.__setattr__(part, method, counting(getattr(part, method), name))
        yield calls
    finally:
        for part, method, _ in parts:
            object.__delattr__(part, method)


def _drawn_by(system: System) -> Iterator[System]:
    """The system, and the earlier stages of a cascade."""
    yield system
    for name in stage_names(system.recipe):
        yield from _drawn_by(system.stages[name])


def _counted_parts(system: System) -> Iterator[tuple[Any, str, str]]:
    """Objects and their methods to count, each with the name of its evaluations."""
    assert system.generator is not None
    head, backbone = system.generator.head, system.recipe.backbone
    if not isinstance(head, IterativeHead) or (backbone is not None and backbone.name != "none"):
        yield head, "sample", "step"
    if isinstance(head, IterativeHead):
        yield head.network, "predict", "head"


def draw(system: System, captions: Sequence[str], seed: int, first: int = 0, on_step: StepCallback | None = None) -> Tokens:
    """Tokens for captions, together; earlier stages of a cascade run before. Captions have the numbers from ``first`` on."""
    numbers = range(first, first + len(captions))
    conditions = gather(system, {TEXT.keyword: list(captions)}, None, seed, indices=numbers).conditions
    return system.generate_tokens(conditions, seed=seed, batch=len(captions), indices=numbers, on_step=on_step)


def watch(system: System, captions: Sequence[str], seed: int) -> tuple[Tensor, int]:
    """Pictures after each step, at most :data:`FRAMES`, ``(T, m, C, H, W)``, and evaluations of the networks.

    The pictures are of the last stage of a cascade, and the evaluations of all.
    """
    events: list[StepEvent] = []
    with counted(system) as calls:
        draw(system, captions, seed, on_step=events.append)
    count = min(FRAMES, len(events))
    chosen = [events[(index + 1) * len(events) // count - 1] for index in range(count)]
    layout = system.tokenizer.layout
    frames = [system.decode_known(Tokens(event.values, layout), event.shown) for event in chosen]
    return torch.stack(frames), len(calls)


def draw_timed(system: System, captions: Sequence[str], seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of captions in batches, and seconds per picture of each batch; call it after :func:`watch`, which warms caches."""
    system.check(captions)  # keeps the states of the texts
    pictures, seconds = [], []
    for first in range(0, len(captions), BATCH):
        some = captions[first : first + BATCH]
        started = time.perf_counter()
        pictures.append(system.decode(draw(system, some, seed, first)))
        seconds.append((time.perf_counter() - started) / len(some))
    return torch.cat(pictures), torch.tensor(seconds, dtype=torch.float64)


def judge(drawn: Mapping[str, Drawn], seed: int) -> list[Check]:
    """Checks of the claim: the picture drawn at once against each chain, paired by caption."""
    chains = [name for name in drawn if name in ("raster", "masked", "next scale")]
    confidence = level(2 * len(chains))
    checks = []
    for name in chains:
        gain = drawn[AT_ONCE].right - drawn[name].right
        checks += [
            Check(
                f"{AT_ONCE}: attribute accuracy at most {LESS:.0%} below {name}",
                bootstrap(gain, seed, confidence, "of the attributes"),
                "above",
                -LESS,
            ),
            Check(
                f"{AT_ONCE}: kernel distance minus that of {name}",
                bootstrap(drawn[AT_ONCE].distance - drawn[name].distance, seed, confidence, "kernel distance"),
                "below",
                0.0,
            ),
        ]
    return checks


class TwoWorldLines(Trial, name="two-world-lines"):
    """The best shipped model of each strategy on the same captions and seeds, with its own sampling settings."""

    claim = "A picture that is drawn at once from noise shows its caption as well as one drawn as a chain of tokens, and is as realistic."
    needs = ("flow-faces", "maskgit-faces")

    def run(self, bench: Bench) -> Outcome:
        """Generate held-out captions with each model, and watch some appear."""
        models = shipped()
        heldout = open_data(SET, split="heldout")
        rows = spread(len(heldout), bench.scaled(PICTURES, 2))
        captions = [heldout.captions[row] for row in rows]
        attributes, extractor = AttributeJudge.of(SET), FeatureExtractor()
        if attributes is None:
            raise ValueError(f"the judge of attributes judge-{SET} is not installed: install jielong-zoo again")
        wanted = {name: [heldout.columns[name][row] for row in rows] for name in attributes.classes}
        reference = extractor.extract(heldout.media(spread(len(heldout), bench.scaled(REFERENCE, 8)))).values
        drawn: dict[str, Drawn] = {}
        provenance: dict[str, object] = {}
        figures: dict[str, Estimate] = {}
        for name, model in models.items():
            bench.log(f"{name}: generating {len(captions)} captions with {model}")
            system = load(model, "cpu")
            frames, evaluations = watch(system, [captions[place] for place in spread(len(captions), MOVING)], bench.seed)
            pictures, seconds = draw_timed(system, captions, bench.seed)
            features = extractor.extract(pictures).values
            distances = contributions(features, reference), kernel_distance(features, reference)
            right = accuracy_of_each(pictures, wanted, attributes)
            drawn[name] = Drawn(model, pictures, right, *distances, seconds, evaluations, frames)
            provenance[name] = _origin(model, system)
            figures |= _figures(name, drawn[name], system, bench.seed)

        def draw(figure: Figure) -> None:
            _draw(figure, drawn, figures)

        return Outcome(
            judge(drawn, bench.seed),
            figures,
            draw,
            (11.0, 1.45 * len(drawn) + 0.8),
            {
                "models": provenance,
                "captions": {
                    "set": heldout.name,
                    "split": "heldout",
                    "n": len(captions),
                    "captions": captions,
                    "data_sha256": heldout.fingerprint,
                },
                "distance": "unbiased MMD, kernel (x.y/D + 1)^3, EfficientNet-lite2 features, against held-out images",
                "timed": f"batches of {BATCH}, decoding included, text embeddings excluded",
            },
            (
                "the best shipped model of each strategy by its held-out attribute accuracy, with its own sampling settings",
                "sizes and training budgets differ: see the figures",
                "evaluations of a network that follow one another for one picture; with guidance each is of two rows",
                *(f"{name}: no shipped model" for name in STRATEGIES if name not in models),
            ),
            {"animation.webp": moving(drawn)},
        )


def _origin(model: str, system: System) -> dict[str, object]:
    sampling = system.recipe.sampling.model_dump(mode="json", exclude_none=True)
    return {
        "model": model,
        "weights_sha256": None if system.generator is None else fingerprint(system.generator),
        "sampling": sampling,
        "samples_seen": system.recipe.train.samples,
    }


def _figures(name: str, drawn: Drawn, system: System, seed: int) -> dict[str, Estimate]:
    parameters = 0 if system.generator is None else sum(weight.numel() for weight in system.generator.parameters())
    return {
        f"attribute accuracy, {name}": bootstrap(drawn.right, seed),
        f"kernel distance, {name}": bootstrap(drawn.distance + (drawn.overall - drawn.distance.mean()), seed, unit="kernel distance"),
        f"time per image, {name}": bootstrap(drawn.seconds, seed, unit="s"),
        f"evaluations per image, {name}": exact(drawn.evaluations),
        f"parameters, {name}": exact(parameters),
        f"images seen, {name}": exact(system.recipe.train.samples),
    }


def moving(drawn: Mapping[str, Drawn]) -> bytes:
    """An animation of all models side by side, each from its first to its last step in the same time, a column each."""
    count = max(len(each.frames) for each in drawn.values())
    names = [f"{name} ({each.evaluations})" for name, each in drawn.items()]
    pictures: list[Image.Image] = []
    for index in range(count):
        now = [each.frames[max(0, (index + 1) * len(each.frames) // count - 1)] for each in drawn.values()]
        cells = [from_tensor(each[row]) for row in range(len(now[0])) for each in now]
        captions = [*names, *[""] * (len(cells) - len(names))]
        pictures.append(sheet(cells, columns=len(names), captions=captions, scale=2))
    each = SECONDS / count
    return animation(pictures, [*[each] * (count - 1), SECONDS / 2])


def _draw(figure: Figure, drawn: Mapping[str, Drawn], figures: Mapping[str, Estimate]) -> None:
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=[2.1, 1])
    for row, (name, each) in zip(left.subplots(len(drawn), 2, squeeze=False, width_ratios=[1.5, 1]), drawn.items(), strict=True):
        places = sorted({place * (len(each.frames) - 1) // (SHOWN - 1) for place in range(SHOWN)})
        states = each.frames[places, 0]
        blank = states.new_ones(SHOWN - len(states), *states.shape[1:])  # white, so that all rows have one size
        shown = each.pictures[spread(len(each.pictures), SHOWN)], torch.cat([states, blank])
        for axes, pictures in zip(row, shown, strict=True):
            axes.imshow(sheet(pictures, columns=SHOWN, padding=1), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(f"{name}\n{each.model}", rotation=0, ha="right", va="center")
        row[1].set_title(f"drawn in {each.evaluations} evaluation{'s' if each.evaluations > 1 else ''}", fontsize=8)
    names = list(drawn)
    for axes, what in zip(
        right.subplots(4, 1), ("attribute accuracy", "kernel distance", "evaluations per image", "time per image"), strict=True
    ):
        bars = [figures[f"{what}, {name}"] for name in names]
        error = [[max(0.0, bar.value - bar.low) for bar in bars], [max(0.0, bar.high - bar.value) for bar in bars]]
        colors = ["#c73" if name.startswith(AT_ONCE) else "#2a7" for name in names]
        axes.barh(names, [bar.value for bar in bars], xerr=error, color=colors, capsize=2)
        axes.invert_yaxis()
        axes.set_title(f"{what}{', s' if what.startswith('time') else ''}")
