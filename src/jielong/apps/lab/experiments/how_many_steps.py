"""How many steps: quality of every head of continuous tokens against the evaluations of its network that a token costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from jielong.apps.lab.mixtures import Mixtures, energy_distance
from jielong.apps.lab.statistics import Estimate, bootstrap, level
from jielong.apps.lab.toy_tasks import BATCH, LR, ask, continuous_heads, teach
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS, COMPONENTS, CHANNELS, WIDTH = 8, 4, 8, 32
STEPS, ROUNDS, DRAWS = 1000, 32, 48
EVALUATIONS, MANY, FEW = (1, 2, 4, 8, 16, 32, 64, 100), 100, 2
"""What is asked of heads that draw in several evaluations, the number that all are held to, and what counts as few."""
REFERENCE, WITHIN = "diffusion", 1.1
TWICE = 2.0
OF_ITS_FORM = ("gaussian_mixture", "semantic_acoustic")
"""Heads whose own form is that of the truth here, a few clusters: shown, but no proof that others need few evaluations."""
_NETWORK = {"mlp": {"layers": 2, "width": 96}}

Told = Mapping[tuple[str, int], Tensor]
"""Names of heads and evaluations to the energy distance of each round, ``(rounds,)``."""


def best_of_few(told: Told) -> tuple[str, int]:
    """The head and number of evaluations (:data:`FEW` at most) that do best in the first half of the rounds.

    Neither the reference nor a head of the truth's own form can be it.
    """
    few = [each for each in told if each[0] not in (REFERENCE, *OF_ITS_FORM) and each[1] <= FEW]
    return min(few, key=lambda each: float(told[each][: len(told[each]) // 2].mean()))


def judge(told: Told, seed: int) -> list[Check]:
    """The bounds that the claim must keep, on the rounds that chose nothing.

    Args:
        told: What each head came to; rounds are paired, since all heads begin at the same noise and face the same right tokens.
        seed: Of the resampling.
    """
    sure = level(2)
    name, evaluations = best_of_few(told)
    held = len(told[name, evaluations]) // 2
    best, many, one = (told[each][held:].double() for each in ((name, evaluations), (REFERENCE, MANY), (REFERENCE, 1)))
    return [
        Check(
            f"{name} in {evaluations}: its energy distance beyond {WITHIN:g} times that of {REFERENCE} in {MANY}",
            bootstrap(best - WITHIN * many, seed, sure, "energy distance"),
            "below",
            0.0,
        ),
        Check(
            f"{REFERENCE} in 1: its energy distance beyond {TWICE:g} times its own in {MANY}",
            bootstrap(one - TWICE * many, seed, sure, "energy distance"),
            "above",
            0.0,
        ),
    ]


class HowManySteps(Trial, name="how-many-steps"):
    """Every head of continuous tokens on tokens whose distribution is known, at 1 to 100 evaluations a token."""

    claim = (
        "Diffusion needs many evaluations of its network for a token, and a head that was taught to take one or two is as near to the "
        "truth as diffusion in a hundred, give or take a tenth."
    )

    def run(self, bench: Bench) -> Outcome:
        """Teach each head, and ask it at each number of evaluations."""
        steps, rounds, draws = bench.scaled(STEPS, 2), bench.scaled(ROUNDS, 4), bench.scaled(DRAWS, 4)
        truth = Mixtures.drawn(KINDS, COMPONENTS, CHANNELS, WIDTH, bench.seed)
        right = truth.rounds(rounds, draws, bench.seed)
        parts = continuous_heads(WIDTH, CHANNELS, steps * BATCH, _NETWORK)
        told: dict[tuple[str, int], Tensor] = {}
        for name, part in parts.items():
            bench.tell(f"teaching {name}")
            head = teach(part, truth, steps, bench.seed)
            for evaluations in EVALUATIONS if head.iterative else (1,):
                drawn = ask(head, truth, rounds, draws, bench.seed, evaluations if head.iterative else None)
                told[name, evaluations] = energy_distance(drawn, right)
        figures = {
            f"{name}, {evaluations} evaluation{'s' if evaluations > 1 else ''}": bootstrap(each, bench.seed, unit="energy distance")
            for (name, evaluations), each in told.items()
        }
        # What an exact sampler would come to: below this nothing can be told from the truth.
        exact = energy_distance(truth.rounds(rounds, draws, bench.seed + 1), right)
        figures["an exact sampler"] = bootstrap(exact, bench.seed, unit="energy distance")

        def draw(figure: Figure) -> None:
            _draw(figure, list(parts), told, figures["an exact sampler"])

        chosen: dict[str, Any] = {name: part.model_dump(mode="json")[name] for name, part in parts.items()}
        return Outcome(
            judge(told, bench.seed),
            figures,
            draw,
            (8.5, 5.0),
            {
                "heads": chosen,
                "steps": steps,
                "batch": BATCH,
                "learning_rate": f"{LR}, falling to 0 in a straight line",
                "rounds": rounds,
                "draws": f"{draws} of each of {KINDS} hidden vectors in a round",
                "truth": f"{KINDS} mixtures of {COMPONENTS} normals in {CHANNELS} dimensions",
            },
            (
                "each head is trained once: intervals are over draws, not over trainings",
                "the head of few evaluations is chosen by the first half of the rounds, and judged by the second",
                "all networks have two layers of 96 channels and the same steps of training; what a step costs differs",
            ),
        )


def _draw(figure: Figure, names: Sequence[str], told: Told, exact: Estimate) -> None:
    axes = figure.subplots()
    for name in names:
        at = [evaluations for head, evaluations in told if head == name]
        axes.plot(
            at, [float(told[name, each].mean()) for each in at], "o-" if len(at) > 1 else "D", label=name.replace("_", " "), markersize=5
        )
    axes.axhspan(max(exact.low, 0.0), max(exact.high, 0.0), color="#2a7", alpha=0.2, label="an exact sampler")
    axes.set(xscale="log", xlabel="evaluations of the network for a token", ylabel="energy distance from the truth")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_xticks(EVALUATIONS, [str(each) for each in EVALUATIONS])
    axes.minorticks_off()
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
