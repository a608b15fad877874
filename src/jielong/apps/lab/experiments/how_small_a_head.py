"""Quality of a diffusion head by the size of its network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from jielong.apps.lab.mixtures import Mixtures, energy_distance
from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.toy_tasks import BATCH, LR, sample_head, train_head
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.heads.diffusion import Diffusion
from jielong.networks.denoiser import MLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS, COMPONENTS, CHANNELS, WIDTH = 8, 4, 8, 32
STEPS, ROUNDS, DRAWS, NFE = 1000, 32, 48, 25

Size = tuple[int, int]
"""Layers and width of a network."""
SIZES: tuple[Size, ...] = ((1, 8), (1, 32), (2, 32), (2, 64), (2, 128), (3, 192))
SMALL, TINY, LARGEST = (2, 64), (1, 8), (3, 192)
WITHIN, FAR = 1.1, 2.0


def judge(distances: Mapping[Size, Tensor], seed: int) -> list[Check]:
    """Checks of the claim.

    Args:
        distances: Energy distance of each round by size, ``(rounds,)``; rounds are paired by noise and data.
        seed: Seed of the resampling.
    """
    confidence = level(2)
    small, tiny, largest = (distances[size].double() for size in (SMALL, TINY, LARGEST))
    return [
        Check(
            f"{named(SMALL)}: energy distance minus {WITHIN:g} times that of {named(LARGEST)}",
            bootstrap(small - WITHIN * largest, seed, confidence, "energy distance"),
            "below",
            0.0,
        ),
        Check(
            f"{named(TINY)}: energy distance minus {FAR:g} times that of {named(LARGEST)}",
            bootstrap(tiny - FAR * largest, seed, confidence, "energy distance"),
            "above",
            0.0,
        ),
    ]


def named(size: Size) -> str:
    """A size in words."""
    layers, channels = size
    return f"{layers} {'layer' if layers == 1 else 'layers'} of {channels}"


class HowSmallAHead(Trial, name="how-small-a-head"):
    """Diffusion heads of six sizes on Gaussian mixtures."""

    claim = (
        "A diffusion head with two layers of 64 channels has an energy distance within 10% of that with three layers of 192, which has "
        "eight times the parameters, and one layer of 8 channels is too small."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train and sample a head of each size."""
        steps, rounds, draws = bench.scaled(STEPS, 2), bench.scaled(ROUNDS, 4), bench.scaled(DRAWS, 4)
        truth = Mixtures.drawn(KINDS, COMPONENTS, CHANNELS, WIDTH, bench.seed)
        right = truth.rounds(rounds, draws, bench.seed)
        distances: dict[Size, Tensor] = {}
        figures: dict[str, Estimate] = {}
        for size in SIZES:
            bench.log(f"training {named(size)}")
            layers, channels = size
            head = train_head(Diffusion(network=MLP(layers=layers, width=channels)), truth, steps, bench.seed)
            started = time.perf_counter()
            drawn = sample_head(head, truth, rounds, draws, bench.seed, NFE)
            seconds = (time.perf_counter() - started) / (rounds * draws * KINDS)
            distances[size] = energy_distance(drawn, right)
            figures[named(size)] = bootstrap(distances[size], bench.seed, unit="energy distance")
            figures[f"parameters, {named(size)}"] = exact(sum(weight.numel() for weight in head.parameters()))
            figures[f"microseconds per token, {named(size)}"] = exact(1e6 * seconds, "µs")
        # The lowest distance that can be measured.
        figures["an exact sampler"] = bootstrap(
            energy_distance(truth.rounds(rounds, draws, bench.seed + 1), right), bench.seed, unit="energy distance"
        )

        def draw(figure: Figure) -> None:
            _draw(figure, figures)

        return Outcome(
            judge(distances, bench.seed),
            figures,
            draw,
            (7.0, 4.5),
            {
                "head": f"diffusion, NFE per token {NFE}",
                "steps": steps,
                "batch": BATCH,
                "learning_rate": f"{LR}, linear decay to 0, the same for all sizes",
                "rounds": rounds,
                "draws": f"{draws} per round for each of {KINDS} hidden vectors",
                "truth": f"{KINDS} mixtures of {COMPONENTS} normals in {CHANNELS} dimensions",
            },
            (
                "one training run per head: intervals are over samples, not over training runs",
                "all sizes have the same training steps and learning rate; a larger one may need others",
            ),
        )


def _draw(figure: Figure, figures: Mapping[str, Estimate]) -> None:
    axes = figure.subplots()
    sizes = [figures[f"parameters, {named(size)}"].value for size in SIZES]
    values = [figures[named(size)] for size in SIZES]
    error = [[each.value - each.low for each in values], [each.high - each.value for each in values]]
    axes.errorbar(sizes, [each.value for each in values], yerr=error, fmt="o-", capsize=3)
    for size, parameters, each in zip(SIZES, sizes, values, strict=True):
        axes.annotate(named(size), (parameters, each.value), textcoords="offset points", xytext=(4, 6), fontsize=8)
    limit = figures["an exact sampler"]
    axes.axhspan(max(limit.low, 0.0), max(limit.high, 0.0), color="#2a7", alpha=0.2, label="an exact sampler")
    axes.set(xscale="log", xlabel="parameters of the head", ylabel="energy distance from the data")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.legend(fontsize=8)
