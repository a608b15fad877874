"""The diffusion head: its loss against closed forms, what it learns, and what guidance and temperature do to a draw."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from distribution import assert_same_distribution, gap
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from jielong.config.registry import parse_part
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.continuous import GuidedDenoiser
from jielong.heads.diffusion import Diffusion, DiffusionHead, Prediction, Sampler
from jielong.heads.diffusion_schedule import Kind, Level
from jielong.heads.noise_levels import TrainedSteps
from jielong.networks.denoiser import MLP, Attention

C, D = 2, 3
LAYOUT = Layout((2, 2), channels=C)
PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
SMALL = MLP(layers=1, width=8)


def untrained(**settings: object) -> DiffusionHead:
    torch.manual_seed(0)
    return Diffusion(network=SMALL, **settings).build(D, LAYOUT)  # type: ignore[arg-type]


def lively(**settings: object) -> DiffusionHead:
    """With weights that do something."""
    head = untrained(**settings)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return head


@PREDICTIONS
def test_an_untrained_head_with_fixed_variance_errs_by_the_whole_target(prediction: Prediction) -> None:
    """Tokens N(0, 1): noise, data and ``v`` all have variance 1, so the loss is 1. Of 40,000 squares the mean is known to 0.007."""
    head = untrained(prediction=prediction, variance="fixed", diffusion_batch_mul=5)
    loss = head.loss(torch.randn(4000, D), torch.randn(4000, C))
    assert loss.shape == (4000,)
    assert loss.mean().item() == pytest.approx(1, abs=6 * 0.007)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_an_untrained_head_adds_the_bound(schedule: Kind) -> None:
    """The bound is linear in the squared error, whose mean is 1: the mean over all steps is the bound at 1, half-way between variances."""
    head = untrained(schedule=schedule, diffusion_batch_mul=20)
    steps = torch.arange(1000)
    expected = 1 + head._bound(steps, torch.ones(1000, 1), torch.full((1000, 1), 0.5)).mean().item()
    loss = head.loss(torch.randn(4000, D), torch.randn(4000, C))
    assert expected > 1.001
    assert loss.mean().item() == pytest.approx(expected, abs=6 * loss.std().item() / math.sqrt(4000))


@PREDICTIONS
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_bound_is_the_divergence_between_the_steps_back(prediction: Prediction, schedule: Kind) -> None:
    """At every step: from the posterior of the true token to that of the guessed one, as torch.distributions computes it."""
    head, torch_double = untrained(prediction=prediction, schedule=schedule), torch.float64
    plan, steps = head.schedule, torch.arange(1000)
    torch.manual_seed(3)
    data, noise, wrong = torch.randn(3, 1000, dtype=torch_double)
    share = torch.rand(1000, dtype=torch_double)
    signal, spread = plan.signal, plan.spread
    noisy = signal * data + spread * noise
    target = {"epsilon": noise, "x0": data, "v": signal * noise - spread * data}[prediction]
    predicted = target + 0.01 * wrong
    guessed = {"epsilon": (noisy - spread * predicted) / signal, "x0": predicted, "v": signal * noisy - spread * predicted}[prediction]
    scale = torch.exp((share * plan.log_betas + (1 - share) * plan.log_variance) / 2)
    true = Normal(plan.of_data * data + plan.of_noisy * noisy, torch.exp(plan.log_variance / 2))
    found = Normal(plan.of_data * guessed + plan.of_noisy * noisy, scale)
    expected = kl_divergence(true, found)
    expected[0] = -Normal(guessed[0], scale[0]).log_prob(data[0])
    bits = head._bound(steps, (target - predicted).square()[:, None].float(), share[:, None].float())[:, 0]
    torch.testing.assert_close(bits.double(), expected / math.log(2), rtol=1e-3, atol=1e-6)


def test_the_bound_teaches_the_variance_alone() -> None:
    """Gradients of what says the noise are those of the squared error, to the last bit; those of the variance are not zero."""
    gradients = {}
    for variance in ("learned", "fixed"):
        head = untrained(variance=variance)
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                generator = torch.Generator().manual_seed(len(name))
                parameter.copy_(0.3 * torch.randn(2 * C if name.startswith("network.output") else len(parameter), *parameter.shape[1:],
                                                  generator=generator)[: len(parameter)])  # fmt: skip
        torch.manual_seed(5)
        head.loss(torch.randn(16, D), torch.randn(16, C)).sum().backward()
        gradients[variance] = head.network.output.weight.grad  # type: ignore[union-attr]
    torch.testing.assert_close(gradients["learned"][:C], gradients["fixed"])  # type: ignore[index, arg-type]
    assert gradients["learned"][C:].abs().min() > 0  # type: ignore[index, union-attr]


def test_extremes_stay_finite_and_bf16_is_close() -> None:
    head = lively()
    hidden, targets = torch.randn(64, D), torch.randn(64, C)
    torch.manual_seed(1)
    exact = head.loss(hidden, targets)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = head.loss(hidden, targets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.2, atol=0.2)
    loss = head.loss(hidden, targets * 1e6)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


# --- what it learns -------------------------------------------------------------------------------------------------------------------

NORMAL, TWO = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
MEAN, SPREAD = torch.tensor([1.0, -0.5]), torch.tensor([0.5, 0.8])


def tokens(hidden: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Tokens ``(M, 2)``: a normal where ``hidden`` says so, and else one of two narrow normals, far apart, by the throw of a coin."""
    noise = torch.randn(len(hidden), 2, generator=generator)
    side = torch.where(torch.rand(len(hidden), 1, generator=generator) < 0.5, 1.0, -1.0)
    return torch.where(hidden[:, :1] > 0, MEAN + SPREAD * noise, side * torch.tensor([0.9, 0.6]) + 0.2 * noise)


