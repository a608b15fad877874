"""Two valid images for one condition: regression predicts their mean, other heads sample both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level, share
from jielong.apps.lab.toy_tasks import BATCH, LR, continuous_heads, train_head
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.heads.base import HeadSettings
from jielong.media.images import from_tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REGRESSION = "regression"
STEPS, DRAWS = 1000, 400
WIDTH, BLUR = 32, 0.1
"""Width of the hidden vectors, and standard deviation of the data around each mode."""
CAPTIONS = ("dog, Noto style", "dog, Twemoji style")
OTHERS, SIZE, SHOWN = 7, 64, 4
NEAR, MOST, EACH, TENTH = 0.25, 0.75, 0.25, 0.1
"""Bounds: a sample belongs to a mode within ``NEAR`` of the distance between the modes; fraction of samples in any mode; fraction in each
mode; energy distance relative to regression's."""

_NETWORK = {"mlp": {"layers": 2, "width": 64}}
_SMALL: Mapping[str, Mapping[str, object]] = {
    "gaussian_mixture": {"components": 8},
    "energy": {"layers": 2, "width": 64},
    "consistency": {"network": _NETWORK, "levels": {"last": 160}},
}
"""Further settings of heads; their networks all have one size."""


@dataclass(frozen=True)
class BimodalTask:
    """A distribution with two modes of equal weight for each of ``K`` hidden vectors.

    Attributes:
        name: Name in figures.
        modes: Means, ``(K, 2, C)``.
        hidden: Hidden vectors, ``(K, D)``.
    """

    name: str
    modes: Tensor
    hidden: Tensor

    @property
    def channels(self) -> int:
        """Channels ``C`` of a token."""
        return self.modes.shape[-1]

    def sample(self, count: int) -> Tensor:
        """Tokens ``(K, count, C)``, from torch's global generator."""
        kinds, _, channels = self.modes.shape
        which = torch.randint(2, (kinds, count, 1)).expand(-1, -1, channels)
        return self.modes.gather(1, which) + BLUR * torch.randn(kinds, count, channels)


@dataclass(frozen=True)
class HeadSamples:
    """Samples of a head and their measures.

    Attributes:
        values: ``(K, n, C)``.
        hits: Mode of each sample, ``(K, n, 2)`` bool; all false if it is in neither.
        distance: Contribution of each sample to the energy distance from the data, ``(K n,)``.
        centred: Largest distance over ``K`` of the samples' mean from the midpoint of the modes, relative to half their separation.
    """

    values: Tensor
    hits: Tensor
    distance: Tensor
    centred: float


class LinearTokens:
    """PCA tokenizer: one token per image, its whitened coordinates on the principal axes of a few images.

    Args:
        pictures: ``(n, C, H, W)``, which ``n - 1`` channels represent without loss.
    """

    def __init__(self, pictures: Tensor) -> None:
        self.shape = pictures.shape[1:]
        flat = pictures.flatten(1)
        self.mean = flat.mean(0)
        _, spreads, axes = torch.linalg.svd(flat - self.mean, full_matrices=False)
        self.axes = axes[:-1] * (spreads[:-1, None] / len(pictures) ** 0.5)

    def encode(self, pictures: Tensor) -> Tensor:
        """``(n, C, H, W)`` to ``(n, channels)``."""
        return (pictures.flatten(1) - self.mean) @ torch.linalg.pinv(self.axes)

    def decode(self, tokens: Tensor) -> Tensor:
        """``(n, channels)`` to ``(n, C, H, W)`` in [-1, 1]."""
        return (tokens @ self.axes + self.mean).unflatten(1, self.shape).clamp(-1, 1)


def heads(channels: int, samples: int) -> dict[str, HeadSettings]:
    """Settings of every head for continuous tokens, by name, regression first.

    Args:
        channels: Channels of a token.
        samples: Training samples, for heads with a schedule.
    """
    found = continuous_heads(WIDTH, channels, samples, _NETWORK, _SMALL)
    return {name: found[name] for name in sorted(found, key=lambda name: (name != REGRESSION, name))}


