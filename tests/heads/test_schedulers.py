"""Every sampler against its scheduler in diffusers, on one analytic denoiser and one noise; and against the exact flow of a Gaussian."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)  # fmt: skip
from flow_maps import gaussian_map, gaussian_velocity
from test_diffusion_schedule import THEIRS
from torch import Tensor

from jielong.heads import diffusion_samplers as samplers
from jielong.heads import flow_matching as flow
from jielong.heads.diffusion import thresholded
from jielong.heads.diffusion_samplers import Churn, Denoised
from jielong.heads.diffusion_schedule import Kind, Level, Schedule, Spacing
from jielong.heads.noise_levels import EDM, LogNormalNoise, TrainedSteps

MEANS, DEVIATION = torch.tensor([-1.5, 0.4, 2.0], dtype=torch.float64), 0.6
COUNT = 10  # with 1000 steps their evenly spaced ones are whole numbers: 0, 111, ..., 999
BEGIN = torch.randn(64, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mixture(x: Tensor, level: Level) -> Denoised:
    """The exact estimates for three Gaussians per number, ``N(m_i, 0.6^2)``: nothing that a solver meets is linear."""
    signal, spread = level.signal, level.spread
    total = signal**2 * DEVIATION**2 + spread**2
    off = x[..., None] - signal * MEANS
    weights = (-(off**2) / (2 * total)).softmax(-1)
    data = (weights * (MEANS + signal * DEVIATION**2 / total * off)).sum(-1)
    return Denoised(data, (x - signal * data) / spread)


def level(sigma: float) -> Level:
    signal = (1 + sigma**2) ** -0.5
    return Level(0.0, signal, sigma * signal)


def normals(seed: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(BEGIN.shape, generator=generator, dtype=torch.float64)


def no_noise() -> Tensor:
    raise AssertionError("no noise was to be drawn")


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the size of tokens."""
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def double(scheduler: Any, kind: Kind) -> Any:
    """A scheduler with our table, which is its own in float64: else its rounding would be what is measured."""
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), Schedule.of(kind).kept, rtol=1e-4, atol=1e-9)
    scheduler.alphas_cumprod = Schedule.of(kind).kept
    return scheduler


def steps(scheduler: Any, sigmas: Tensor, x: Tensor, output: Callable[[Tensor, float], Tensor]) -> Tensor:
    """A scheduler's chain over given levels; ``output`` is the network's at the sample and its level."""
    theirs = scheduler.sigmas
    assert len(theirs) == len(sigmas)
    scheduler.sigmas = sigmas
    scheduler.set_begin_index(0)
    for time, sigma in zip(scheduler.timesteps, sigmas.tolist(), strict=False):
        x = scheduler.step(output(x, sigma), time, x).prev_sample
    return x


def from_data(plan: Schedule, *, each: int = 1) -> Tensor:
    """``s / a`` of a plan and 0; ``each``: how often those between appear."""
    first, *rest = plan.sigma.flip(0).tolist()
    return torch.tensor([first, *(sigma for sigma in rest for _ in range(each)), 0.0], dtype=torch.float64)


def noise_of_scaled(y: Tensor, sigma: float) -> Tensor:
    now = level(sigma)
    return mixture(now.signal * y, now).noise


KINDS = pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
GRIDS = pytest.mark.parametrize("karras", [False, True])


@KINDS
def test_ddpm(kind: Kind) -> None:
    theirs, plan = double(DDPMScheduler(clip_sample=False, **THEIRS[kind]), kind), Schedule.of(kind).respaced(COUNT)
    theirs.set_timesteps(timesteps=[round(time * 1000) for time in plan.times.flip(0).tolist()])
    x, generator = BEGIN, torch.Generator().manual_seed(2)
    for time, now in zip(theirs.timesteps, plan.levels()[:-1], strict=True):
        x = theirs.step(mixture(x, now).noise, time, x, generator=generator).prev_sample
    assert_equal(samplers.ddpm(mixture, BEGIN, plan, normals(2)), x)