@functools.cache
def trained(prediction: Prediction) -> DiffusionHead:
    torch.manual_seed(0)
    head = Diffusion(network=MLP(layers=2, width=64), prediction=prediction, diffusion_batch_mul=2).build(2, LAYOUT)
    steps, fastest = 400, 3e-3
    optimizer = torch.optim.Adam(head.parameters(), lr=fastest, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = fastest * min(1, 2 * (steps - step) / steps)
        hidden = torch.cat([NORMAL.expand(64, 2), TWO.expand(64, 2)])
        optimizer.zero_grad()
        head.loss(hidden, tokens(hidden)).mean().backward()
        optimizer.step()
    return head


def drawn(head: DiffusionHead, which: Tensor, sampler: Sampler, steps: int, count: int = 600) -> tuple[Tensor, Tensor]:
    """Draws of the head, and fresh tokens."""
    head.sampler = sampler
    with torch.no_grad():
        found = head.sample(which.expand(1, count, 2), PerSampleRNG(1, [0]), SamplingConfig(num_inference_steps=steps)).values[0]
    return found, tokens(which.expand(count, 2), torch.Generator().manual_seed(11))


@pytest.mark.parametrize("which", [NORMAL, TWO], ids=["normal", "two"])
@pytest.mark.parametrize(("prediction", "sampler", "steps"), [
    ("epsilon", "ddpm", 100), ("epsilon", "ddpm", 15), ("epsilon", "ddim", 50), ("epsilon", "edm", 35), ("v", "ddpm", 15), ("v", "edm", 35),
])  # fmt: skip
def test_draws_of_a_trained_head_are_tokens(which: Tensor, prediction: Prediction, sampler: Sampler, steps: int) -> None:
    assert_same_distribution(*drawn(trained(prediction), which, sampler, steps))


def test_one_evaluation_gives_the_mean_which_is_neither_of_two() -> None:
    """So the test above can fail, and this is why a draw takes several steps: between two possible tokens stands none."""
    found, exact = drawn(trained("v"), TWO, "ddim", 1)
    assert found.norm(dim=-1).mean() < 0.4 < 0.9 < exact.norm(dim=-1).mean()
    assert not gap(found, exact).by_chance


def test_the_learned_noise_is_the_best_one_can_say() -> None:
    """For tokens N(m, s^2): ``e = s_t (x - a_t m) / (a_t^2 s^2 + s_t^2)``. Compared where noisy tokens are, at ten times."""
    head = trained("epsilon")
    torch.manual_seed(2)
    errors = []
    with torch.no_grad():
        for step in range(50, 1000, 100):
            signal, spread = head.signal[step], head.spread[step]
            data = MEAN + SPREAD * torch.randn(400, 2)
            x = signal * data + spread * torch.randn(400, 2)
            best = spread * (x - signal * MEAN) / (signal**2 * SPREAD**2 + spread**2)
            predicted = head.network(x, torch.full((400, 1), step / 1000), NORMAL.expand(400, 2))[:, :2]
            errors.append((predicted - best).square().mean().sqrt().item())
    assert max(errors) < 0.25
    assert sum(errors) / len(errors) < 0.12


# --- a draw ---------------------------------------------------------------------------------------------------------------------------

SAMPLERS = pytest.mark.parametrize("settings", [{}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 1.0}, {"sampler": "edm"}], ids=str)