def measure(task: BimodalTask, values: Tensor, seed: int) -> HeadSamples:
    """Compare samples ``(K, n, C)`` with the modes and with as many tokens of the task."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        data = task.sample(values.shape[1])
    separation = (task.modes[:, 0] - task.modes[:, 1]).norm(dim=-1)
    hits = torch.cdist(values, task.modes) < NEAR * separation[:, None, None]
    across, within = torch.cdist(values, data).mean(2), torch.cdist(values, values).mean(2)
    # E = 2 mean|x - y| - mean|x - x'| - mean|y - y'|. A sample is in both arguments of the second mean, so resampling counts it twice.
    constant = torch.cdist(data, data).mean((1, 2))[:, None]
    distance = 2 * across - 2 * within + within.mean(1, keepdim=True) - constant
    offset = (values.mean(1) - task.modes.mean(1)).norm(dim=-1) / (separation / 2)
    return HeadSamples(values, hits, distance.flatten(), float(offset.max()))


def rarer(samples: HeadSamples) -> Tensor:
    """Samples, ``(n,)`` bool, in the least frequent mode over all hidden vectors."""
    return min(samples.hits.permute(0, 2, 1).flatten(0, 1), key=lambda each: int(each.sum()))


def judge(samples: Mapping[str, Mapping[str, HeadSamples]], seed: int) -> list[Check]:
    """Checks of the claim.

    Args:
        samples: Samples by task and head.
        seed: Seed of the resampling.
    """
    confidence = level(sum(1 + 3 * (len(heads) - 1) for heads in samples.values()))
    checks = []
    for task, by_head in samples.items():
        average = by_head[REGRESSION]
        checks.append(
            Check(
                f"{task}: regression is within a quarter of the midpoint between the modes",
                exact(1.0 if average.values.std(1).max() > 0 else average.centred),
                "below",
                NEAR,
            )
        )
        far = float(average.distance.mean())
        for name, each in by_head.items():
            if name == REGRESSION:
                continue
            checks += [
                Check(
                    f"{task}: at least 75% of {name} samples are in a mode", share(each.hits.any(-1).flatten(), confidence), "above", MOST
                ),
                Check(f"{task}: each mode has at least 25% of {name} samples", share(rarer(each), confidence), "above", EACH),
                Check(
                    f"{task}: the energy distance of {name} is at most a tenth of regression's",
                    bootstrap(each.distance / far, seed, confidence, "of regression's energy distance"),
                    "below",
                    TENTH,
                ),
            ]
    return checks


class TwoDogs(Trial, name="two-dogs"):
    """Every head for continuous tokens on two bimodal tasks: points in a plane, and two images of a dog."""

    claim = "On a bimodal target, a regression head predicts the mean of the modes, and every head that learns a distribution samples both."

    def run(self, bench: Bench) -> Outcome:
        """Train and sample each head on both tasks."""
        steps, draws = bench.scaled(STEPS, 2), bench.scaled(DRAWS, 8)
        images = open_data("emoji", size=SIZE)
        captions = list(images.captions)
        rows = [*map(captions.index, CAPTIONS), *spread(len(images), OTHERS)]
        tokenizer = LinearTokens(images.media(rows))
        dogs = tokenizer.encode(images.media(rows[:2]))
        generator = torch.Generator().manual_seed(bench.seed)
        hidden = torch.randn(2, WIDTH, generator=generator)
        corners = torch.tensor([[[-1.0, -1.0], [1.0, 1.0]], [[-1.0, 1.0], [1.0, -1.0]]])
        tasks = [BimodalTask("points", corners, hidden), BimodalTask("dogs", dogs[None], hidden[:1])]
        samples: dict[str, dict[str, HeadSamples]] = {}
        settings: dict[str, object] = {}
        for task in tasks:
            by_head = samples.setdefault(task.name, {})
            for name, part in heads(task.channels, steps * BATCH).items():
                bench.log(f"training {name} on {task.name}")
                head = train_head(part, task, steps, bench.seed)
                expanded = task.hidden[:, None].expand(-1, draws, -1)
                with torch.no_grad():
                    values = head.sample(expanded, PerSampleRNG(bench.seed, range(len(expanded))), SamplingConfig()).values
                by_head[name] = measure(task, values, bench.seed)
                settings[name] = part.model_dump(mode="json")[name]
        figures = {
            f"{what}, {task}, {name}": estimate
            for task, by_head in samples.items()
            for name, each in by_head.items()
            for what, estimate in _figures(each, bench.seed).items()
        }

        def draw(figure: Figure) -> None:
            _draw(figure, tasks, samples, tokenizer, figures)

        return Outcome(
            judge(samples, bench.seed),
            figures,
            draw,
            (11.0, 7.4),
            {
                "heads": settings,
                "steps": steps,
                "batch": BATCH,
                "learning_rate": f"{LR}, linear decay to 0",
                "draws": draws,
                "blur": BLUR,
                "pictures": {"set": images.name, "captions": list(CAPTIONS), "data_sha256": images.fingerprint},
                "tokens": f"PCA: one token of {dogs.shape[-1]} channels per image, from {len(rows)} images",
            },
            (
                "one training run per head and task: intervals are over samples, not over training runs",
                "all networks have two layers of 64 channels and the same number of training steps; their cost differs",
            ),
        )


def _figures(samples: HeadSamples, seed: int) -> dict[str, Estimate]:
    return {
        "samples in a mode": share(samples.hits.any(-1).flatten()),
        "samples in the rarer mode": share(rarer(samples)),
        "energy distance": bootstrap(samples.distance, seed, unit="energy distance"),
    }


def _draw(
    figure: Figure,
    tasks: Sequence[BimodalTask],
    samples: Mapping[str, Mapping[str, HeadSamples]],
    tokenizer: LinearTokens,
    figures: Mapping[str, Estimate],
) -> None:
    points, dogs = tasks
    names = list(samples[points.name])
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[3, 1])
    grid = above.subplots(1 + SHOWN, 1 + len(names), squeeze=False, height_ratios=[1.4] + [1] * SHOWN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        columns = {"data": (points.sample(200), dogs.modes[0].repeat(SHOWN // 2, 1))}
    columns |= {name: (samples[points.name][name].values[:, :200], samples[dogs.name][name].values[0, :SHOWN]) for name in names}
    for column, (name, (places, tokens)) in zip(grid.T, columns.items(), strict=True):
        for each, colour in zip(places, ("#2a7", "#c73"), strict=True):
            column[0].plot(*each.T.tolist(), ".", color=colour, markersize=8 if name == REGRESSION else 2)
        column[0].set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xticks=[], yticks=[])
        column[0].set_title(name.replace("_", "\n"))
        for axes, picture in zip(column[1:], tokenizer.decode(tokens), strict=True):
            axes.imshow(from_tensor(picture), interpolation="nearest")
            axes.axis("off")
    for axes, task in zip(below.subplots(1, 2), tasks, strict=True):
        bars = [figures[f"energy distance, {task.name}, {name}"] for name in names]
        error = [[max(0.0, bar.value - bar.low) for bar in bars], [max(0.0, bar.high - bar.value) for bar in bars]]
        colours = ["#c73" if name == REGRESSION else "#2a7" for name in names]
        axes.bar([name.replace("_", "\n") for name in names], [bar.value for bar in bars], yerr=error, color=colours, capsize=3)
        axes.set_title(f"energy distance from the data, {task.name}")
        axes.tick_params(axis="x", labelsize=7)
