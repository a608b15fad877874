"""Quality of every head for continuous tokens by NFE per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from jielong.apps.lab.mixture_heads import CHANNELS, EXACT, REMARK, WIDTH, MixtureTask, show_exact
from jielong.apps.lab.statistics import Estimate, bootstrap, level
from jielong.apps.lab.toy_tasks import BATCH, continuous_heads
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NFE, MANY, FEW = (1, 2, 4, 8, 16, 32, 64, 100), 100, 2
"""NFE per token of iterative heads, that of the reference, and the largest of a few-step head."""
REFERENCE, WITHIN = "diffusion", 1.1
TWICE = 2.0
OF_ITS_FORM = ("gaussian_mixture", "semantic_acoustic")
"""Heads with the parametric form of the data (mixtures): shown, but not a candidate."""
_NETWORK = {"mlp": {"layers": 2, "width": 96}}

Distances = Mapping[tuple[str, int], Tensor]
"""Energy distance of each round, ``(rounds,)``, by head and NFE."""


def best_of_few(distances: Distances) -> tuple[str, int]:
    """The few-step head and NFE (at most :data:`FEW`) with the lowest distance in the first half of the rounds.

    Candidates exclude the reference and heads with the form of the data.
    """
    few = [each for each in distances if each[0] not in (REFERENCE, *OF_ITS_FORM) and each[1] <= FEW]
    return min(few, key=lambda each: float(distances[each][: len(distances[each]) // 2].mean()))


def judge(distances: Distances, seed: int) -> list[Check]:
    """Checks of the claim, on the second half of the rounds.

    Args:
        distances: Energy distances; rounds are paired by noise and data.
        seed: Seed of the resampling.
    """
    confidence = level(2)
    name, nfe = best_of_few(distances)
    half = len(distances[name, nfe]) // 2
    best, many, one = (distances[each][half:].double() for each in ((name, nfe), (REFERENCE, MANY), (REFERENCE, 1)))
    return [
        Check(
            f"{name}, NFE {nfe}: energy distance minus {WITHIN:g} times that of {REFERENCE}, NFE {MANY}",
            bootstrap(best - WITHIN * many, seed, confidence, "energy distance"),
            "below",
            0.0,
        ),
        Check(
            f"{REFERENCE}, NFE 1: energy distance minus {TWICE:g} times that of NFE {MANY}",
            bootstrap(one - TWICE * many, seed, confidence, "energy distance"),
            "above",
            0.0,
        ),
    ]


class HowManySteps(Trial, name="how-many-steps"):
    """Every head for continuous tokens on Gaussian mixtures, at 1 to 100 NFE per token."""

    claim = (
        "Diffusion needs many NFE per token, and a head trained for one or two steps has an energy distance within 10% of diffusion with "
        "100 NFE."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train each head and sample it at each NFE."""
        task = MixtureTask.of(bench)
        parts = continuous_heads(WIDTH, CHANNELS, task.steps * BATCH, _NETWORK)
        distances: dict[tuple[str, int], Tensor] = {}
        for name, part in parts.items():
            bench.log(f"training {name}")
            head = task.train(part)
            for nfe in NFE if head.iterative else (1,):
                distances[name, nfe] = task.distance(task.sample(head, nfe if head.iterative else None))
        figures = {f"{name}, NFE {nfe}": task.estimate(each) for (name, nfe), each in distances.items()}
        figures[EXACT] = task.exact_sampler()

        def draw(figure: Figure) -> None:
            _draw(figure, list(parts), distances, figures[EXACT])

        return Outcome(
            judge(distances, bench.seed),
            figures,
            draw,
            (8.5, 5.0),
            {"heads": {name: part.model_dump(mode="json")[name] for name, part in parts.items()}, **task.provenance()},
            (
                REMARK,
                "the few-step head is selected on the first half of the rounds and tested on the second",
                "all networks have two layers of 96 channels and the same training steps; the cost of a step differs",
            ),
        )


def _draw(figure: Figure, names: Sequence[str], distances: Distances, exact: Estimate) -> None:
    axes = figure.subplots()
    for name in names:
        counts = [nfe for head, nfe in distances if head == name]
        means = [float(distances[name, each].mean()) for each in counts]
        axes.plot(counts, means, "o-" if len(counts) > 1 else "D", label=name.replace("_", " "), markersize=5)
    show_exact(axes, exact)
    axes.set_xlabel("NFE per token")
    axes.set_xticks(NFE, [str(each) for each in NFE])
    axes.minorticks_off()
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
