"""The ring of normals by closed forms, and the verdict of vector-field both ways, its paths by oracle, and a run at a tiny budget."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.apps.lab import Verdict, conclude, run
from jielong.apps.lab.experiments.vector_field import RING, STEPS, Paths, carry, field_error, judge, learned, states
from jielong.apps.lab.ring import Ring
from jielong.core.tokens import Layout
from jielong.heads.flow_matching import FlowMatching, FlowMatchingHead, grid, midpoint
from jielong.networks.denoiser import MLP


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the ring -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [RING, Ring(8, 20.0), Ring(3, 1.0)])
def test_a_ring_has_unit_variance(ring: Ring) -> None:
    assert ring.radius**2 / 2 + ring.deviation**2 == pytest.approx(1)
    assert ring.radius / ring.deviation == pytest.approx(ring.sharpness)
    covariance = ring.means.T @ ring.means / ring.modes + ring.deviation**2 * torch.eye(2)
    torch.testing.assert_close(covariance, torch.eye(2), rtol=0, atol=1e-5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        points = ring.sample(20_000)[0]
    # Six standard errors of a mean of numbers of unit variance.
    assert float(points.mean(0).abs().max()) < 6 / 20_000**0.5


@pytest.mark.parametrize("time", [0.2, 0.5, 0.9])
def test_the_velocity_follows_from_the_score_of_the_density(time: float) -> None:
    """On the straight path ``v = (x + (1 - t) score) / t``; the score is autograd's, of the mixture's density at that time."""
    ring, x = Ring(5, 4.0), noise(50).requires_grad_()
    total = (1 - time) ** 2 + time**2 * ring.deviation**2
    squares = (x[:, None] - time * ring.means.double()).square().sum(-1)
    (score,) = torch.autograd.grad((-squares / (2 * total)).logsumexp(-1).sum(), x)
    torch.testing.assert_close(ring.velocity(x.detach(), time), (x.detach() + (1 - time) * score) / time, rtol=1e-6, atol=1e-6)


def test_the_exact_flow_ends_at_the_modes_and_one_step_at_the_mean() -> None:
    ring, start = Ring(8, 20.0), noise(2000)
    torch.testing.assert_close(start + ring.velocity(start, 0.0), torch.zeros_like(start), rtol=0, atol=1e-6)
    mode = ring.mode_of(midpoint(ring.velocity, start, grid(400)))
    assert float((mode >= 0).double().mean()) > 0.97  # 98.9 % of a normal in the plane is within three deviations
    counts = torch.bincount(mode[mode >= 0], minlength=8)
    assert counts.min() > 250 - 6 * (2000 / 8) ** 0.5


def test_modes_of_points() -> None:
    ring = Ring(4, 10.0)
    off = ring.means + torch.tensor([3.1 * ring.deviation, 0.0])
    assert ring.mode_of(ring.means).tolist() == [0, 1, 2, 3]
    assert ring.mode_of(off).tolist() == [-1] * 4
    assert ring.mode_of(torch.zeros(2, 3, 2)).tolist() == [[-1] * 3] * 2


# --- the experiment -------------------------------------------------------------------------------------------------------------------


@cache
def exact_paths(count: int = 3000) -> Paths:
    start = noise(count)
    return carry(RING.velocity, start, midpoint(RING.velocity, start, grid(400)))


def test_claim_can_hold_and_fail() -> None:
    paths = exact_paths()
    assert conclude(judge(paths, RING, 0)) is Verdict.HOLDS

    def verdict(steps: int, ends: Tensor) -> Verdict:
        return conclude(judge(replace(paths, ends={**paths.ends, steps: ends}), RING, 0))

    assert verdict(1, paths.exact) is Verdict.FAILS  # one step reaches the modes
    assert verdict(4, paths.ends[1]) is Verdict.FAILS  # four do not
    assert verdict(20, paths.ends[4]) is Verdict.FAILS  # twenty are no nearer than four
    inside = paths.exact[RING.mode_of(paths.exact) >= 0]
    three_quarters = torch.where(torch.arange(len(inside))[:, None] % 4 == 0, 0.0, inside)
    assert verdict(4, three_quarters) is Verdict.UNKNOWN  # the bound


def test_errors_shrink_with_the_step_of_a_method_of_first_order() -> None:
    paths = exact_paths()
    errors = [float(paths.distance(steps).median()) for steps in STEPS]
    assert errors == sorted(errors, reverse=True)
    start = noise(50)
    torch.testing.assert_close(states(RING.velocity, start, 4)[-1], carry(RING.velocity, start, start).ends[4])
    assert len(states(RING.velocity, start, 4)) == 5


def test_a_head_of_zero_velocity_leaves_noise_where_it_is() -> None:
    head = FlowMatching(network=MLP(layers=1, width=8)).build(1, Layout((1,), 2))
    assert isinstance(head, FlowMatchingHead)
    velocity, start = learned(head, RING), noise(6).float()
    assert torch.equal(carry(velocity, start, start).ends[4], start)
    errors = field_error(velocity, RING, 500, 0)
    torch.testing.assert_close(errors.mean(1), torch.ones(4), rtol=1e-4, atol=0)  # all of the exact velocity is missing
    assert float(field_error(RING.velocity, RING, 500, 0).max()) < 1e-9


def test_it_runs(tmp_path: Path) -> None:
    run("vector-field", tmp_path, budget=0.004)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["provenance"]["steps"] == 6
    assert len(record["checks"]) == 3
    assert all(
        f"distance from the exact flow, {name} velocity, {count} steps" in record["figures"]
        for name in ("learned", "exact")
        for count in STEPS
    )
