"""How small a head: quality of a diffusion head against the layers and channels of its network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from jielong.apps.lab.mixtures import Mixtures, energy_distance
from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.toy_tasks import BATCH, LR, ask, teach
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.heads.diffusion import Diffusion
from jielong.networks.denoiser import MLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS, COMPONENTS, CHANNELS, WIDTH = 8, 4, 8, 32
STEPS, ROUNDS, DRAWS, EVALUATIONS = 1000, 32, 48, 25

Size = tuple[int, int]
"""Layers and channels of a network."""
SIZES: tuple[Size, ...] = ((1, 8), (1, 32), (2, 32), (2, 64), (2, 128), (3, 192))
SMALL, TINY, LARGEST = (2, 64), (1, 8), (3, 192)
WITHIN, FAR = 1.1, 2.0


def judge(told: Mapping[Size, Tensor], seed: int) -> list[Check]:
    """The bounds that the claim must keep.

    Args:
        told: Sizes to the energy distance of each round, ``(rounds,)``; rounds are paired, since all heads begin at the same noise and face
            the same right tokens.
        seed: Of the resampling.
    """
    sure = level(2)
    small, tiny, largest = (told[size].double() for size in (SMALL, TINY, LARGEST))
    return [
        Check(
            f"{named(SMALL)}: its energy distance beyond {WITHIN:g} times that of {named(LARGEST)}",
            bootstrap(small - WITHIN * largest, seed, sure, "energy distance"),
            "below",
            0.0,
        ),
        Check(
            f"{named(TINY)}: its energy distance beyond {FAR:g} times that of {named(LARGEST)}",
            bootstrap(tiny - FAR * largest, seed, sure, "energy distance"),
            "above",
            0.0,
        ),
    ]


def named(size: Size) -> str:
    """A size in words."""
    layers, channels = size
    return f"{layers} {'layer' if layers == 1 else 'layers'} of {channels}"


class HowSmallAHead(Trial, name="how-small-a-head"):
    """Diffusion heads of six sizes on tokens whose distribution is known."""

    claim = (
        "The network of a head can be small: with two layers of 64 channels it draws as near to the truth as with three of 192, which has "
        "eight times the weights, give or take a tenth, though one layer of 8 is too small."
    )

    def run(self, bench: Bench) -> Outcome:
        """Teach a head of each size, and ask it."""
        steps, rounds, draws = bench.scaled(STEPS, 2), bench.scaled(ROUNDS, 4), bench.scaled(DRAWS, 4)
        truth = Mixtures.drawn(KINDS, COMPONENTS, CHANNELS, WIDTH, bench.seed)
        right = truth.rounds(rounds, draws, bench.seed)
        told: dict[Size, Tensor] = {}
        figures: dict[str, Estimate] = {}
        for size in SIZES:
            bench.tell(f"teaching {named(size)}")
            layers, channels = size
            head = teach(Diffusion(network=MLP(layers=layers, width=channels)), truth, steps, bench.seed)
            begun = time.perf_counter()
            drawn = ask(head, truth, rounds, draws, bench.seed, EVALUATIONS)
            seconds = (time.perf_counter() - begun) / (rounds * draws * KINDS)
            told[size] = energy_distance(drawn, right)
            figures[named(size)] = bootstrap(told[size], bench.seed, unit="energy distance")
            figures[f"parameters, {named(size)}"] = exact(sum(weight.numel() for weight in head.parameters()))
            figures[f"microseconds a token, {named(size)}"] = exact(1e6 * seconds, "µs")
        # What an exact sampler would come to: below this nothing can be told from the truth.
        figures["an exact sampler"] = bootstrap(
            energy_distance(truth.rounds(rounds, draws, bench.seed + 1), right), bench.seed, unit="energy distance"
        )

        def draw(figure: Figure) -> None:
            _draw(figure, figures)

        return Outcome(
            judge(told, bench.seed),
            figures,
            draw,
            (7.0, 4.5),
            {
                "head": f"diffusion, {EVALUATIONS} evaluations a token",
                "steps": steps,
                "batch": BATCH,
                "learning_rate": f"{LR}, falling to 0 in a straight line, the same for all sizes",
                "rounds": rounds,
                "draws": f"{draws} of each of {KINDS} hidden vectors in a round",
                "truth": f"{KINDS} mixtures of {COMPONENTS} normals in {CHANNELS} dimensions",
            },
            (
                "each head is trained once: intervals are over draws, not over trainings",
                "all sizes learn for the same steps; a larger one may want more of them, or another rate",
            ),
        )


def _draw(figure: Figure, figures: Mapping[str, Estimate]) -> None:
    axes = figure.subplots()
    sizes = [figures[f"parameters, {named(size)}"].value for size in SIZES]
    told = [figures[named(size)] for size in SIZES]
    error = [[each.value - each.low for each in told], [each.high - each.value for each in told]]
    axes.errorbar(sizes, [each.value for each in told], yerr=error, fmt="o-", capsize=3)
    for size, where, each in zip(SIZES, sizes, told, strict=True):
        axes.annotate(named(size), (where, each.value), textcoords="offset points", xytext=(4, 6), fontsize=8)
    limit = figures["an exact sampler"]
    axes.axhspan(max(limit.low, 0.0), max(limit.high, 0.0), color="#2a7", alpha=0.2, label="an exact sampler")
    axes.set(xscale="log", xlabel="parameters of the head", ylabel="energy distance from the truth")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.legend(fontsize=8)