@KINDS
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(kind: Kind, eta: float) -> None:
    theirs, whole = double(DDIMScheduler(clip_sample=False, **THEIRS[kind]), kind), Schedule.of(kind)
    theirs.set_timesteps(COUNT)  # 900, 800, ..., 0
    plan, x, generator = Schedule(whole.kept[::100], whole.times[::100]), BEGIN, torch.Generator().manual_seed(2)
    for time, now in zip(theirs.timesteps, plan.levels()[:-1], strict=True):
        x = theirs.step(mixture(x, now).noise, time, x, eta=eta, generator=generator).prev_sample
    assert_equal(samplers.ddim(mixture, BEGIN, plan, normals(2), eta=eta), x)


@pytest.mark.parametrize("count", [1, 10, 20])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
def test_ddim_over_the_steps_that_diffusers_takes(spacing: Spacing, offset: int, count: int) -> None:
    ends = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
    theirs = DDIMScheduler(clip_sample=False, timestep_spacing=spacing, steps_offset=offset, **ends)
    whole = Schedule.of("scaled_linear", ends=(0.0015, 0.0195))
    torch.testing.assert_close(theirs.alphas_cumprod.double(), whole.kept, rtol=1e-4, atol=1e-9)
    theirs.alphas_cumprod = whole.kept
    theirs.set_timesteps(count)
    plan, x = TrainedSteps(whole, spacing, offset).plan(count, karras=False), BEGIN
    assert [round(1000 * time) for time in plan.times.flip(0).tolist()] == theirs.timesteps.tolist()
    for time, now in zip(theirs.timesteps, plan.levels()[:-1], strict=True):
        x = theirs.step(mixture(x, now).noise, time, x).prev_sample
    assert_equal(samplers.ddim(mixture, BEGIN, plan, no_noise), x)


@KINDS
@GRIDS
@pytest.mark.parametrize(
    ("ours", "scheduler", "each"), [(samplers.euler, EulerDiscreteScheduler, 1), (samplers.heun, HeunDiscreteScheduler, 2)]
)
def test_euler_and_heun(kind: Kind, karras: bool, ours: Any, scheduler: Any, each: int) -> None:
    theirs = double(scheduler(timestep_spacing="linspace", use_karras_sigmas=karras, **THEIRS[kind]), kind)
    theirs.set_timesteps(COUNT)
    plan = TrainedSteps(Schedule.of(kind)).plan(COUNT, karras)
    sigmas = from_data(plan, each=each)
    torch.testing.assert_close(theirs.sigmas.double(), sigmas, rtol=1e-5, atol=1e-6)
    assert_equal(ours(mixture, BEGIN, plan), steps(theirs, sigmas, sigmas[0] * BEGIN, noise_of_scaled))


@KINDS
@GRIDS
@pytest.mark.parametrize("count", [1, 2, 3, 10, 20])
@pytest.mark.parametrize(("ours", "scheduler"), [
    (samplers.dpmpp_2m, DPMSolverMultistepScheduler), (samplers.unipc, UniPCMultistepScheduler),
])  # fmt: skip
def test_multistep(kind: Kind, karras: bool, count: int, ours: Any, scheduler: Any) -> None:
    """Their even grid has no step 0 (999, 899, ... for ten); ours ends there, so it is given to them."""
    theirs = double(scheduler(use_karras_sigmas=karras, **THEIRS[kind]), kind)
    theirs.set_timesteps(count)
    plan = TrainedSteps(Schedule.of(kind)).plan(count, karras)
    if karras and count > 1:
        torch.testing.assert_close(theirs.sigmas.double(), from_data(plan), rtol=1e-5, atol=1e-6)
    expected = steps(theirs, from_data(plan), BEGIN, lambda x, sigma: mixture(x, level(sigma)).noise)
    assert_equal(ours(mixture, BEGIN, plan), expected)


def network_of_edm(y: Tensor, sigma: float) -> Tensor:
    """``F`` for tokens scaled to a deviation of a half: ``x_0 = a x + s F``."""
    now = level(2 * sigma)
    x = 2 * now.signal * y
    return (mixture(x, now).data - now.signal * x) / now.spread