@SAMPLERS
@PREDICTIONS
def test_guidance_of_one_is_no_guidance_and_a_null_like_the_condition_no_change(
    settings: dict[str, object], prediction: Prediction
) -> None:
    head, hidden, null = lively(prediction=prediction, **settings), torch.randn(3, 4, D), torch.randn(3, 4, D)

    def draw(*guidance: object) -> Tensor:
        return head.sample(hidden, PerSampleRNG(3, range(3)), SamplingConfig(num_inference_steps=6), HeadContext(*guidance)).values  # type: ignore[arg-type]

    plain = draw()
    assert plain.shape == (3, 4, C)
    assert torch.equal(draw(null, 1.0), plain)
    torch.testing.assert_close(draw(hidden, 4.0), plain, rtol=1e-3, atol=1e-3)
    assert (draw(null, 2.0) - plain).abs().max() > 1e-2


@PREDICTIONS
def test_guidance_is_of_the_noise_and_leaves_the_variance_to_the_condition(prediction: Prediction) -> None:
    head, hidden, null, x = lively(prediction=prediction), torch.randn(2, 3, D), torch.randn(2, 3, D), torch.randn(2, 3, C)
    at = Level(0.6, math.sqrt(0.3), math.sqrt(0.7))
    one, other = (head._denoise(GuidedDenoiser(head.network, each), x, at) for each in (hidden, null))
    guided = head._denoise(GuidedDenoiser(head.network, hidden, HeadContext(null, 2.5)), x, at)
    torch.testing.assert_close(guided.noise, other.noise + 2.5 * (one.noise - other.noise))
    torch.testing.assert_close(at.signal * guided.data + at.spread * guided.noise, x)
    torch.testing.assert_close(guided.fraction, one.fraction)


def test_at_temperature_zero_only_the_first_noise_matters() -> None:
    head, hidden = lively(), torch.randn(2, 4, D)

    class First(PerSampleRNG):
        """Its first numbers, and then others than another one's."""

        def __init__(self, later: int) -> None:
            super().__init__(1, range(2))
            self.numbers = [PerSampleRNG(1, range(2)).normal(4, C), *(PerSampleRNG(later, range(2)).normal(4, C) for _ in range(50))]

        def normal(self, *shape: int) -> Tensor:
            return self.numbers.pop(0)

    def draw(later: int, temperature: float) -> Tensor:
        return head.sample(hidden, First(later), SamplingConfig(temperature=temperature)).values

    assert torch.equal(draw(5, 0.0), draw(6, 0.0))
    assert (draw(5, 1.0) - draw(6, 1.0)).abs().min() > 1e-6
    assert (draw(5, 0.5) - draw(5, 1.0)).abs().min() > 1e-6


