"""The discretised logistic mixture against closed forms. A right implementation fails a statistical test with probability below 1e-6."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.logistic_mixture import LogisticMixture, LogisticMixtureHead, log_bins
from jielong.heads.softmax import filter_logits

ALARM = 1e-6


def head_of(colours: int, levels: int, components: int = 3, seed: int = 0, width: int = 4) -> LogisticMixtureHead:
    head = LogisticMixture(components=components).build(width, Layout((2, 2), colours, levels))
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    return head


def table(head: LogisticMixtureHead, hidden: Tensor) -> Tensor:
    """Probabilities of all pixels for one hidden vector: ``(V, ..., V)``, one axis a colour, from the loss."""
    pixels = torch.tensor(list(itertools.product(range(head.vocabulary), repeat=head.channels)))
    return (-head.loss(hidden.expand(len(pixels), -1), pixels)).exp().detach().double().view([head.vocabulary] * head.channels)


@pytest.mark.parametrize(("colours", "levels"), [(1, 256), (1, 2), (1, 5), (2, 16), (3, 2), (3, 9)])
def test_all_pixels_together_have_probability_one(colours: int, levels: int) -> None:
    for seed in range(3):
        hidden = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        assert float(table(head_of(colours, levels, seed=seed), hidden).sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("levels", [2, 4, 256])
@pytest.mark.parametrize("log_scale", [-20.0, -7.0, -3.0, 0.0, 4.0, 20.0])
@pytest.mark.parametrize("mean", [-30.0, -1.0, 0.123, 1.0, 5.0])
def test_the_bins_of_one_logistic_sum_to_one_and_are_those_of_the_textbook(levels: int, log_scale: float, mean: float) -> None:
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    found = log_bins(x, *torch.tensor([mean, log_scale], dtype=torch.float64), levels)
    assert torch.isfinite(found).all()
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-9)
    edges = (x[:-1] + x[1:]) / 2
    cumulative = stats.logistic.cdf(edges.numpy(), loc=mean, scale=math.exp(min(max(log_scale, -7), 7)))
    expected = torch.from_numpy(cumulative).diff(prepend=torch.zeros(1), append=torch.ones(1))
    torch.testing.assert_close(found.exp(), expected, rtol=1e-6, atol=1e-12)


def test_a_sharp_component_holds_its_bin_and_a_blunt_one_the_ends() -> None:
    x = torch.linspace(-1, 1, 256)
    sharp = log_bins(x, x[77], torch.tensor(-7.0), 256).exp()
    assert float(sharp[77]) == pytest.approx(1 - 2 / (1 + math.exp(math.exp(7) / 255)), rel=1e-4)
    blunt = log_bins(x, torch.tensor(0.0), torch.tensor(7.0), 256).exp()
    assert float(blunt[0] + blunt[-1]) > 0.999


def test_the_loss_is_the_formula_written_out() -> None:
    """Equations 1 to 3 of the paper with numbers, for a pixel amid and one at the ends of the levels."""
    head, hidden = head_of(3, 7, components=2), torch.tensor([[0.3, -1.0, 0.5, 2.0]])
    numbers = head.parameters_of(hidden)[0].detach().double().view(2, 10).tolist()
    half = 1 / 6

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    for pixel in ([3, 2, 4], [0, 6, 1], [6, 0, 6]):
        r, g, b = (level / 3 - 1 for level in pixel)
        total = 0.0
        for logit, *rest in numbers:
            means, scales, k = rest[:3], [math.exp(each) for each in rest[3:6]], [math.tanh(each) for each in rest[6:]]
            centres = [means[0], means[1] + k[0] * r, means[2] + k[1] * r + k[2] * g]
            each = logit
            for x, level, centre, scale in zip((r, g, b), pixel, centres, scales, strict=True):
                top = 1.0 if level == 6 else sigmoid((x + half - centre) / scale)
                low = 0.0 if level == 0 else sigmoid((x - half - centre) / scale)
                each += math.log(top - low)
            total += math.exp(each)
        total /= sum(math.exp(logit) for logit, *_ in numbers)
        assert head.loss(hidden, torch.tensor([pixel])).item() == pytest.approx(-math.log(total), rel=1e-4)
        assert head.nats_a_value(-math.log(total)) == pytest.approx(-math.log(total) / 3)


@pytest.mark.parametrize("extreme", [0.0, 1e3, -1e3, 1e6])
def test_gradients_are_finite_at_extremes(extreme: float) -> None:
    head = LogisticMixture(components=4).build(3, Layout((2, 2), 3, 256))
    head.parameters_of.weight.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(extreme)
    hidden = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    levels = torch.randint(0, 256, (64, 3), generator=torch.Generator().manual_seed(2))
    levels[:8], levels[8:16] = 0, 255
    loss = head.loss(hidden, levels)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_the_untrained_head_is_nearly_uniform_whatever_the_hidden_vector_and_its_components_differ() -> None:
    head = LogisticMixture().build(8, Layout((2, 2), 1, 256))
    hidden = torch.randn(256, 8)
    loss = head.loss(hidden, torch.arange(256)[:, None])
    assert torch.equal(loss, head.loss(torch.zeros(256, 8), torch.arange(256)[:, None]))
    assert loss.mean().item() == pytest.approx(math.log(256), abs=0.1)
    head.loss(hidden, torch.arange(256)[:, None] // 2).mean().backward()
    gradient = head.parameters_of.weight.grad
    assert gradient is not None
    assert len(gradient.view(10, 3, 8)[:, 0].unique(dim=0)) == 10


@pytest.mark.parametrize(
    "sampling", [SamplingConfig(), SamplingConfig(temperature=0.5), SamplingConfig(top_k=3), SamplingConfig(top_p=0.7)]
)
def test_draws_follow_the_table_of_the_loss(sampling: SamplingConfig) -> None:
    """Two colours of four levels: 16 pixels. Sharpness acts on each colour's distribution given the colours before."""
    head, hidden = head_of(2, 4), torch.tensor([0.5, -0.2, 1.0, 0.1])
    joint = table(head, hidden)
    first = joint.sum(1)
    red = filter_logits(first.log(), sampling).double().softmax(-1)
    green = filter_logits((joint / first[:, None]).log(), sampling).double().softmax(-1)
    expected = (red[:, None] * green).flatten()
    draw = head.sample(hidden.expand(200, 50, -1), PerSampleRNG(0, range(200)), sampling)
    codes = (draw.values[..., 0] * 4 + draw.values[..., 1]).flatten()
    counts = torch.bincount(codes, minlength=16).double()
    kept = expected > 0
    assert bool((counts[~kept] == 0).all())
    assert stats.chisquare(counts[kept].numpy(), (expected[kept] * len(codes)).numpy()).pvalue > ALARM
    assert draw.confidence is not None
    torch.testing.assert_close(draw.confidence.flatten(), expected[codes].log().float(), rtol=1e-4, atol=1e-4)