def test_edm() -> None:
    """The defaults of the paper, of diffusers and ours are the same: 0.002 to 80, a deviation of the data of a half, rho = 7."""
    theirs, noise = EDMEulerScheduler(), LogNormalNoise(EDM())
    theirs.set_timesteps(COUNT)
    plan = noise.plan(COUNT, karras=True)
    torch.testing.assert_close(theirs.sigmas.double(), from_data(plan) / 2, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(theirs.timesteps.double(), plan.times.flip(0), rtol=1e-5, atol=1e-6)
    expected = steps(theirs, from_data(plan) / 2, 80 * BEGIN, network_of_edm)
    assert_equal(samplers.euler(mixture, BEGIN, plan) / 2, expected)


@pytest.mark.parametrize("amount", [0.0, 3.0, 40.0])
def test_churn_is_that_of_the_paper(amount: float) -> None:
    """Algorithm 2 written out; schedulers of diffusers evaluate before they add the noise, and their Heun adds none."""
    noise = LogNormalNoise(EDM())
    plan, normal = noise.plan(9, karras=True), normals(5)
    y, sigmas = 80 * BEGIN, [*(plan.sigma.flip(0) / 2).tolist(), 0.0]
    for now, then in itertools.pairwise(sigmas):
        gamma = min(amount / 9, math.sqrt(2) - 1) if 0.05 <= now <= 50 else 0.0
        raised = now + gamma * now
        if gamma:
            y = y + math.sqrt(raised**2 - now**2) * 1.003 * normal()
        first = noise_of_scaled(2 * y, 2 * raised)
        end = y + (then - raised) * first
        y = end if not then else y + (then - raised) * (first + noise_of_scaled(2 * end, 2 * then)) / 2
    churn = Churn(amount, 0.1, 100, 1.003, noise.level_at, normals(5) if amount else no_noise)
    assert_equal(samplers.heun(mixture, BEGIN, plan, churn) / 2, y)


def velocity(x: Tensor, time: float) -> Tensor:
    norm = math.hypot(time, 1 - time)
    found = mixture(x / norm, Level(time, time / norm, (1 - time) / norm))
    return found.data - found.noise


def flow_output(x: Tensor, sigma: float) -> Tensor:
    return -velocity(x, 1 - sigma)


SHIFTS = pytest.mark.parametrize("shift", [1.0, 3.0])


def noise_shares(times: list[float], each: int = 1) -> Tensor:
    first, *inner, last = (1 - time for time in times)
    return torch.tensor([first, *(sigma for sigma in inner for _ in range(each)), last], dtype=torch.float64)


@SHIFTS
def test_flow_euler(shift: float) -> None:
    theirs, times = FlowMatchEulerDiscreteScheduler(shift=shift), flow.grid(COUNT, shift)
    theirs.set_timesteps(sigmas=[1 - index / COUNT for index in range(COUNT)])
    sigmas = noise_shares(times)
    torch.testing.assert_close(theirs.sigmas.double(), sigmas, rtol=1e-5, atol=1e-7)
    assert_equal(flow.euler(velocity, BEGIN, times), steps(theirs, sigmas, BEGIN, flow_output))


@SHIFTS
@pytest.mark.parametrize("count", [1, 2, 28])
def test_flow_euler_over_the_levels_of_its_scheduler(shift: float, count: int) -> None:
    theirs, times = FlowMatchEulerDiscreteScheduler(shift=shift), flow.grid(count, shift, spacing="flow_match_euler")
    theirs.set_timesteps(count)
    sigmas = noise_shares(times)
    torch.testing.assert_close(theirs.sigmas.double(), sigmas, rtol=1e-5, atol=1e-6)
    assert_equal(flow.euler(velocity, BEGIN, times), steps(theirs, sigmas, BEGIN, flow_output))


@SHIFTS
def test_flow_heun(shift: float) -> None:
    """All but the last interval, where theirs takes an Euler step and the head takes the midpoint."""
    theirs, times = FlowMatchHeunDiscreteScheduler(), flow.grid(COUNT, shift)
    theirs.set_timesteps(COUNT)
    sigmas = noise_shares(times, each=2)
    assert_equal(flow.euler(velocity, flow.heun(velocity, BEGIN, times[:-1]), times[-2:]), steps(theirs, sigmas, BEGIN, flow_output))


@SHIFTS
@pytest.mark.parametrize("count", [1, 2, 3, 10, 20])
@pytest.mark.parametrize(("name", "scheduler"), [("dpmpp_2m", DPMSolverMultistepScheduler), ("unipc", UniPCMultistepScheduler)])
def test_flow_multistep(shift: float, count: int, name: str, scheduler: Any) -> None:
    """From a time of 1e-6 on, as theirs: the logarithm of pure noise is infinite there, and no matter here (the next test)."""
    theirs = scheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)
    theirs.set_timesteps(count)
    times = [1e-6, *flow.grid(count, shift)[1:]]
    assert_equal(flow.multistep(velocity, BEGIN, times, name), steps(theirs, noise_shares(times), BEGIN, flow_output))


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_flow_multistep_from_pure_noise(name: str) -> None:
    """The limit of ever earlier starts."""
    at = {start: flow.multistep(velocity, BEGIN, [start, *flow.grid(5)[1:]], name) for start in (0.0, 1e-9, 1e-3)}
    assert float((at[0.0] - at[1e-9]).abs().max()) < 0.1 < 100 * float((at[0.0] - at[1e-3]).abs().max())
    assert bool(at[0.0].isfinite().all())


