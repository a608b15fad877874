"""The Gaussian mixture against closed forms, quadrature and torch.distributions. A right head fails with probability below 1e-6."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from distribution import assert_same_distribution
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.gaussian_mixture import GaussianMixture, GaussianMixtureHead, guided, square_plus

Covariance = Literal["diagonal", "full"]
BOTH: tuple[Covariance, ...] = ("diagonal", "full")
SIGMAS = 5.5
"""A normal number is further from its mean once in 26 million times."""


def head_of(channels: int, components: int = 3, covariance: Covariance = "diagonal", seed: int = 0, width: int = 4) -> GaussianMixtureHead:
    torch.manual_seed(seed)
    head = GaussianMixture(components=components, covariance=covariance).build(width, Layout((2, 2), channels))
    for parameter in head.parameters():
        parameter.data += 0.6 * torch.randn(parameter.shape)
    return head


def reference(head: GaussianMixtureHead, hidden: Tensor) -> MixtureSameFamily:
    """The same mixture by torch.distributions, in double precision."""
    mixture = head.mixture_of(hidden)
    weights, means, scales = mixture.weights.double(), mixture.means.double(), mixture.scales.double()
    each = MultivariateNormal(means, scale_tril=scales) if head.full else Independent(Normal(means, scales), 1)
    return MixtureSameFamily(Categorical(logits=weights), each)


@pytest.mark.parametrize("covariance", BOTH)
@pytest.mark.parametrize("channels", [1, 2, 5])
@torch.no_grad()
def test_the_density_is_that_of_torch(channels: int, covariance: Covariance) -> None:
    head = head_of(channels, 4, covariance)
    hidden, values = torch.randn(6, 7, 4), 2 * torch.randn(6, 7, channels)
    expected = reference(head, hidden).log_prob(values.double())
    torch.testing.assert_close(head.log_prob(hidden, values).double(), expected, rtol=2e-5, atol=2e-4)
    loss = head.loss(hidden.flatten(0, 1), values.flatten(0, 1))
    torch.testing.assert_close(loss.double(), -expected.flatten() / channels, rtol=2e-5, atol=2e-4)
    assert head.nats_a_value(1.25) == 1.25


@pytest.mark.parametrize("covariance", BOTH)
@torch.no_grad()
def test_the_density_integrates_to_one(covariance: Covariance) -> None:
    line = torch.linspace(-16, 16, 401)
    step = float(line[1] - line[0])
    plane = torch.cartesian_prod(line, line)
    for seed in range(2):
        hidden = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        one = head_of(1, 3, covariance, seed).log_prob(hidden.expand(len(line), -1), line[:, None])
        assert float(one.double().exp().sum()) * step == pytest.approx(1, abs=1e-4)
        two = head_of(2, 3, covariance, seed).log_prob(hidden.expand(len(plane), -1), plane)
        assert float(two.double().exp().sum()) * step**2 == pytest.approx(1, abs=1e-4)


def test_square_plus_is_its_formula_and_its_gradient_never_vanishes() -> None:
    raw = torch.tensor([-1e6, -1e4, -300.0, -2.0, -1e-3, 0.0, 1e-3, 2.0, 1e6], dtype=torch.float64)
    exact = (raw + (raw.square() + 4).sqrt()) / 2
    torch.testing.assert_close(square_plus(raw)[2:], exact[2:], rtol=1e-9, atol=0)
    single = raw.float().requires_grad_()
    scales = square_plus(single)
    torch.testing.assert_close(scales[:3], torch.tensor([1e-6, 1e-4, 1 / 300]), rtol=1e-4, atol=0)
    scales.sum().backward()
    assert single.grad is not None
    torch.testing.assert_close(single.grad.double(), 0.5 * (1 + raw / (raw.square() + 4).sqrt()), rtol=1e-3, atol=1e-7)
    assert bool((single.grad > 0).all())


@pytest.mark.parametrize("covariance", BOTH)
def test_the_untrained_head(covariance: Covariance) -> None:
    """One component: standard normal whatever the hidden vector. Several: they differ, or they would learn the same for ever."""
    targets, hidden = torch.randn(50, 3), torch.randn(50, 4)
    head = GaussianMixture(components=1, covariance=covariance).build(4, Layout((2, 2), 3))
    torch.testing.assert_close(
        head.loss(hidden, targets), 0.5 * math.log(2 * math.pi) + 0.5 * targets.square().mean(1), rtol=1e-4, atol=1e-4
    )
    several = GaussianMixture(components=5, covariance=covariance).build(4, Layout((2, 2), 3))
    assert several.parameters_of.out_features == 5 * (1 + 3 + (3 if covariance == "diagonal" else 6))
    several.loss(hidden, targets).mean().backward()
    gradient = several.parameters_of.weight.grad
    assert gradient is not None
    assert len(gradient.unflatten(0, (5, -1))[:, 1].unique(dim=0)) == 5
    assert bool((gradient.unflatten(0, (5, -1))[:, 4:7].abs().sum((1, 2)) > 0).all())  # scales learn from the first step on


@pytest.mark.parametrize("covariance", BOTH)
@torch.no_grad()
def test_draws_follow_the_density(covariance: Covariance) -> None:
    head, hidden = head_of(3, 3, covariance), torch.tensor([0.5, -0.2, 1.0, 0.1])
    draw = head.sample(hidden.expand(400, 50, -1), PerSampleRNG(0, range(400)), SamplingConfig())
    assert draw.confidence is not None
    torch.testing.assert_close(draw.confidence, head.log_prob(hidden.expand(400, 50, -1), draw.values))
    exact = reference(head, hidden)
    values = draw.values.flatten(0, 1).double()
    standard = (values - exact.mean) / exact.variance.sqrt()
    for moment in (standard, standard.square() - 1):
        assert float((moment.mean(0) / moment.std(0) * math.sqrt(len(moment))).abs().max()) < SIGMAS
    torch.manual_seed(1)
    assert_same_distribution(values[::25], exact.sample((800,)))


@torch.no_grad()
def test_temperature_multiplies_the_scales_and_zero_leaves_the_means() -> None:
    for covariance in BOTH:
        head, hidden = head_of(2, 3, covariance), torch.tensor([0.5, -0.2, 1.0, 0.1]).expand(100, 20, -1)
        mixture = head.mixture_of(hidden[0, 0])
        cold = head.sample(hidden, PerSampleRNG(0, range(100)), SamplingConfig(temperature=0.0)).values
        which = (cold[:, :, None] - mixture.means).abs().amax(-1).argmin(-1)
        torch.testing.assert_close(cold, mixture.means[which])
        shares, weights = torch.bincount(which.flatten(), minlength=3) / 2000, mixture.weights.exp()
        assert bool(((shares - weights).abs() < SIGMAS * (weights * (1 - weights) / 2000).sqrt()).all())
        plain, half = (head.sample(hidden, PerSampleRNG(0, range(100)), SamplingConfig(temperature=t)).values for t in (1.0, 0.5))
        torch.testing.assert_close(half - cold, 0.5 * (plain - cold), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.3, 1.4, 3.0])
def test_guided_draws_have_the_moments_of_the_product_by_quadrature(scale: float) -> None:
    """One number: the normalised ``N_c^g N_u^(1 - g)`` on a fine line."""
    line = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    mean, spread, null_mean, null_spread = (torch.tensor([value], dtype=torch.float64) for value in (0.4, 0.7, -0.5, 0.9))
    log = scale * Normal(mean, spread).log_prob(line) + (1 - scale) * Normal(null_mean, null_spread).log_prob(line)
    density = (log - log.logsumexp(0)).exp()
    expected = float((density * line).sum())
    deviation = math.sqrt(float((density * (line - expected).square()).sum()))
    low, middle, high = (
        guided(mean, spread, null_mean, null_spread, scale, torch.tensor([white], dtype=torch.float64)).item() for white in (-1.0, 0.0, 1.0)
    )
    assert middle == pytest.approx(expected, rel=1e-6)
    assert high - middle == pytest.approx(deviation, rel=1e-6)
    assert middle - low == pytest.approx(deviation, rel=1e-6)


@pytest.mark.parametrize("scale", [0.3, 1.4, 3.0])
def test_a_guided_full_covariance_is_the_product_of_precisions(scale: float) -> None:
    torch.manual_seed(0)
    mean, null_mean = torch.randn(2, 3, dtype=torch.float64)
    factor = torch.eye(3, dtype=torch.float64) * 0.5 + 0.1 * torch.randn(3, 3, dtype=torch.float64).tril()
    null = torch.eye(3, dtype=torch.float64) * 1.2 + 0.1 * torch.randn(3, 3, dtype=torch.float64).tril()
    ours, other = (torch.linalg.inv(each @ each.T) for each in (factor, null))
    precision = scale * ours + (1 - scale) * other
    expected = torch.linalg.solve(precision, scale * ours @ mean + (1 - scale) * other @ null_mean)
    middle = guided(mean, factor, null_mean, null, scale, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(middle, expected)
    moved = torch.stack([guided(mean, factor, null_mean, null, scale, each) - middle for each in torch.eye(3, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(moved @ moved.T, torch.linalg.inv(precision))


@torch.no_grad()
def test_guidance_one_is_the_conditional_and_zero_the_unconditional_model() -> None:
    conditional, null = torch.randn(2, 30, 4, 4, generator=torch.Generator().manual_seed(5))
    for covariance in BOTH:
        head = head_of(2, 3, covariance)
        plain = head.sample(conditional, PerSampleRNG(0, range(30)), SamplingConfig())
        one = head.sample(conditional, PerSampleRNG(0, range(30)), SamplingConfig(), HeadContext(null, 1.0))
        assert torch.equal(one.values, plain.values)
        zero = head.sample(conditional, PerSampleRNG(0, range(30)), SamplingConfig(), HeadContext(null, 0.0)).values
        if covariance == "diagonal":
            torch.testing.assert_close(zero, head.sample(null, PerSampleRNG(0, range(30)), SamplingConfig()).values, rtol=1e-3, atol=1e-3)
        else:  # another square root of the same covariance, so other draws of the same distribution
            cold, means = (
                head.sample(null, PerSampleRNG(0, range(30)), SamplingConfig(temperature=0.0)).values,
                SamplingConfig(temperature=0.0),
            )
            torch.testing.assert_close(
                head.sample(conditional, PerSampleRNG(0, range(30)), means, HeadContext(null, 0.0)).values, cold, rtol=1e-3, atol=1e-3
            )


def test_where_there_is_no_guided_density_the_conditional_one_is_taken() -> None:
    mean, spread, null_mean = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    null_spread, white = torch.tensor([0.5, 2.0]), torch.tensor([0.3, -0.7])  # precision 3 - 2 * 4 < 0, and 3 - 2 / 4 > 0
    drawn = guided(mean, spread, null_mean, null_spread, 3.0, white)
    assert drawn[0].item() == pytest.approx(1.3)
    assert drawn[1].item() == pytest.approx(3 * 2 / 2.5 - 0.7 / math.sqrt(2.5))
    both = guided(mean, spread.diag(), null_mean, null_spread.diag(), 3.0, white)
    torch.testing.assert_close(both, drawn)


@torch.no_grad()
def test_a_token_does_not_depend_on_others_of_the_batch() -> None:
    for covariance in BOTH:
        head, (hidden, null) = head_of(3, 4, covariance), torch.randn(2, 6, 3, 4)
        together = head.sample(hidden, PerSampleRNG(0, range(6)), SamplingConfig(), HeadContext(null, 2.0)).values
        alone = head.sample(hidden[4:5], PerSampleRNG(0, [4]), SamplingConfig(), HeadContext(null[4:5], 2.0)).values
        torch.testing.assert_close(together[4:5], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("extreme", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("covariance", BOTH)
def test_gradients_are_finite_at_extremes(extreme: float, covariance: Covariance) -> None:
    head = GaussianMixture(components=4, covariance=covariance).build(3, Layout((2, 2), 3))
    head.parameters_of.weight.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(extreme)
    hidden = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = head.loss(hidden, torch.randn(64, 3, generator=torch.Generator().manual_seed(2)))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_half_precision_reaches_no_further_than_the_linear_map() -> None:
    head, hidden, values = head_of(4), torch.randn(20, 4), torch.randn(20, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        numbers, loss = head.parameters_of(hidden), head.loss(hidden, values)
        density = head.mixture_of(hidden).log_prob(values)
    assert (numbers.dtype, loss.dtype, density.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(loss, -density / 4)


def trained(components: int, targets: Tensor, hidden: Tensor, steps: int = 250) -> tuple[GaussianMixtureHead, float]:
    """A head fitted to ``(M, C)`` given ``(M, D)``, and its mean loss."""
    torch.manual_seed(0)
    head = GaussianMixture(components=components).build(hidden.shape[1], Layout((1,), targets.shape[1]))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        optimizer.zero_grad()
        loss = head.loss(hidden, targets).mean()
        loss.backward()
        optimizer.step()
    return head, float(head.loss(hidden, targets).mean().detach())


def test_one_gaussian_smears_two_clusters_and_two_find_them() -> None:
    """The gain is ``ln(sqrt(a^2 + s^2) / s) - ln 2`` where the clusters at ``+-a`` do not overlap; a lone Gaussian loses its entropy."""
    torch.manual_seed(3)
    n, a, s = 400, 1.0, 0.2
    sides = (torch.arange(n) % 2 * 2 - 1).float()[:, None]
    targets = a * sides + s * torch.randn(n, 1)
    hidden = torch.randn(8).expand(n, -1)
    (one, single), (two, double) = (trained(components, targets, hidden, 500) for components in (1, 2))
    assert single == pytest.approx(0.5 * math.log(2 * math.pi * math.e * float(targets.var(correction=0))), abs=2e-3)
    within = float((targets - torch.where(sides > 0, targets[sides > 0].mean(), targets[sides < 0].mean())).var(correction=0))
    assert single - double == pytest.approx(0.5 * math.log(float(targets.var(correction=0)) / within) - math.log(2), abs=5e-3)
    mixture = two.mixture_of(hidden[0])
    torch.testing.assert_close(mixture.means[:, 0].sort().values, torch.tensor([-a, a]), rtol=0, atol=0.05)
    assert float(one.mixture_of(hidden[0]).means.detach().abs().max()) < 0.05


def test_a_trained_head_samples_the_training_distribution_given_its_condition() -> None:
    torch.manual_seed(4)
    n, hidden = 1000, torch.randn(2, 8)

    def exact(kind: int, count: int) -> Tensor:
        noise = torch.randn(count, 2)
        if kind == 0:
            return noise * torch.tensor([0.5, 1.0]) + torch.tensor([1.0, -1.0])
        return (torch.randint(2, (count, 1)) * 2 - 1) * torch.tensor([1.0, 1.0]) + 0.2 * noise

    targets = torch.cat([exact(0, n), exact(1, n)])
    head, _ = trained(3, targets, hidden.repeat_interleave(n, 0))
    with torch.no_grad():
        drawn = head.sample(hidden[:, None].expand(2, 400, -1), PerSampleRNG(0, range(2)), SamplingConfig()).values
    for kind in range(2):
        assert_same_distribution(drawn[kind], exact(kind, 400))
    with pytest.raises(AssertionError):
        assert_same_distribution(drawn[0], drawn[1])


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="needs continuous tokens"):
        GaussianMixture().build(4, Layout((2, 2), 3, 16))
    with pytest.raises(ValueError, match="top_k"):
        head_of(2).sample(torch.randn(1, 1, 4), PerSampleRNG(0, [0]), SamplingConfig(top_k=3))
