"""Schedules against diffusers, the formulas, and Bayes' rule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from jielong.heads.diffusion_schedule import Kind, Schedule, betas_of

KINDS = pytest.mark.parametrize("kind", ["cosine", "linear", "scaled_linear"])
THEIRS: dict[str, dict[str, Any]] = {
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
}


@KINDS
def test_betas_are_those_of_diffusers(kind: Kind) -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, **THEIRS[kind])
    torch.testing.assert_close(betas_of(kind).float(), theirs.betas, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(Schedule.of(kind).kept.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-9)


def test_known_ends() -> None:
    linear, cosine = Schedule.of("linear"), Schedule.of("cosine")
    assert float(linear.kept[0]) == pytest.approx(0.9999)
    assert float(linear.kept[-1]) == pytest.approx(4.04e-5, rel=1e-2)
    assert float(linear.signal[-1]) == pytest.approx(0.00635, rel=1e-3)
    # Where no beta is cut at 0.999 the product telescopes into the formula.
    for step in (0, 17, 500, 990):
        expected = (math.cos((((step + 1) / 1000) + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
        assert float(cosine.kept[step]) == pytest.approx(expected, rel=1e-9)
    assert float(cosine.betas.max()) == pytest.approx(0.999)


@KINDS
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1000])
def test_steps_left_out_change_neither_the_noise_nor_the_time_of_those_kept(kind: Kind, steps: int) -> None:
    whole = Schedule.of(kind)
    part = whole.respaced(steps)
    places = (part.times * 1000).round().long()
    assert len(part) == steps == len(places.unique())
    assert places[-1] == 999
    if steps > 1:
        assert places[0] == 0
        assert places.diff().float().std() < 0.6 if steps > 2 else True  # evenly spread
    assert torch.equal(part.kept, whole.kept[places])
    torch.testing.assert_close((1 - part.betas).prod(), whole.kept[-1])


def test_more_steps_than_those_of_training_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1001 sampling steps are more than the 1000 training steps of .* set at most 1000"):
        Schedule.of("linear").respaced(1001)


@KINDS
@pytest.mark.parametrize("steps", [1000, 10])
def test_the_step_back_is_bayes_rule(kind: Kind, steps: int) -> None:
    """``q(x_{k-1} | x_k, x_0)`` is ``N(x_{k-1}; a' x_0, s'^2) N(x_k; sqrt(1 - beta) x_{k-1}, beta)`` but for a constant."""
    plan = Schedule.of(kind).respaced(steps)
    data, noisy = torch.tensor([0.7, -1.3], dtype=torch.float64)
    keep, beta, prior = (1 - plan.betas)[1:].sqrt(), plan.betas[1:], 1 - plan.before[1:]
    precision = 1 / prior + keep.square() / beta
    mean = (plan.before[1:].sqrt() * data / prior + keep * noisy / beta) / precision
    torch.testing.assert_close((plan.of_data * data + plan.of_noisy * noisy)[1:], mean, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(plan.log_variance[1:].exp(), 1 / precision, rtol=1e-8, atol=1e-12)
    # The first step ends at x_0 itself.
    assert (float(plan.of_data[0]), float(plan.of_noisy[0])) == pytest.approx((1, 0))
    assert torch.equal(plan.log_variance[0], plan.log_variance[1])
    assert bool((plan.log_variance <= plan.log_betas + 1e-12)[1:].all())


@KINDS
def test_times_of_sigmas(kind: Kind) -> None:
    schedule = Schedule.of(kind)
    for place in (0, 1, 400, 998, 999):
        assert schedule.time_at(float(schedule.sigma[place])) == pytest.approx(place / 1000, abs=1e-9)
    between = math.sqrt(float(schedule.sigma[300] * schedule.sigma[301]))
    assert schedule.time_at(between) == pytest.approx(0.3005, abs=1e-9)
    assert (schedule.time_at(1e-9), schedule.time_at(1e9)) == (0, 0.999)


def test_steps_of_too_much_noise_are_left_out() -> None:
    whole = Schedule.of("cosine")
    assert float(whole.sigma[-1]) > 10_000
    kept = whole.up_to(80)
    assert float(kept.sigma[-1]) <= 80 < float(whole.sigma[len(kept)])
    assert len(whole.up_to(1e-9)) == 1
    assert len(whole.up_to(math.inf)) == 1000
