"""Samplers against diffusers' on the same answers and noise, and against Gaussians, for which all is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from test_diffusion_schedule import THEIRS
from torch import Tensor

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.continuous import GuidedDenoiser
from jielong.heads.diffusion import Diffusion, DiffusionHead, Prediction
from jielong.heads.diffusion_samplers import Denoise, Denoised, ddim, ddpm, heun
from jielong.heads.diffusion_schedule import Kind, Level, Schedule
from jielong.heads.noise_levels import TrainedSteps
from jielong.networks.denoiser import MLP

PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
THEIR_NAME = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


def normals(seed: int, *shape: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


def silent() -> Tensor:
    raise AssertionError("no noise was to be drawn")


class Answers:
    """A network that answers with numbers of its own, bounded, different at each time: ``(M, C)`` or ``(M, 2 C)``."""

    def __init__(self, channels: int, outputs: int, bound: float = 1.0) -> None:
        self.bound = bound
        self.weight = torch.randn(channels, outputs, generator=torch.Generator().manual_seed(7))

    def __call__(self, x: Tensor, time: float) -> Tensor:
        return self.bound * torch.tanh(x @ self.weight + 3 * time)


def look_of(head: DiffusionHead, answers: Answers) -> Denoise:
    class One(GuidedDenoiser):
        def branches(self, x: Tensor, *times: float, share: float = 0.0) -> tuple[Tensor, Tensor | None]:
            return answers(x, times[0]), None

    evaluate = One(head.network, torch.zeros(1, 1, 2))
    return lambda x, level: head._denoise(evaluate, x, level)


def head_of(prediction: Prediction, variance: str = "fixed", clip: float | None = None, **more: object) -> DiffusionHead:
    settings = Diffusion(network=MLP(layers=1, width=4), prediction=prediction, variance=variance, clip=clip, **more)  # type: ignore[arg-type]
    return settings.build(2, Layout((1,), channels=3))


@PREDICTIONS
@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("variance", ["fixed", "learned"])
@pytest.mark.parametrize("steps", [10, 1000])
def test_ancestral_steps_are_those_of_diffusers(prediction: Prediction, kind: Kind, variance: str, steps: int) -> None:
    """Whole chains, with clipping so that the first steps of so blunt a network do not drown what follows in rounding."""
    name = {"fixed": "fixed_small", "learned": "learned_range"}[variance]
    theirs = DDPMScheduler(
        prediction_type=THEIR_NAME[prediction], variance_type=name, clip_sample=True, clip_sample_range=2.0,
        timestep_spacing="linspace", **THEIRS[kind],
    )  # fmt: skip
    theirs.set_timesteps(steps)
    answers = Answers(3, 6 if variance == "learned" else 3)
    begin = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    generator, x = torch.Generator().manual_seed(2), begin
    for time in theirs.timesteps:
        x = theirs.step(answers(x, int(time) / 1000), time, x, generator=generator).prev_sample
    found = ddpm(look_of(head_of(prediction, variance, clip=2.0), answers), begin, Schedule.of(kind).respaced(steps), normals(2, 5, 3))
    torch.testing.assert_close(found, x, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("clamped", [True, False])
def test_a_learned_variance_outside_its_bounds_is_clamped_or_taken_as_it_is(clamped: bool) -> None:
    """diffusers takes it as it is, as improved DDPM's code does: its chain is ours without the clamp, and differs with it."""
    theirs = DDPMScheduler(
        variance_type="learned_range", clip_sample=True, clip_sample_range=2.0, timestep_spacing="linspace", **THEIRS["cosine"]
    )
    theirs.set_timesteps(10)
    answers, begin = Answers(3, 6, bound=2.0), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    generator, x = torch.Generator().manual_seed(2), begin
    for time in theirs.timesteps:
        x = theirs.step(answers(x, int(time) / 1000), time, x, generator=generator).prev_sample
    head = head_of("epsilon", "learned", clip=2.0, clamp_variance=clamped)
    found = ddpm(look_of(head, answers), begin, Schedule.of("cosine").respaced(10), normals(2, 5, 3))
    assert torch.allclose(found, x, rtol=2e-3, atol=2e-4) != clamped


