"""The energy score against closed forms, and heads trained by it. A right one fails a statistical test with probability below 1e-6."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from distribution import assert_same_distribution
from torch import Tensor

from jielong.config.registry import Faults, parse_part
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.energy import Energy, EnergyHead, distance, energy_loss

SIGMAS = 5.5
"""A normal number is further from its mean once in 26 million times."""


def assert_mean(values: Tensor, expected: float) -> None:
    """Fail if chance does not explain how far the mean of independent values is from what is expected."""
    deviation = abs(float(values.mean()) - expected) / (float(values.std()) / math.sqrt(len(values)))
    assert deviation < SIGMAS, f"{float(values.mean()):.5f} is {deviation:.1f} standard errors from {expected:.5f}"


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head_of(channels: int, seed: int = 0, width: int = 4, **settings: int | float) -> EnergyHead:
    torch.manual_seed(seed)
    head = Energy(**{"layers": 1, "width": 16, "noise": 6, **settings}).build(width, Layout((2, 2), channels))  # type: ignore[arg-type]
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return head


# --- the score ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.7])
def test_the_loss_is_its_formula_written_out(alpha: float) -> None:
    draws, target = randn(4, 3, 5), randn(3, 5, seed=1)
    for place in range(3):
        near = [math.dist(draws[i, place].tolist(), target[place].tolist()) ** alpha for i in range(4)]
        among = [math.dist(draws[i, place].tolist(), draws[j, place].tolist()) ** alpha for i, j in itertools.permutations(range(4), 2)]
        assert energy_loss(draws, target, alpha)[place].item() == pytest.approx(2 / 4 * sum(near) - sum(among) / 12)
        a, b, y = (each.tolist() for each in (draws[0, place], draws[1, place], target[place]))
        two = math.dist(a, y) ** alpha + math.dist(b, y) ** alpha - math.dist(a, b) ** alpha
        assert energy_loss(draws[:2], target, alpha)[place].item() == pytest.approx(two)


@pytest.mark.parametrize("channels", [1, 2, 16])
def test_a_perfect_head_reaches_the_floor_of_gaussians(channels: int) -> None:
    """``E|y - y'| = 2 s Gamma((d + 1) / 2) / Gamma(d / 2)``: 1.128 s, 1.772 s, 5.569 s."""
    s, n = 0.7, 20_000
    drawn = s * randn(3, n, channels) + 2
    floor = 2 * s * math.exp(math.lgamma((channels + 1) / 2) - math.lgamma(channels / 2))
    assert floor / s == pytest.approx({1: 1.1284, 2: 1.7725, 16: 5.569}[channels], abs=1e-3)
    assert_mean(energy_loss(drawn[:2], drawn[2]), floor)


@pytest.mark.parametrize("y", [-1.5, 0.2, 3.0])
def test_for_one_number_it_is_twice_the_continuous_ranked_probability_score(y: float) -> None:
    """CRPS of N(mu, s^2) at y: ``s [w (2 Phi(w) - 1) + 2 phi(w) - 1 / sqrt(pi)]``, ``w = (y - mu) / s``."""
    mean, s = 0.4, 1.3
    w = (y - mean) / s
    crps = s * (w * math.erf(w / math.sqrt(2)) + 2 * math.exp(-w * w / 2) / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi))
    drawn = mean + s * randn(2, 20_000, 1)
    assert_mean(energy_loss(drawn, torch.tensor([y], dtype=torch.float64)), 2 * crps)


def test_the_right_spread_scores_best() -> None:
    """Draws of N(0, q^2) against a truth of N(0, 1): ``2 sqrt(2 (1 + q^2) / pi) - 2 q / sqrt(pi)``, least at q = 1."""
    noise, truth = randn(2, 40_000, 1), randn(40_000, 1, seed=1)
    means = {}
    for q in (0.0, 0.5, 1.0, 2.0):
        each = energy_loss(q * noise, truth)
        assert_mean(each, 2 * math.sqrt(2 * (1 + q * q) / math.pi) - 2 * q / math.sqrt(math.pi))
        means[q] = float(each.mean())
    assert min(means, key=lambda q: means[q]) == 1.0


def test_two_dogs() -> None:
    """Truth -1 or 1: whatever constant lies between scores 2, a fair coin 1, a coin of ``p`` ``2 - 4 p (1 - p)``."""
    truth = torch.tensor([[-1.0], [1.0]])
    for constant in (-1.0, 0.0, 0.3):
        assert float(energy_loss(torch.full((2, 2, 1), constant), truth).mean()) == pytest.approx(2)
    for p in (0.5, 0.9):
        total = 0.0
        for first, second in itertools.product((-1.0, 1.0), repeat=2):
            chance = math.prod(p if side > 0 else 1 - p for side in (first, second))
            total += chance * float(energy_loss(torch.tensor([first, second])[:, None, None].expand(2, 2, 1), truth).mean())
        assert total == pytest.approx(2 - 4 * p * (1 - p))


def test_an_exponent_of_two_would_see_the_mean_only() -> None:
    """``E|a - y|^2 + E|b - y|^2 - E|a - b|^2 = 2 |E a - E y|^2 + 2 Var y``, so settings refuse it."""
    noise, truth = randn(2, 40_000, 1), randn(40_000, 1, seed=1)
    for q in (0.0, 1.0, 2.0):
        assert_mean(energy_loss(q * noise, truth, alpha=2.0), 2.0)
    with pytest.raises(Faults, match="less than 2"):
        parse_part("head", {"energy": {"alpha": 2.0}})


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.7])
def test_gradients_by_finite_differences_and_at_coincident_draws(alpha: float) -> None:
    draws, target = randn(3, 2, 4).requires_grad_(), randn(2, 4, seed=1)
    assert torch.autograd.gradcheck(lambda each: energy_loss(each, target, alpha), (draws,))
    zero = torch.zeros(3, 4, requires_grad=True)
    distance(zero, alpha).sum().backward()
    assert zero.grad is not None
    assert torch.equal(zero.grad, torch.zeros(3, 4))