@SAMPLERS
def test_a_token_does_not_depend_on_the_batch(settings: dict[str, object]) -> None:
    # In double precision: kernels sum in another order for another batch, and the first steps of this untrained head magnify that.
    head, hidden = lively(**settings).double(), torch.randn(5, 4, D).double()
    together = head.sample(hidden, PerSampleRNG(9, range(5)), SamplingConfig()).values
    for row in (0, 3):
        torch.testing.assert_close(head.sample(hidden[row : row + 1], PerSampleRNG(9, [row]), SamplingConfig()).values[0], together[row])


def test_a_young_head_cannot_begin_where_there_is_no_signal() -> None:
    """At the cosine schedule's last step an error in the noise becomes 20,000 times as large in the token; from 80 on all is well."""
    head, well = trained("epsilon"), trained("epsilon").levels
    try:
        head.levels = TrainedSteps(head.schedule)
        lost, exact = drawn(head, NORMAL, "ddpm", 15)
    finally:
        head.levels = well
    assert lost.abs().mean() > 10 * exact.abs().mean()


def test_where_draws_begin() -> None:
    assert len(untrained(start=None).levels.plan(1000, karras=False)) == 1000
    begun = untrained(start=20.0)
    assert float(begun.levels.plan(900, karras=False).sigma[-1]) <= 20 < float(begun.schedule.sigma[-1])


def test_dynamic_thresholding_needs_a_range_and_a_head_of_whole_blocks() -> None:
    with pytest.raises(ValueError, match="add clip"):
        Diffusion(network=SMALL, dynamic_thresholding_ratio=0.9)
    with pytest.raises(ValueError, match="take the network dit or unet, or clip alone"):
        untrained(clip=1.0, dynamic_thresholding_ratio=0.9)


def test_what_is_clipped_stays_within() -> None:
    head = lively(clip=0.1, steps=9)
    assert head.sample(torch.randn(2, 4, D), PerSampleRNG(0, range(2)), SamplingConfig()).values.abs().max().item() <= 0.1 + 1e-6


def test_a_recipe_says_it_and_what_does_not_fit_is_refused() -> None:
    part = {"diffusion": {"network": {"attention": {"groups": 2, "width": 8, "heads": 2}}, "steps": 9, "prediction": "v"}}
    settings = parse_part("head", part)
    assert isinstance(settings, Diffusion)
    assert isinstance(settings.network, Attention)
    assert parse_part("head", settings.model_dump(mode="json")) == settings
    assert settings.build(D, LAYOUT).sample(torch.randn(1, 4, D), PerSampleRNG(0, [0]), SamplingConfig()).values.shape == (1, 4, C)
    with pytest.raises(ValueError, match="a diffusion head needs continuous tokens; this tokenizer's are codes"):
        Diffusion().build(D, Layout((2, 2), vocabulary=8))
    for settings in (Diffusion(sampler="edm"), Diffusion(sampler="ddim")):
        with pytest.raises(ValueError, match="temperature multiplies the noise of the steps, and the sampler"):
            settings.build(D, LAYOUT).check_sampling(SamplingConfig(temperature=0.9))
    Diffusion(sampler="ddim", eta=0.5).build(D, LAYOUT).check_sampling(SamplingConfig(temperature=0.9))


@pytest.mark.parametrize("name", ["num_inference_steps", "final_inference_steps"])
def test_more_steps_than_those_of_training_are_refused_before_sampling(name: str) -> None:
    head = Diffusion(steps=4).build(D, LAYOUT)
    with pytest.raises(ValueError, match=r"2000 sampling steps are more than the .* training steps of the noise schedule"):
        head.check_sampling(SamplingConfig(**{name: 2000}))
    with pytest.raises(ValueError, match="2000 sampling steps are more than the"):
        Diffusion(steps=2000).build(D, LAYOUT)
    head.check_sampling(SamplingConfig(num_inference_steps=2000, sampler="edm"))  # EDM's noise levels are continuous
