"""The velocity that flow matching learns in a plane, and Euler steps along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.ring import NEAR, Ring
from jielong.apps.lab.statistics import Estimate, bootstrap, level, share
from jielong.apps.lab.toy_tasks import LR, train_head
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.core.rng import PerSampleRNG
from jielong.heads.continuous import GuidedDenoiser
from jielong.heads.flow_matching import FlowMatching, FlowMatchingHead, Times, Velocity, euler, grid, midpoint
from jielong.networks.denoiser import MLP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RING = Ring(5, 12.5)
"""The toy of ``examples/flow_matching.py``, at unit standard deviation."""
STEPS = (1, 2, 4, 8, 20)
FEW, FINE = 4, 400
"""Steps of the lecture's slide, and midpoint steps of the exact flow."""
TRAINING, BATCH, POINTS = 1500, 256, 4096
MEAN, MOST, TENTH = 0.1, 0.75, 0.1
"""Bounds: distance from the data's mean in radii; share of ends in a mode; distance from the exact flow relative to one step's."""
SHOWN, MARKS = 14, 17
"""Points whose path is drawn, and arrows along a side."""
EXTENT = 2.3


@dataclass(frozen=True)
class Paths:
    """Points carried along a velocity from the same noise.

    Attributes:
        noise: ``(n, 2)``.
        exact: Ends of the exact flow of the closed-form velocity, ``(n, 2)``.
        ends: Ends by number of Euler steps, ``(n, 2)`` each.
    """

    noise: Tensor
    exact: Tensor
    ends: Mapping[int, Tensor]

    def distance(self, steps: int) -> Tensor:
        """Distance of each end from the exact flow's, ``(n,)``."""
        return (self.ends[steps] - self.exact).norm(dim=-1)


def learned(head: FlowMatchingHead, task: Ring) -> Velocity:
    """The velocity of a head, ``(n, 2)`` to ``(n, 2)``."""

    @torch.no_grad()
    def velocity(x: Tensor, time: float) -> Tensor:
        evaluate = GuidedDenoiser(head.network, task.hidden[:, None].expand(1, len(x), -1))
        return evaluate(x[None], time)[0]

    return velocity


def carry(velocity: Velocity, noise: Tensor, exact: Tensor) -> Paths:
    """Carry noise ``(n, 2)`` to data in each number of :data:`STEPS`."""
    return Paths(noise, exact, {steps: euler(velocity, noise, grid(steps)) for steps in STEPS})


def states(velocity: Velocity, noise: Tensor, steps: int, fine: bool = False) -> Tensor:
    """Every state from noise to data, ``(steps + 1, n, 2)``, of Euler's method or, ``fine``, the midpoint method."""
    found = [noise]
    (midpoint if fine else euler)(velocity, noise, grid(steps), found.append)
    return torch.stack(found)


