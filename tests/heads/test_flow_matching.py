"""Flow matching against closed forms, and against the scheduler of diffusers. A right implementation fails with probability below 1e-6."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from distribution import assert_same_distribution
from flow_maps import Exact, drawn, gaussian_map, gaussian_velocity, two_points_velocity
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.flow_matching import (
    FlowMatching,
    FlowMatchingHead,
    Sampler,
    Times,
    TokenShift,
    euler,
    grid,
    heun,
    midpoint,
    shifted,
    stochastic,
)
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT

ALARM = 1e-6
WIDE = torch.tensor([[-1.7, 0.4, 2.3]], dtype=torch.double)


def gaussian(deviation: float, mean: float = 0.0):  # type: ignore[no-untyped-def]
    return lambda x, t: gaussian_velocity(x, t, mean, deviation)


def head_of(network: Exact, channels: int = 1, **settings: object) -> FlowMatchingHead:
    return FlowMatchingHead(network, Layout((2,), channels), FlowMatching.model_validate(settings))


@pytest.mark.parametrize(
    ("solver", "deviation", "intervals", "factor"),
    [
        (euler, 1.0, 2, 0.5),
        (euler, 1.0, 4, 0.72),
        (euler, 1.0, 8, 0.8508),
        (euler, 1.0, 16, 0.9227),
        (euler, 0.5, 2, 0.2),
        (euler, 0.5, 4, 0.3405),
        (euler, 0.5, 8, 0.4148),
        (euler, 0.0, 3, 0.0),
        (midpoint, 1.0, 2, 0.98),
        (midpoint, 1.0, 4, 0.9979),
        (heun, 1.0, 2, 0.9375),
        (heun, 1.0, 4, 0.99),
    ],
)
def test_solvers_shrink_a_gaussian_by_the_known_factor(solver, deviation: float, intervals: int, factor: float) -> None:  # type: ignore[no-untyped-def]
    found = solver(gaussian(deviation), WIDE, grid(intervals))
    torch.testing.assert_close(found, factor * WIDE, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (midpoint, 2), (heun, 2)])
def test_the_error_falls_with_the_solvers_order(solver, order: int) -> None:  # type: ignore[no-untyped-def]
    """On ``dx/dt = -t x^3``, whose solution is ``x_0 / sqrt(1 + (x_0 t)^2)`` (on Gaussians the midpoint is better than its order)."""
    exact = WIDE / (1 + WIDE**2).sqrt()
    few, many = ((solver(lambda x, t: -t * x**3, WIDE, grid(n)) - exact).abs().max() for n in (64, 128))
    assert math.log2(float(few / many)) == pytest.approx(order, abs=0.1)


def test_data_to_noise_to_data_comes_back() -> None:
    end = midpoint(gaussian(0.6, 0.3), WIDE, grid(100)[::-1])
    torch.testing.assert_close(end, gaussian_map(WIDE, 1.0, 0.0, 0.3, 0.6), rtol=0, atol=1e-3)
    torch.testing.assert_close(midpoint(gaussian(0.6, 0.3), end, grid(100)), WIDE, rtol=0, atol=1e-3)


def test_two_dogs() -> None:
    """One step lands between them; more steps find one or the other, on the side where the noise was."""
    start = torch.tensor([[1.0], [-1.0], [0.1], [-3.0]], dtype=torch.double)
    assert torch.equal(euler(two_points_velocity, start, grid(1)), torch.zeros(4, 1).double())
    assert float(euler(two_points_velocity, start, grid(2))[0]) == pytest.approx(math.tanh(1), abs=1e-9)
    four = euler(two_points_velocity, start, grid(4))[:, 0].tolist()
    assert four == pytest.approx([1, -1, 0.799, -1], abs=1e-3)


def test_the_stochastic_sampler_has_the_same_marginals() -> None:
    """Exactly, for a Gaussian: the variance of every step by its recursion, and near the data's with many steps."""
    mean, deviation, count = 0.7, 0.6, 30
    times = grid(count)
    variance = 1.0
    for t, step in ((t, 1 / count) for t in times[:-2]):
        slope = (t * deviation**2 - (1 - t)) / ((1 - t) ** 2 + (t * deviation) ** 2)
        variance = (1 + step * ((1 + t) * slope - 1)) ** 2 * variance + 2 * (1 - t) * step
    slope = (times[-2] * deviation**2 - (1 - times[-2])) / ((1 - times[-2]) ** 2 + (times[-2] * deviation) ** 2)
    variance *= (1 + slope / count) ** 2
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(20_000, dtype=torch.double, generator=generator)

    found = stochastic(gaussian(deviation, mean), normal(), times, normal)
    assert stats.kstest((found.numpy() - float(found.mean())) / math.sqrt(variance), "norm").pvalue > ALARM
    assert float(found.mean()) == pytest.approx(mean, abs=0.05)
    assert math.sqrt(variance) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_the_scheduler_of_diffusers(shift: float) -> None:
    """Given the grid: without it the scheduler's 4 steps are 3 and an almost empty one, and its shift is applied to the end twice."""
    scheduling = pytest.importorskip("diffusers.schedulers.scheduling_flow_match_euler_discrete", reason="diffusers is not installed")
    scheduler = scheduling.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    sample = x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def velocity(x: Tensor, t: float) -> Tensor:
        return torch.sin(3 * x) + t

    for step in scheduler.timesteps:  # it counts from the data: sigma = 1 - t, and its velocity points at the noise
        sample = scheduler.step(-velocity(sample, 1 - float(step) / 1000), step, sample).prev_sample
    torch.testing.assert_close(euler(velocity, x, grid(4, shift)), sample, rtol=1e-5, atol=1e-5)


