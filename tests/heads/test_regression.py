"""The baseline that fails: what it does, and that it fails as it should."""

from __future__ import annotations

import pytest
import torch

from jielong.config.registry import parse_part
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.regression import Regression, RegressionHead

LAYOUT = Layout((2, 2), channels=3)


def lively() -> RegressionHead:
    torch.manual_seed(0)
    head = Regression().build(4, LAYOUT)
    torch.nn.init.normal_(head.token.weight)
    return head


def test_the_loss_is_torchs_mean_over_channels() -> None:
    head, hidden, targets = lively(), torch.randn(7, 4), torch.randn(7, 3)
    expected = torch.nn.functional.mse_loss(head.token(hidden), targets, reduction="none").mean(-1)
    torch.testing.assert_close(head.loss(hidden, targets), expected)
    torch.testing.assert_close(Regression().build(4, LAYOUT).loss(hidden, targets), targets.square().mean(-1))


def test_optimum_is_the_mean_with_the_variance_as_loss() -> None:
    """The best linear answer in closed form: targets are +a and -a by chance, the hidden vector is the same."""
    head, targets = Regression().build(1, LAYOUT), torch.tensor([[1.0, -2.0, 0.5]]) * torch.tensor([[1.0], [-1.0]]).repeat(50, 1)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=20)
    torch.nn.init.constant_(head.token.bias, 3.0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = head.loss(torch.ones(100, 1), targets).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    sampled = head.sample(torch.ones(1, 4, 1), PerSampleRNG(0, [0]), SamplingConfig()).values
    torch.testing.assert_close(sampled, torch.zeros(1, 4, 3), rtol=0, atol=1e-4)
    assert head.loss(torch.ones(100, 1), targets).mean().item() == pytest.approx(5.25 / 3, rel=1e-5)


def test_a_draw_is_the_prediction_guided() -> None:
    head, hidden, null = lively(), torch.randn(2, 4, 4), torch.randn(2, 4, 4)
    draws = [head.sample(hidden, PerSampleRNG(seed, range(2)), SamplingConfig()) for seed in (0, 1)]
    assert torch.equal(draws[0].values, draws[1].values)
    assert torch.equal(draws[0].values, head.token(hidden))
    assert draws[0].confidence is None
    assert torch.equal(head.sample(hidden, PerSampleRNG(0, range(2)), SamplingConfig(), HeadContext(null, 1.0)).values, head.token(hidden))
    guided = head.sample(hidden, PerSampleRNG(0, range(2)), SamplingConfig(), HeadContext(null, 3.0)).values
    torch.testing.assert_close(guided, head.token(null) + 3 * (head.token(hidden) - head.token(null)))


def test_what_means_nothing_is_refused() -> None:
    settings = parse_part("head", "regression")
    assert isinstance(settings, Regression)
    for sampling in (SamplingConfig(temperature=0.5), SamplingConfig(top_k=4), SamplingConfig(num_inference_steps=4)):
        with pytest.raises(ValueError, match="RegressionHead draws"):
            settings.build(4, LAYOUT).sample(torch.randn(1, 4, 4), PerSampleRNG(0, [0]), sampling)
    with pytest.raises(ValueError, match="a regression head needs continuous tokens"):
        settings.build(4, Layout((2, 2), vocabulary=8))