def field_error(velocity: Velocity, task: Ring, count: int, seed: int) -> Tensor:
    """Squared error of a velocity relative to the exact one's mean square, ``(4, count)``, at the times of four steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        noise, data = torch.randn(count, 2), task.sample(count)[0]
    errors = []
    for time in grid(FEW)[:-1]:
        x = torch.lerp(noise, data, time)
        exact = task.velocity(x, time)
        errors.append((velocity(x, time) - exact).square().sum(-1) / exact.square().sum(-1).mean())
    return torch.stack(errors)


def judge(paths: Paths, task: Ring, seed: int) -> list[Check]:
    """Checks of the claim on paths of the learned velocity."""
    confidence = level(3)

    def ratio(pairs: Tensor) -> Tensor:
        return pairs[..., 0].mean(1) / pairs[..., 1].mean(1)

    pairs = torch.stack([paths.distance(STEPS[-1]), paths.distance(1)], dim=1)
    return [
        Check(
            "one step: distance from the mean of the data",
            bootstrap(paths.ends[1].norm(dim=-1) / task.radius, seed, confidence, "radii"),
            "below",
            MEAN,
        ),
        Check(
            f"{FEW} steps: share of ends within {NEAR:g} deviations of a mode",
            share(task.mode_of(paths.ends[FEW]) >= 0, confidence),
            "above",
            MOST,
        ),
        Check(
            f"{STEPS[-1]} steps: distance from the exact flow, relative to one step's",
            bootstrap(pairs, seed, confidence, "of one step's", ratio),
            "below",
            TENTH,
        ),
    ]


class VectorField(Trial, name="vector-field"):
    """Flow matching on five normals in a plane, whose exact velocity and flow are known."""

    claim = "One Euler step along a learned velocity gives the mean of the data, four reach its modes, and twenty follow the exact flow."

    def run(self, bench: Bench) -> Outcome:
        """Train a velocity, and carry the same noise along it and along the exact one."""
        steps, points = bench.scaled(TRAINING, 2), bench.scaled(POINTS, 32)
        part = FlowMatching(network=MLP(layers=2, width=64), times=Times(kind="uniform"), diffusion_batch_mul=1)
        bench.log(f"training a velocity for {steps} steps")
        head = train_head(part, RING, steps, bench.seed, BATCH)
        assert isinstance(head, FlowMatchingHead)
        velocity, noise = learned(head, RING), PerSampleRNG(bench.seed, range(points)).normal(2)
        exact = midpoint(RING.velocity, noise.double(), grid(FINE)).float()
        found = {"learned": carry(velocity, noise, exact), "exact": carry(RING.velocity, noise, exact)}
        figures = {
            f"{what}, {name} velocity, {count} steps": estimate
            for name, paths in found.items()
            for count in STEPS
            for what, estimate in {
                "distance from the exact flow": bootstrap(paths.distance(count) / RING.radius, bench.seed, unit="radii"),
                "ends in a mode": share(RING.mode_of(paths.ends[count]) >= 0),
            }.items()
        }
        figures |= {
            f"relative squared error of the learned velocity, t = {time:g}": bootstrap(errors, bench.seed)
            for time, errors in zip(grid(FEW)[:-1], field_error(velocity, RING, points, bench.seed), strict=True)
        }

        def draw(figure: Figure) -> None:
            _draw(figure, velocity, noise[:SHOWN], figures)

        return Outcome(
            judge(found["learned"], RING, bench.seed),
            figures,
            draw,
            (11.0, 7.2),
            {
                "data": f"{RING.modes} normals of deviation {RING.deviation:.3g} on a circle of radius {RING.radius:.3g}",
                "head": part.model_dump(mode="json"),
                "steps": steps,
                "batch": BATCH,
                "learning_rate": f"{LR}, linear decay to 0",
                "points": points,
                "exact_flow": f"{FINE} midpoint steps in float64 along the closed-form velocity",
            },
            (
                "distances are from where the exact flow carries the same noise; they include the error of the learned velocity",
                "one training run: intervals are over points",
            ),
        )


def _draw(figure: Figure, velocity: Velocity, noise: Tensor, figures: Mapping[str, Estimate]) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = RING.sample(400)[0]
    path, smooth = states(velocity, noise, FEW), states(RING.velocity, noise.double(), FINE, fine=True)
    for step, axes in enumerate(above.subplots(1, FEW)):
        _draw_step(axes, velocity, data, path, step)
    left, right = below.subplots(1, 2, width_ratios=[1, 1.25])
    _frame(left, data)
    left.plot(*smooth.permute(2, 0, 1), color="#999", linewidth=1)
    left.plot(*path.permute(2, 0, 1), "o-", color="#2a7", markersize=2.5, linewidth=1)
    left.plot(*noise.T, "o", color="#c73", markersize=4)
    left.set_title(f"{FEW} Euler steps (green) and the exact flow (grey)")
    _draw_errors(right, figures)


def _frame(axes: Axes, data: Tensor) -> None:
    axes.plot(*data.T, ".", color="0.82", markersize=2, zorder=0)
    axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal", xticks=[], yticks=[])


def _draw_step(axes: Axes, velocity: Velocity, data: Tensor, path: Tensor, step: int) -> None:
    """The field at a step's time, and the moves of the points."""
    _frame(axes, data)
    side = torch.linspace(-EXTENT, EXTENT, MARKS)
    places = torch.cartesian_prod(side, side)
    arrows = velocity(places, step / FEW)
    lengths = arrows.norm(dim=-1)
    axes.quiver(*places.T, *(arrows / lengths[:, None]).T, lengths, cmap="Blues", clim=(-2, 5), scale=28, width=0.004, zorder=1)
    for before in range(step):
        axes.plot(*path[before : before + 2].permute(2, 0, 1), color="#2a7", alpha=0.35, linewidth=1)
    start, move = path[step], path[step + 1] - path[step]
    axes.quiver(*start.T, *move.T, angles="xy", scale_units="xy", scale=1, width=0.008, color="#2a7", zorder=3)
    axes.plot(*start.T, "o", color="#c73", markersize=3.5, zorder=4)
    axes.set_title(f"step {step + 1} of {FEW}: v at t = {step / FEW:g}")


def _draw_errors(axes: Axes, figures: Mapping[str, Estimate]) -> None:
    """Distance from the exact flow by number of steps."""
    for name, color, side in (("learned", "#2a7", 8), ("exact", "#999", -14)):
        points = _series(figures, "distance from the exact flow", name)
        error = [[each.value - each.low for each in points], [each.high - each.value for each in points]]
        axes.errorbar(STEPS, [each.value for each in points], yerr=error, marker="o", capsize=3, color=color, label=f"{name} velocity")
        for count, each in zip(STEPS, points, strict=True):
            axes.annotate(f"{each.value:.2g}", (count, each.value), (0, side), textcoords="offset points", ha="center", color=color)
    hits = ", ".join(f"{each.value:.0%}" for each in _series(figures, "ends in a mode", "learned"))
    axes.set(xscale="log", yscale="log", xlabel="Euler steps")
    axes.set_xticks(STEPS, [str(count) for count in STEPS])
    axes.minorticks_off()
    axes.margins(0.08, 0.2)
    axes.set_title(f"mean distance from the exact flow, in radii\nends in a mode, learned velocity: {hits}")
    axes.legend()


def _series(figures: Mapping[str, Estimate], what: str, name: str) -> Sequence[Estimate]:
    return [figures[f"{what}, {name} velocity, {count} steps"] for count in STEPS]
