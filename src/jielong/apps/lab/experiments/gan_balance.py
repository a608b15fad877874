"""Stability of adversarial training against flow matching, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from jielong.apps.lab.mixtures import energy_distance
from jielong.apps.lab.players import Adam, sample_block, train_players
from jielong.apps.lab.ring import NEAR, Ring
from jielong.apps.lab.statistics import Estimate, exact, level, student
from jielong.apps.lab.toy_tasks import BATCH
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.heads.base import HeadSettings
from jielong.heads.flow_matching import FlowMatching, Times
from jielong.heads.gan import GAN
from jielong.networks.denoiser import MLP
from jielong.networks.vector_mlp import MLPFromTokens, MLPToTokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RING = Ring(8, 12.0)
"""Eight normals, nine deviations apart."""
SEEDS, STEPS, DRAWS, SHOWN = 5, 1000, 2048, 512
FLOW, OLD, HINGE, MODERN = "flow matching", "non-saturating (2014)", "hinge", "relativistic, R1 and R2"
COVERED, COLLAPSED, SCATTERED = 0.25, 7, 0.5
"""Criterion: a mode is covered by a quarter of its even share of samples. A run has diverged if a loss is not finite, collapsed if it
covers fewer than seven of the eight modes, scattered if fewer than half of its samples are in a mode, and is stable otherwise."""


def _gan(loss: Literal["non_saturating", "hinge", "relativistic"], penalty: float) -> GAN:
    generator, discriminator = MLPToTokens(layers=2, width=64, condition=8), MLPFromTokens(layers=2, width=64)
    return GAN(noise=8, generator=generator, discriminator=discriminator, loss=loss, r1=penalty, r2=penalty)


METHODS: Mapping[str, tuple[HeadSettings, Adam]] = {
    FLOW: (FlowMatching(network=MLP(layers=2, width=64), times=Times(kind="uniform"), diffusion_batch_mul=1), Adam(4e-3)),
    OLD: (_gan("non_saturating", 0.0), Adam(2e-3, (0.5, 0.999))),
    HINGE: (_gan("hinge", 0.0), Adam(2e-3, (0.5, 0.999))),
    MODERN: (_gan("relativistic", 0.1), Adam(4e-3, (0.0, 0.99))),
}
"""Settings of the head and its optimizer; see :class:`GanBalance`."""


@dataclass(frozen=True)
class Run:
    """A training with one seed.

    Attributes:
        points: Samples, ``(n, 2)``.
        covered: Modes that are covered.
        near: Share of samples in a mode.
        distance: Energy distance from the data.
        finite: Whether all losses were.
        losses: Mean loss of each player over parts of the training.
    """

    points: Tensor
    covered: int
    near: float
    distance: float
    finite: bool
    losses: Mapping[str, Sequence[float]]

    @property
    def state(self) -> str:
        """``diverged``, ``collapsed``, ``scattered`` or ``stable``: the first that applies."""
        if not self.finite:
            return "diverged"
        return "collapsed" if self.covered < COLLAPSED else "scattered" if self.near < SCATTERED else "stable"


def measured(points: Tensor, data: Tensor, task: Ring, finite: bool, losses: Mapping[str, Sequence[float]]) -> Run:
    """A run with samples ``(n, 2)``, against as many points of the data."""
    if not points.isfinite().all():
        return Run(points.nan_to_num(), 0, 0.0, float("inf"), False, losses)
    mode = task.mode_of(points)
    counts = torch.bincount(mode[mode >= 0], minlength=task.modes)
    covered = int((counts >= COVERED * len(points) / task.modes).sum())
    distance = float(energy_distance(points[None, None], data[None, None])[0])
    return Run(points, covered, float((mode >= 0).double().mean()), distance, finite, losses)


def judge(runs: Mapping[str, Sequence[Run]]) -> list[Check]:
    """Checks of the claim, on the mean over seeds of covered modes; a diverged run covers none."""
    confidence = level(3)

    def modes(name: str) -> Estimate:
        return student([run.covered if run.finite else 0 for run in runs[name]], confidence, "modes")

    return [
        Check(f"{FLOW}: modes covered", modes(FLOW), "above", COLLAPSED),
        Check(f"{MODERN}: modes covered", modes(MODERN), "above", COLLAPSED),
        Check(f"{OLD}: modes covered", modes(OLD), "below", COLLAPSED),
    ]


class GanBalance(Trial, name="gan-balance"):
    """Three adversarial losses and flow matching on eight normals in a plane, each from five seeds.

    Networks have two layers of 64 channels. Learning rates and penalties are those of the best of a few runs on a seed that is not judged.
    """

    claim = (
        "Over seeds, flow matching covers the modes of a distribution, and so does a GAN with relativistic pairing and gradient penalties, "
        "but not one with the loss of 2014."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train each method from each seed, and count covered modes."""
        steps, draws = bench.scaled(STEPS, 2), bench.scaled(DRAWS, 64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bench.seed)
            data = RING.sample(draws)[0]
        runs: dict[str, list[Run]] = {}
        for name, (part, adam) in METHODS.items():
            for seed in range(bench.seed, bench.seed + SEEDS):
                bench.log(f"training {name}, seed {seed}")
                trained = train_players(part, RING, steps, seed, adam)
                points = sample_block(trained.head, RING, draws, bench.seed)[0]
                runs.setdefault(name, []).append(measured(points, data, RING, trained.finite, trained.losses))

        def draw(figure: Figure) -> None:
            _draw(figure, runs, data)

        return Outcome(
            judge(runs),
            {key: value for name, some in runs.items() for key, value in _figures(name, some).items()},
            draw,
            (11.0, 8.2),
            {
                "data": f"{RING.modes} normals of deviation {RING.deviation:.3g} on a circle of radius {RING.radius:.3g}",
                "methods": {
                    name: {"head": part.model_dump(mode="json"), "lr": f"{adam.lr:g}, linear decay to 0", "betas": list(adam.betas)}
                    for name, (part, adam) in METHODS.items()
                },
                "steps": steps,
                "batch": BATCH,
                "seeds": list(range(bench.seed, bench.seed + SEEDS)),
                "draws": draws,
                "states": {name: [run.state for run in some] for name, some in runs.items()},
                "losses": {name: [dict(run.losses) for run in some] for name, some in runs.items()},
            },
            (
                f"covered: at least {COVERED:g} of a mode's even share of samples within {NEAR:g} deviations of it; collapsed: fewer than "
                f"{COLLAPSED} of {RING.modes} modes; scattered: fewer than {SCATTERED:.0%} of the samples in a mode; diverged: a loss that "
                "is not finite",
                *(f"{name}: {_states(some)}" for name, some in runs.items()),
                "equal steps and batches; a step of a GAN updates two networks",
            ),
        )