def test_one_draw_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two draws or more"):
        energy_loss(torch.zeros(1, 5, 3), torch.zeros(5, 3))


# --- the head -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_the_untrained_head_says_zero_and_learns(alpha: float) -> None:
    head, hidden, targets = Energy(layers=2, width=16, alpha=alpha).build(4, Layout((2, 2), 3)), torch.randn(50, 4), torch.randn(50, 3)
    loss = head.loss(hidden, targets)
    torch.testing.assert_close(loss, 2 * targets.norm(dim=1).pow(alpha))
    loss.mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    assert float(head.network.output.weight.grad.abs().max()) > 0  # type: ignore[union-attr]


def train(head: EnergyHead, exact: Callable[[int, int], Tensor], hidden: Tensor, steps: int) -> None:
    """Fit a head to fresh draws ``exact(kind, count)`` for each row of ``hidden``."""
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        optimizer.zero_grad()
        targets = torch.cat([exact(kind, 100) for kind in range(len(hidden))])
        head.loss(hidden.repeat_interleave(100, 0), targets).mean().backward()
        optimizer.step()


def test_a_trained_head_samples_the_training_distribution_given_its_condition() -> None:
    """One evaluation from noise to a Gaussian, and to two Gaussians; without the noise, to a point between."""
    torch.manual_seed(0)
    hidden = torch.randn(2, 8)

    def exact(kind: int, count: int) -> Tensor:
        noise = torch.randn(count, 2)
        if kind == 0:
            return noise * torch.tensor([0.5, 1.0]) + torch.tensor([1.0, -1.0])
        return (torch.randint(2, (count, 1)) * 2 - 1) * torch.tensor([1.0, 1.0]) + 0.25 * noise

    head = Energy(layers=1, width=32, noise=8).build(8, Layout((1,), 2))
    train(head, exact, hidden, 300)
    with torch.no_grad():
        drawn = head.sample(hidden[:, None].expand(2, 200, -1), PerSampleRNG(0, range(2)), SamplingConfig()).values
        cold = head.sample(hidden[:, None].expand(2, 200, -1), PerSampleRNG(0, range(2)), SamplingConfig(temperature=0.0)).values
    for kind in range(2):
        assert_same_distribution(drawn[kind], exact(kind, 200))
    with pytest.raises(AssertionError):
        assert_same_distribution(drawn[0], drawn[1])
    assert float(cold.std(1).max()) < 1e-5


@torch.no_grad()
def test_guidance_is_the_projects_on_hidden_vectors_and_one_changes_no_bit() -> None:
    head, (conditional, null) = head_of(3), torch.randn(2, 5, 2, 4)
    plain = head.sample(conditional, PerSampleRNG(0, range(5)), SamplingConfig()).values
    assert torch.equal(head.sample(conditional, PerSampleRNG(0, range(5)), SamplingConfig(), HeadContext(null, 1.0)).values, plain)
    for scale in (0.0, 0.5, 3.0):
        guided = head.sample(conditional, PerSampleRNG(0, range(5)), SamplingConfig(), HeadContext(null, scale)).values
        expected = head.sample(null + scale * (conditional - null), PerSampleRNG(0, range(5)), SamplingConfig()).values
        torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_temperature_multiplies_the_noise() -> None:
    head, hidden = head_of(3), torch.randn(5, 2, 4)
    rng = PerSampleRNG(0, range(5)).normal(2, 6)
    warm = head.sample(hidden, PerSampleRNG(0, range(5)), SamplingConfig(temperature=0.5)).values
    torch.testing.assert_close(warm, head.network(hidden, 0.5 * rng))
    spread = [
        head.sample(hidden[:1].expand(200, -1, -1), PerSampleRNG(0, range(200)), SamplingConfig(temperature=t)).values.std(0).mean()
        for t in (0.0, 0.5, 1.0)
    ]
    assert spread[0] < 1e-6 < spread[1] < spread[2]


@torch.no_grad()
def test_a_token_does_not_depend_on_others_of_the_batch() -> None:
    head, (hidden, null) = head_of(3), torch.randn(2, 6, 3, 4)
    together = head.sample(hidden, PerSampleRNG(0, range(6)), SamplingConfig(), HeadContext(null, 2.0))
    alone = head.sample(hidden[4:5], PerSampleRNG(0, [4]), SamplingConfig(), HeadContext(null[4:5], 2.0))
    torch.testing.assert_close(together.values[4:5], alone.values, rtol=1e-4, atol=1e-5)
    assert together.confidence is None


def test_it_has_no_likelihood_and_says_so() -> None:
    head = head_of(3)
    assert head.nats_a_value(1.0) is None
    with pytest.raises(ValueError, match="has no likelihood"):
        head.log_prob(torch.randn(2, 4), torch.randn(2, 3))


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="needs continuous tokens"):
        Energy().build(4, Layout((2, 2), 3, 16))
    with pytest.raises(ValueError, match="top_p"):
        head_of(2).sample(torch.randn(1, 1, 4), PerSampleRNG(0, [0]), SamplingConfig(top_p=0.5))


def test_half_precision_reaches_no_further_than_the_network() -> None:
    head = head_of(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.loss(torch.randn(20, 4), torch.randn(20, 3)).dtype == torch.float32
        assert head.sample(torch.randn(1, 2, 4), PerSampleRNG(0, [0]), SamplingConfig()).values.dtype == torch.float32