def test_a_fixed_variance_is_not_clamped() -> None:
    with pytest.raises(ValueError, match="clamp_variance: false is of a learned variance, and variance is fixed"):
        Diffusion(variance="fixed", clamp_variance=False)


@PREDICTIONS
@pytest.mark.parametrize("variance", ["fixed", "learned"])
@pytest.mark.parametrize("time", [1, 2, 500, 990, 999])
def test_one_ancestral_step_is_that_of_diffusers(prediction: Prediction, variance: str, time: int) -> None:
    """Unclipped, at any time: the step from ``time`` is the first of a chain over steps 0 to ``time``."""
    name = {"fixed": "fixed_small", "learned": "learned_range"}[variance]
    theirs = DDPMScheduler(prediction_type=THEIR_NAME[prediction], variance_type=name, clip_sample=False, **THEIRS["linear"])
    theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)  # 1 - abar of the first steps has three digits in float32
    answers = Answers(3, 6 if variance == "learned" else 3)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    expected = theirs.step(answers(x, time / 1000), time, x, generator=torch.Generator().manual_seed(2)).prev_sample
    whole, seen = Schedule.of("linear"), []
    look = look_of(head_of(prediction, variance), answers)

    def watching(x: Tensor, level: Level) -> Denoised:
        seen.append(x)
        return look(x, level)

    ddpm(watching, x, Schedule(whole.kept[: time + 1], whole.times[: time + 1]), normals(2, 5, 3))
    torch.testing.assert_close(seen[1], expected, rtol=1e-4, atol=2e-5)


@PREDICTIONS
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_steps_are_those_of_diffusers(prediction: Prediction, eta: float) -> None:
    theirs = DDIMScheduler(prediction_type=THEIR_NAME[prediction], clip_sample=False, **THEIRS["linear"])
    theirs.set_timesteps(10)  # 900, 800, ..., 0
    answers = Answers(3, 3)
    begin = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    generator, x = torch.Generator().manual_seed(2), begin
    for time in theirs.timesteps:
        x = theirs.step(answers(x, int(time) / 1000), time, x, eta=eta, generator=generator).prev_sample
    whole = Schedule.of("linear")
    plan = Schedule(whole.kept[::100], whole.times[::100])
    found = ddim(look_of(head_of(prediction), answers), begin, plan, normals(2, 5, 3), eta=eta)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def gaussian(mean: float, std: float) -> Denoise:
    """The best look at tokens ``N(mean, std^2)``: ``e = s (x - a m) / (a^2 std^2 + s^2)``."""

    def look(x: Tensor, level: Level) -> Denoised:
        signal, spread = level.signal, level.spread
        total = signal**2 * std**2 + spread**2
        return Denoised(mean + signal * std**2 * (x - signal * mean) / total, spread * (x - signal * mean) / total)

    return look


def spaced(kind: Kind, count: int) -> Schedule:
    return TrainedSteps(Schedule.of(kind).up_to(80)).plan(count, karras=True)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_a_point_is_reached_in_any_number_of_steps(kind: Kind, steps: int) -> None:
    x, plan = torch.randn(100), Schedule.of(kind).respaced(steps)
    look, expected = gaussian(1.5, 0.0), torch.full((100,), 1.5)
    torch.testing.assert_close(ddim(look, x, plan, silent), expected)
    torch.testing.assert_close(ddpm(look, x, plan, normals(0, 100)), expected)
    torch.testing.assert_close(heun(look, x, spaced(kind, steps)), expected, rtol=1e-4, atol=1e-4)