def _states(runs: Sequence[Run]) -> str:
    states = [run.state for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) + f" of {len(states)} seeds"


def _figures(name: str, runs: Sequence[Run]) -> dict[str, Estimate]:
    count, distances = len(runs), torch.tensor([run.distance for run in runs if run.finite], dtype=torch.float64)
    found = {f"{state} runs, {name}": exact(sum(run.state == state for run in runs), n=count) for state in STATES}
    found |= {
        f"modes covered, {name}": student([run.covered for run in runs], unit="modes"),
        f"samples in a mode, {name}": student([run.near for run in runs]),
    }
    if len(distances):
        found[f"energy distance, {name}"] = student(distances.tolist(), unit="energy distance")
    if len(distances) > 1:
        found[f"spread of the energy distance over seeds, {name}"] = exact(float(distances.std()), "energy distance", len(distances))
    return found


STATES = ("stable", "collapsed", "scattered", "diverged")


def _draw(figure: Figure, runs: Mapping[str, Sequence[Run]], data: Tensor) -> None:
    grid = figure.subplots(len(runs), SEEDS + 1, squeeze=False, width_ratios=[1] * SEEDS + [1.9])
    edge = 1.6 * RING.radius
    for row, (name, some) in zip(grid, runs.items(), strict=True):
        for axes, (seed, run) in zip(row, enumerate(some), strict=False):
            axes.plot(*data[:SHOWN].T, ".", color="0.8", markersize=2)
            axes.plot(*run.points[:SHOWN].T, ".", color="#2a7" if run.state == "stable" else "#c73", markersize=2)
            axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=[], yticks=[])
            axes.set_title(f"{run.state}, {run.covered} modes", fontsize=8)
            if seed == 0:
                axes.set_ylabel(name)
        for run in some:
            for phase, losses in run.losses.items():
                only = len(run.losses) == 1
                color = "#333" if only else "#2a7" if phase == "model" else "#c73"
                places = [(index + 0.5) / len(losses) for index in range(len(losses))]
                label = None if run is not some[0] else "loss" if only else "generator" if phase == "model" else phase
                row[-1].plot(places, losses, color=color, linewidth=0.8, alpha=0.7, label=label)
        row[-1].legend(fontsize=7)
        row[-1].set_title("loss of each player, each seed", fontsize=8)
    grid[-1, -1].set_xlabel("share of the training")
