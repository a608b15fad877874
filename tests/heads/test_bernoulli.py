"""The Bernoulli head: its bound, its draws and their statistics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.evaluation.soft_targets import bound_per_frame
from jielong.heads.base import HeadContext
from jielong.heads.bernoulli import Bernoulli, BernoulliHead

LEVELS = Layout((4, 5), channels=2, vocabulary=256)
BITS = Layout((4, 5), vocabulary=2)


def built(layout: Layout = LEVELS, draws: str = "binary") -> BernoulliHead:
    torch.manual_seed(0)
    head = Bernoulli.model_validate({"draws": draws}).build(layout.channels, layout).double()
    nn.init.eye_(head.logits.weight)  # hidden vectors are logits
    return head


def least(levels: torch.Tensor) -> torch.Tensor:
    """The bound of positions ``(M, C)``, mean over their channels, as it is measured of clips of one pixel."""
    clips = 2 * levels.double() / 255 - 1
    return bound_per_frame(clips[..., None, None, None])[:, 0] / levels.shape[1]


def test_the_loss_is_the_papers_and_the_first_is_ln_2() -> None:
    head, targets = built(), torch.randint(256, (7, 2))
    logits = torch.randn(7, 2, dtype=torch.float64)
    z, y = targets / 255, logits.sigmoid()
    torch.testing.assert_close(head.loss(logits, targets), -(z * y.log() + (1 - z) * (1 - y).log()).mean(-1))
    fresh = Bernoulli().build(3, LEVELS)
    torch.testing.assert_close(fresh.loss(torch.randn(7, 3), targets), torch.full((7,), math.log(2)))


def test_the_loss_is_never_below_the_bound_and_equals_it_where_the_prediction_is_the_level() -> None:
    head, targets = built(), torch.randint(256, (500, 2))
    assert bool((head.loss(4 * torch.randn(500, 2, dtype=torch.float64), targets) >= least(targets) - 1e-12).all())
    grey = torch.arange(1, 255)[:, None].expand(-1, 2)
    torch.testing.assert_close(head.loss(torch.logit(grey.double() / 255), grey), least(grey))
    ends = torch.tensor([[0, 255]])
    assert float(least(ends)) == 0
    assert float(head.loss(torch.tensor([[-60.0, 60.0]], dtype=torch.float64), ends).detach()) == pytest.approx(0, abs=1e-20)


def test_gradients_at_the_level_are_zero() -> None:
    grey = torch.arange(1, 255)[:, None].expand(-1, 2)
    logits = torch.logit(grey.double() / 255).requires_grad_()
    (slope,) = torch.autograd.grad(built().loss(logits, grey).sum(), logits)
    torch.testing.assert_close(slope, torch.zeros_like(slope))


def test_of_two_levels_it_is_the_likelihood_and_of_more_none() -> None:
    head, logits = built(BITS), torch.randn(6, 1, dtype=torch.float64)
    both = [head.log_prob(logits, torch.full((6, 1), level)).exp() for level in (0, 1)]
    torch.testing.assert_close(both[0] + both[1], torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(both[1], logits[:, 0].sigmoid())
    assert head.nats_a_value(0.5) == 0.5
    assert built().nats_a_value(0.5) is None
    with pytest.raises(ValueError, match="likelihood of 2 levels, not of 256"):
        built().log_prob(torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_binary_draws_have_the_predicted_frequency(temperature: float) -> None:
    """Of 4,000 draws a frequency is off by more than 5 standard deviations with probability below 1e-6."""
    logits, count = torch.tensor([[-1.5, 0.0], [0.4, 2.0]], dtype=torch.float64), 4000
    drawn = built().sample(logits.expand(count, 2, 2), PerSampleRNG(3, range(count)), SamplingConfig(temperature=temperature))
    assert set(drawn.values.unique().tolist()) == {0, 255}
    wanted = (logits / temperature).sigmoid()
    frequency = (drawn.values == 255).double().mean(0)
    assert bool(((frequency - wanted).abs() < 5 * (wanted * (1 - wanted) / count).sqrt()).all())
    assert drawn.confidence is not None
    found = torch.where(drawn.values[0] == 255, wanted, 1 - wanted).log().sum(-1)
    torch.testing.assert_close(drawn.confidence[0], found.float())


def test_greedy_draws_and_means() -> None:
    logits = torch.tensor([[[-1.5, 0.1], [0.4, 2.0]]], dtype=torch.float64)
    rng = PerSampleRNG(0, range(1))
    assert built().sample(logits, rng, SamplingConfig(temperature=0.0)).values[0].tolist() == [[0, 255], [255, 255]]
    mean = built(draws="mean").sample(logits, rng, SamplingConfig())
    assert mean.values.tolist() == (255 * logits.sigmoid()).round().long().tolist()
    assert mean.confidence is None


def test_guidance_acts_on_logits() -> None:
    logits, null = torch.randn(2, 1, 3, 2, dtype=torch.float64)
    context = HeadContext(null=null, guidance=3.0)
    guided = built(draws="mean").sample(logits, PerSampleRNG(0, range(1)), SamplingConfig(), context).values
    assert torch.equal(guided, (255 * (null + 3 * (logits - null)).float().sigmoid()).round().long())


def test_it_learns_the_mean_of_levels() -> None:
    targets = torch.tensor([[40, 200], [80, 100], [60, 0]])
    head = Bernoulli().build(1, LEVELS).double()
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = head.loss(torch.zeros(3, 1, dtype=torch.float64), targets).mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type, no-untyped-call]
    torch.testing.assert_close(head.logits.bias.sigmoid(), targets.double().mean(0) / 255, rtol=0, atol=1e-4)
    assert float(F.sigmoid(head.logits.bias)[0]) == pytest.approx(60 / 255, abs=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a bernoulli head needs discrete tokens"):
        Bernoulli().build(4, Layout((4, 4), channels=3))
    with pytest.raises(ValueError, match="draws black or white, so top_k and top_p do not apply"):
        built().check_sampling(SamplingConfig(top_k=3))
    with pytest.raises(ValueError, match=r"mean takes no random numbers and has no temperature"):
        built(draws="mean").check_sampling(SamplingConfig(temperature=0.5))
    with pytest.raises(ValueError, match="draws a token in one evaluation"):
        built().check_sampling(SamplingConfig(num_inference_steps=4))