def test_the_shift_of_sd3_is_the_root_of_the_share_of_tokens() -> None:
    """Equation 23: ``t_m = sqrt(m / n) t_n / (1 + (sqrt(m / n) - 1) t_n)`` counted from the data."""
    shift = TokenShift(base_tokens=256)
    assert [shift.at(count) for count in (256, 1024, 4096, 64)] == [1.0, 2.0, 4.0, 0.5]
    noise, ratio = torch.linspace(0, 1, 7, dtype=torch.float64), math.sqrt(4096 / 256)
    torch.testing.assert_close(1 - shifted(1 - noise, shift.at(4096)), ratio * noise / (1 + (ratio - 1) * noise))


@pytest.mark.parametrize("tokens", [256, 1000, 4096])
def test_the_exponential_shift_is_that_of_flux_in_diffusers(tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    config = scheduler.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu = tokens * slope + config.base_shift - slope * config.base_image_seq_len
    scheduler.set_timesteps(sigmas=[1 - step / 10 for step in range(10)], mu=mu)
    shift = TokenShift(kind="exponential")
    torch.testing.assert_close(1 - scheduler.sigmas, torch.tensor(grid(10, shift.at(tokens))), rtol=1e-5, atol=1e-6)


def test_a_token_shift_is_of_training_and_sampling_by_the_tokens_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    head = FlowMatching(network=DiT(layers=1, width=8, heads=2), token_shift=TokenShift(base_tokens=2), steps=4).build(
        4, Layout((8,), channels=2)
    )
    asked, inner = list[Tensor](), head.network.predict
    monkeypatch.setattr(head.network, "predict", lambda x, times, states: (asked.append(times[:, 0]), inner(x, times, states))[1])
    context = HeadContext(coords=torch.arange(8)[:, None])
    with torch.no_grad():
        head.sample(torch.zeros(1, 8, 4), PerSampleRNG(0, [0]), SamplingConfig(), context)
    torch.testing.assert_close(torch.cat(asked), torch.tensor(grid(4, 2.0)[:-1]))
    asked.clear()
    head.loss(torch.zeros(4000, 8, 4), torch.zeros(4000, 8, 2), context)
    logits = torch.cat(asked).logit()  # those of logit-normal times lie lower by ln 2
    assert float(logits.mean()) == pytest.approx(-math.log(2), abs=5 / len(logits) ** 0.5)
    with pytest.raises(ValueError, match="token_shift is by the number of tokens drawn together"):
        FlowMatching(network=MLP(layers=1, width=8), token_shift=TokenShift()).build(4, Layout((8,), channels=2))
    with pytest.raises(ValidationError, match="base_tokens must be below max_tokens"):
        TokenShift(base_tokens=5000)


def test_shifts_are_a_group_that_moves_the_odds() -> None:
    times = torch.linspace(0, 1, 11, dtype=torch.double)
    torch.testing.assert_close(shifted(shifted(times, 3.0), 1.7), shifted(times, 5.1))
    torch.testing.assert_close(shifted(shifted(times, 3.0), 1 / 3), times)
    assert shifted(times, 3.0)[[0, -1]].tolist() == [0.0, 1.0]
    torch.testing.assert_close(shifted(times, 3.0)[1:-1].logit(), times[1:-1].logit() - math.log(3))
    sigma = 1 - times
    torch.testing.assert_close(1 - shifted(times, 3.0), 3 * sigma / (1 + 2 * sigma))  # as SD3 writes it
    assert grid(4, 3.0) == pytest.approx([0, 0.1, 0.25, 0.5, 1])


@pytest.mark.parametrize(
    "times", [Times(), Times(mean=-0.4, std=1.7), Times(kind="uniform"), Times(mean=0.5, shift=3.0), Times(kind="uniform", shift=0.5)]
)
def test_times_follow_their_distribution(times: Times) -> None:
    draws = times.draw(PerSampleRNG(0, range(20_000)).draws("times"))
    assert draws.dtype == torch.float32
    assert bool(((draws >= 0) & (draws <= 1)).all())
    if times.kind == "uniform":
        back = shifted(draws.double(), 1 / times.shift)
        assert stats.kstest(back.numpy(), "uniform").pvalue > ALARM
    else:
        logits = (draws.double().logit() - times.mean + math.log(times.shift)) / times.std
        assert stats.kstest(logits.numpy(), "norm").pvalue > ALARM


@pytest.mark.parametrize(
    ("deviation", "kind", "floor"), [(1.0, "uniform", math.pi / 2), (0.5, "uniform", math.pi / 4), (1.0, "logit_normal", 1.741)]
)
def test_the_exact_velocity_leaves_the_known_loss(deviation: float, kind: str, floor: float) -> None:
    """The mean of 20,000 tokens' losses, within five of its standard deviations."""
    head = head_of(Exact(lambda x, t, hidden: gaussian_velocity(x, t, hidden, deviation)), 4, times=Times(kind=kind), diffusion_batch_mul=2)
    torch.manual_seed(0)
    hidden = torch.randn(20_000, 4)
    tokens = hidden + deviation * torch.randn(20_000, 4)
    loss = head.loss(hidden, tokens)
    assert loss.shape == (20_000,)
    assert float(loss.mean()) == pytest.approx(floor, abs=5 * float(loss.std()) / math.sqrt(20_000) + 5e-4)
    # Another field is worse.
    other = head_of(Exact(lambda x, t, hidden: 0.8 * gaussian_velocity(x, t, hidden, deviation)), 4, times=Times(kind=kind))
    assert float(other.loss(hidden, tokens).mean()) > floor + 0.01


@pytest.mark.parametrize("sampler", ["euler", "midpoint", "heun", "sde"])
def test_draws_of_the_exact_velocity_follow_the_data(sampler: Sampler) -> None:
    head = head_of(Exact(lambda x, t, hidden: gaussian_velocity(x, t, hidden[:, :2], 0.5)), 2, sampler=sampler, steps=100)
    found = drawn(head, hidden=torch.tensor([1.0, -2.0, 0.0, 0.0]))
    exact = torch.tensor([1.0, -2.0]) + 0.5 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))
    assert_same_distribution(found, exact)


