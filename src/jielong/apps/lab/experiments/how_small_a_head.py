"""Quality of a diffusion head by the size of its network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from jielong.apps.lab.mixture_heads import EXACT, KINDS, REMARK, MixtureTask, show_exact
from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.heads.diffusion import Diffusion
from jielong.networks.denoiser import MLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NFE = 25

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
        task = MixtureTask.of(bench)
        distances: dict[Size, Tensor] = {}
        figures: dict[str, Estimate] = {}
        for size in SIZES:
            bench.log(f"training {named(size)}")
            layers, channels = size
            head = task.train(Diffusion(network=MLP(layers=layers, width=channels)))
            started = time.perf_counter()
            samples = task.sample(head, NFE)
            seconds = (time.perf_counter() - started) / (task.rounds * task.draws * KINDS)
            distances[size] = task.distance(samples)
            figures[named(size)] = task.estimate(distances[size])
            figures[f"parameters, {named(size)}"] = exact(sum(weight.numel() for weight in head.parameters()))
            figures[f"microseconds per token, {named(size)}"] = exact(1e6 * seconds, "µs")
        figures[EXACT] = task.exact_sampler()

        def draw(figure: Figure) -> None:
            _draw(figure, figures)

        return Outcome(
            judge(distances, bench.seed),
            figures,
            draw,
            (7.0, 4.5),
            {"head": f"diffusion, NFE per token {NFE}", **task.provenance()},
            (REMARK, "all sizes have the same training steps and learning rate; a larger one may need others"),
        )


def _draw(figure: Figure, figures: Mapping[str, Estimate]) -> None:
    axes = figure.subplots()
    sizes = [figures[f"parameters, {named(size)}"].value for size in SIZES]
    values = [figures[named(size)] for size in SIZES]
    error = [[each.value - each.low for each in values], [each.high - each.value for each in values]]
    axes.errorbar(sizes, [each.value for each in values], yerr=error, fmt="o-", capsize=3)
    for size, parameters, each in zip(SIZES, sizes, values, strict=True):
        axes.annotate(named(size), (parameters, each.value), textcoords="offset points", xytext=(4, 6), fontsize=8)
    show_exact(axes, figures[EXACT])
    axes.set_xlabel("parameters of the head")
    axes.legend(fontsize=8)