def affine(sample: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Shift and slope of a sampler that is affine in the noise it starts from."""
    low, high = sample(torch.tensor([-1.0, 1.0], dtype=torch.float64)).tolist()
    return (low + high) / 2, (high - low) / 2


def test_more_steps_come_nearer_to_a_gaussian_and_heun_sooner() -> None:
    """Tokens N(1, 0.5^2): the exact flow from the last step takes noise ``z`` to about ``1 + 0.5 z``."""
    schedule, look = Schedule.of("cosine").up_to(80), gaussian(1.0, 0.5)
    errors = {}
    for steps in (10, 20, 40, 80):
        shift, slope = affine(lambda x, n=steps: ddim(look, x, schedule.respaced(n), silent))  # type: ignore[misc]
        errors[steps] = abs(slope - 0.5)
        assert abs(shift - 1) < 0.05
    assert errors[10] / errors[20] == pytest.approx(2, abs=0.5)  # first order
    assert errors[80] < 0.01
    second = {n: abs(affine(lambda x, n=n: heun(look, x, spaced("cosine", n)))[1] - 0.5) for n in (10, 20, 40)}  # type: ignore[misc]
    assert second[10] / second[20] > 3  # second order
    assert second[20] / second[40] > 3
    assert second[40] < errors[80] / 1.2


def test_ancestral_steps_end_at_the_right_spread() -> None:
    """Tokens N(0, 0.5^2), from the mean of the noise on: all spread is what the steps inject."""
    plan, look = Schedule.of("linear"), gaussian(0.0, 0.5)
    slope = affine(lambda x: ddpm(look, x, plan, silent, temperature=0.0))[1]
    x = torch.zeros(20_000)
    drawn = ddpm(look, x, plan.respaced(200), normals(3, 20_000))
    assert abs(slope) < 0.02  # what it starts from is forgotten
    # 20,000 draws: the standard deviation is known to 0.5 %; eight of those, and 1.5 % for 200 steps in place of 1000.
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.055)


def test_a_ddim_step_is_eulers_in_the_variables_of_edm() -> None:
    plan, look = Schedule.of("linear").respaced(6), gaussian(0.3, 0.7)
    x = torch.randn(50, dtype=torch.float64)
    y, sigmas = x / plan.signal[-1], [*plan.sigma.flip(0).tolist(), 0.0]
    for now, then, time in zip(sigmas[:-1], sigmas[1:], plan.times.flip(0).tolist(), strict=True):
        signal = (1 + now**2) ** -0.5
        y = y + (then - now) * look(signal * y, Level(time, signal, now * signal)).noise
    torch.testing.assert_close(ddim(look, x, plan, silent), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1000, 13])
def test_ddim_with_all_its_noise_is_ddpm(steps: int) -> None:
    plan, look, x = Schedule.of("linear").respaced(steps), gaussian(0.3, 0.7), torch.randn(50, dtype=torch.float64)
    found = ddim(look, x, plan, normals(4, 50), eta=1.0)
    torch.testing.assert_close(found, ddpm(look, x, plan, normals(4, 50)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 9, 50])
@pytest.mark.parametrize("sampler", DiffusionHead.samplers)
def test_evaluations_are_as_requested(nfe: int, sampler: str) -> None:
    head, asked = head_of("epsilon"), []

    class Counting(GuidedDenoiser):
        def branches(self, x: Tensor, *times: float, share: float = 0.0) -> tuple[Tensor, Tensor | None]:
            asked.append((times[0], 1 / share - 1))
            return torch.zeros_like(x), None

    with torch.no_grad():
        head.draw(Counting(head.network, torch.zeros(1, 1, 2)), PerSampleRNG(0, [0]), nfe, 1.0, sampler)
    assert len(asked) == nfe - (sampler in ("heun", "edm") and nfe % 2 == 0)
    drawn = Schedule.of("cosine").up_to(80)
    assert asked[0][1] == pytest.approx(float(drawn.sigma[-1]))
    if nfe > 2:
        assert asked[-1][1] == pytest.approx(float(drawn.sigma[0]))
    for time, sigma in asked:
        assert time == pytest.approx(drawn.time_at(sigma), abs=1e-6)


def test_temperature_scales_the_noise_of_the_steps_and_no_other() -> None:
    plan, look, x = Schedule.of("linear").respaced(7), gaussian(0.3, 0.7), torch.randn(50, dtype=torch.float64)
    at = {t: ddpm(look, x, plan, normals(4, 50), temperature=t) for t in (0.5, 1.0, 2.0)}
    at[0] = ddpm(look, x, plan, silent, temperature=0.0)
    for temperature in (0.5, 2.0):  # for a Gaussian everything is affine in the noise
        torch.testing.assert_close(at[temperature], at[0] + temperature * (at[1.0] - at[0]), rtol=1e-6, atol=1e-6)
    assert float((at[1.0] - at[0]).std()) > 0.1