def test_draws_of_256_levels_follow_the_loss() -> None:
    head, hidden = head_of(1, 256), torch.tensor([0.1, 1.0, -0.4, 0.2])
    expected = table(head, hidden) * 20_000
    drawn = head.sample(hidden.expand(400, 50, -1), PerSampleRNG(1, range(400)), SamplingConfig()).values.flatten()
    counts = torch.bincount(drawn, minlength=256).double()
    rare = expected < 5
    pooled = [torch.cat([each[~rare], each[rare].sum()[None]]).numpy() for each in (counts, expected)]
    if pooled[1][-1] < 5:
        pooled = [each[:-1] for each in pooled]
    pooled[1] *= pooled[0].sum() / pooled[1].sum()
    assert stats.chisquare(*pooled).pvalue > ALARM


def test_temperature_zero_takes_the_most_likely_level_of_each_colour_in_turn() -> None:
    head = head_of(3, 6)
    hidden = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(3))
    drawn = head.sample(hidden, PerSampleRNG(0, range(5)), SamplingConfig(temperature=0.0)).values
    for item, position in itertools.product(range(5), range(2)):
        joint = table(head, hidden[item, position])
        r, g, b = drawn[item, position].tolist()
        assert r == int(joint.sum((1, 2)).argmax())
        assert g == int(joint[r].sum(1).argmax())
        assert b == int(joint[r, g].argmax())


def test_guidance_is_the_softmaxs_on_the_levels_log_probabilities() -> None:
    head = head_of(1, 8)
    conditional, null = torch.randn(2, 4, generator=torch.Generator().manual_seed(5))
    given, without = table(head, conditional).log(), table(head, null).log()
    for scale in (0.0, 0.5, 1.0, 3.0):
        expected = (without + scale * (given - without)).softmax(-1)
        context = HeadContext(null.expand(4, 50, -1), scale)
        draw = head.sample(conditional.expand(4, 50, -1), PerSampleRNG(2, range(4)), SamplingConfig(), context)
        assert draw.confidence is not None
        torch.testing.assert_close(draw.confidence.double(), expected[draw.values[..., 0]].log(), rtol=1e-4, atol=1e-4)


def test_a_pixel_does_not_depend_on_others_of_the_batch() -> None:
    head, hidden = head_of(3, 16), torch.randn(6, 3, 4)
    together = head.sample(hidden, PerSampleRNG(0, range(6)), SamplingConfig()).values
    alone = head.sample(hidden[4:5], PerSampleRNG(0, [4]), SamplingConfig()).values
    assert torch.equal(together[4:5], alone)


def test_continuous_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="needs discrete tokens"):
        LogisticMixture().build(4, Layout((2, 2), 3))