@pytest.mark.parametrize(
    ("sampler", "nfe", "done"),
    [
        ("euler", 4, [0, 0.25, 0.5, 0.75]),
        ("sde", 4, [0, 0.25, 0.5, 0.75]),
        ("midpoint", 4, [0, 0.25, 0.5, 0.75]),
        ("midpoint", 5, [0, 0.25, 0.5, 0.75]),
        ("heun", 4, [0, 0.5, 0.5, 0.75]),
        ("heun", 1, [0]),
        ("midpoint", 1, [0]),
    ],
)
def test_nfe_and_times_of_each_sampler(sampler: Sampler, nfe: int, done: list[float]) -> None:
    network = Exact(lambda x, t, hidden: -x)
    drawn(head_of(network, sampler=sampler), steps=nfe, items=1)
    assert [time for (time,) in network.asked] == pytest.approx(done)
    network.asked.clear()
    drawn(head_of(network, steps=6), items=1)
    assert len(network.asked) == 6


def test_guidance_combines_velocities() -> None:
    """With means as hidden vectors the guided flow is known: velocities are linear in the mean, so it is the flow of the guided mean."""
    head = head_of(Exact(lambda x, t, hidden: gaussian_velocity(x, t, hidden, 0.8)), 3, steps=7, sampler="midpoint")
    given, null = torch.randn(2, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    for scale in (0.0, 0.5, 4.0):
        found = head.sample(given, PerSampleRNG(0, range(5)), SamplingConfig(), HeadContext(null, scale)).values
        torch.testing.assert_close(found, head.sample(null + scale * (given - null), PerSampleRNG(0, range(5)), SamplingConfig()).values)
    assert torch.equal(
        head.sample(given, PerSampleRNG(0, range(5)), SamplingConfig(), HeadContext(null, 1.0)).values,
        head.sample(given, PerSampleRNG(0, range(5)), SamplingConfig()).values,
    )


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_temperature_scales_the_spread_of_a_gaussian(temperature: float) -> None:
    """The flow of a Gaussian is linear, so noise of half the spread gives tokens of half the spread, around the same mean."""
    head = head_of(Exact(lambda x, t, hidden: gaussian_velocity(x, t, 0.7, 0.8)), steps=9)
    spread = drawn(head, items=50, temperature=temperature) - 0.7
    torch.testing.assert_close(spread, temperature * (drawn(head, items=50) - 0.7), rtol=1e-4, atol=1e-6)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"std": 0.0}, {"shift": 0.0}, {"kind": "cosine"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Times(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [6, 50])
def test_linear_quadratic_times_are_those_of_the_published_code(steps: int) -> None:
    """With its coefficients, which are of the number of a step: linear in the first half, ``q i^2 + l i + c`` in the second."""
    times, half, bend = grid(steps, spacing="linear_quadratic"), steps // 2, 0.025
    rest = half - bend * steps
    quadratic, linear = rest / (half * half**2), bend / half - 2 * rest / half**2
    later = [quadratic * step**2 + linear * step + quadratic * half**2 for step in range(half, steps + 1)]
    assert times == pytest.approx([bend / half * step for step in range(half)] + later, abs=1e-12)
    assert times[half] == pytest.approx(bend)
    assert times[-1] == 1
    assert all(after > before for before, after in pairwise(times))
    assert grid(steps, start=0.5, spacing="linear_quadratic")[0] == pytest.approx(bend), "an edit begins where the share of steps does"


def test_the_head_draws_at_the_times_of_its_spacing() -> None:
    network = Exact(lambda x, t, hidden: -x)
    drawn(head_of(network, spacing="linear_quadratic", steps=10), items=1)
    assert [time for (time,) in network.asked] == pytest.approx(grid(10, spacing="linear_quadratic")[:-1], abs=1e-6)