def gaussian(x: Tensor, now: Level) -> Denoised:
    """The estimates for ``N(1, 0.5^2)``."""
    total = now.signal**2 / 4 + now.spread**2
    off = x - now.signal
    return Denoised(1 + now.signal / 4 * off / total, now.spread * off / total)


def slope(sample: Callable[[Tensor], Tensor]) -> float:
    """Of what is drawn by the noise; a Gaussian's sampler is affine."""
    low, high = sample(torch.tensor([-1.0, 1.0], dtype=torch.float64)).tolist()
    return (high - low) / 2


def orders(errors: Iterable[float]) -> list[float]:
    """Of convergence, by errors at numbers of steps that double."""
    listed = list(errors)
    return [math.log2(one / other) for one, other in itertools.pairwise(listed)]


@pytest.mark.parametrize(("ours", "order"), [(samplers.euler, 1), (samplers.heun, 2), (samplers.dpmpp_2m, 2), (samplers.unipc, 3)])
def test_order_of_convergence_to_the_exact_flow(ours: Any, order: int) -> None:
    """``y`` at ``sigma`` comes from ``1 + sqrt(0.25 + sigma^2) z``, and goes to ``1 + z / 2``; UniPC's corrector adds one to its order."""
    noise = LogNormalNoise(EDM(sigma_data=1.0, sigma_min=1e-4, sigma_max=10.0))
    start = 10.0 if ours in (samplers.euler, samplers.heun) else math.sqrt(101.0)
    exact = start * 0.5 / math.sqrt(100.25)
    counts = (40, 80, 160) if order == 1 else (20, 40, 80)
    found = orders(abs(slope(lambda x, n=n: ours(gaussian, x, noise.plan(n, karras=True))) - exact) for n in counts)  # type: ignore[misc]
    assert all(abs(each - order) < 0.35 for each in found), found


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("dpmpp_2m", 2), ("unipc", 2)])
def test_order_of_convergence_to_the_exact_flow_of_straight_paths(name: str, order: int) -> None:
    def drawn(x: Tensor, count: int) -> Tensor:
        def field(x: Tensor, time: float) -> Tensor:
            return gaussian_velocity(x, time, 1.0, 0.5)

        if name in ("dpmpp_2m", "unipc"):
            return flow.multistep(field, x, flow.grid(count), name)
        return {"euler": flow.euler, "heun": flow.heun, "midpoint": flow.midpoint}[name](field, x, flow.grid(count))

    exact = slope(lambda x: gaussian_map(x, 0.0, 1.0, 1.0, 0.5))
    found = orders(abs(slope(lambda x, n=n: drawn(x, n)) - exact) for n in (80, 160, 320))  # type: ignore[misc]
    assert all(each > order - 0.35 for each in found), found  # the midpoint is one better where the field is affine, as here


@pytest.mark.parametrize("ratio", [0.5, 0.95, 1.0])
def test_dynamic_thresholding_is_that_of_diffusers(ratio: float) -> None:
    estimates = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(2)) * torch.tensor([0.1, 1.0, 3.0, 9.0])[:, None, None]
    theirs = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=ratio, sample_max_value=1e9)._threshold_sample(estimates)
    ours = thresholded(estimates, 1.0, ratio)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(thresholded(2 * estimates, 2.0, ratio), 2 * ours)
    for item, alone in zip(ours, estimates, strict=True):  # each by itself
        torch.testing.assert_close(thresholded(alone[None], 1.0, ratio)[0], item)
    assert ours.abs().max() <= 1
    assert torch.equal(thresholded(estimates, 1.0, None), estimates.clamp(-1, 1))
