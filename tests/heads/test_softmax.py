"""The softmax head against closed forms. Statistical tests: a right implementation fails each with probability below 1e-6."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.softmax import Softmax, SoftmaxHead, draw_codes, filter_logits

ALARM = 1e-6
LOGITS = torch.tensor([2.0, -1.0, 0.5, 0.5, -3.0, 1.2, 0.0])


def head_of(logits: Tensor) -> SoftmaxHead:
    """A head that gives these logits (times the hidden number) at a hidden vector of width 1; ``(V,)`` or ``(K, V)``."""
    logits = torch.atleast_2d(logits)
    head = Softmax().build(1, Layout((1,), channels=logits.shape[0], vocabulary=logits.shape[1]))
    head.logits.weight.data = logits.reshape(-1, 1).clone()
    return head


def draw(head: SoftmaxHead, sampling: SamplingConfig, samples: int = 200, positions: int = 50, seed: int = 0) -> Tensor:
    return head.sample(torch.ones(samples, positions, 1), PerSampleRNG(seed, range(samples)), sampling).values


def oracle(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """The distribution by its definition, one code after the other; the logits here have ties in the middle only."""
    weight = [math.exp(float(x) / sampling.temperature) for x in logits]
    order = sorted(range(len(weight)), key=lambda code: -weight[code])
    if sampling.top_k:
        least = weight[order[min(sampling.top_k, len(order)) - 1]]
        order = [code for code in order if weight[code] >= least]
    total, kept, reached = sum(weight[code] for code in order), [], 0.0
    for code in order:
        if reached >= sampling.top_p:
            break
        kept.append(code)
        reached += weight[code] / total
    mass = sum(weight[code] for code in kept)
    return torch.tensor([weight[code] / mass if code in kept else 0.0 for code in range(len(weight))], dtype=torch.float64)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.5),
        SamplingConfig(temperature=3.0),
        SamplingConfig(top_k=1),
        SamplingConfig(top_k=3),
        SamplingConfig(top_k=100),
        SamplingConfig(top_p=0.3),
        SamplingConfig(top_p=0.8),
        SamplingConfig(temperature=1.5, top_k=5, top_p=0.9),
    ],
)
def test_draws_follow_the_softmax(sampling: SamplingConfig) -> None:
    codes = draw(head_of(LOGITS), sampling).flatten()
    expected = oracle(LOGITS, sampling) * len(codes)
    counts = torch.bincount(codes, minlength=len(LOGITS))
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    if kept.sum() > 1:
        assert stats.chisquare(counts[kept].numpy(), expected[kept].numpy()).pvalue > ALARM
    torch.testing.assert_close(filter_logits(LOGITS, sampling).double().softmax(-1), oracle(LOGITS, sampling), rtol=1e-5, atol=1e-7)


def test_draws_of_two_codebooks_are_independent() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, -1.0, 0.0]])
    codes = draw(head_of(logits), SamplingConfig()).reshape(-1, 2)
    counts = torch.bincount(codes[:, 0] * 3 + codes[:, 1], minlength=9)
    p = logits.double().softmax(-1)
    expected = (p[0][:, None] * p[1][None]).flatten() * len(codes)
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > ALARM


def test_codes_tied_with_the_kth_stay() -> None:
    kept = filter_logits(LOGITS, SamplingConfig(top_k=3)).isfinite()
    assert kept.tolist() == [True, False, True, True, False, True, False]
    assert filter_logits(torch.zeros(6), SamplingConfig(top_k=2)).isfinite().all()


@pytest.mark.parametrize("top_p", [1e-9, 0.2, 0.5, 0.75, 0.9, 0.999])
def test_the_nucleus_is_the_smallest_set_that_reaches_p(top_p: float) -> None:
    logits = torch.randn(200, 30, generator=torch.Generator().manual_seed(0)) * 2
    p = logits.double().softmax(-1)
    kept = filter_logits(logits, SamplingConfig(top_p=top_p)).isfinite()
    mass = (p * kept).sum(-1)
    assert (mass >= top_p - 1e-6).all()
    assert (mass - torch.where(kept, p, 1).amin(-1) < top_p).all()  # without its least likely code it would not
    assert (torch.where(kept, p, 1).amin(-1) >= torch.where(kept, 0, p).amax(-1)).all()  # and no likelier code is left out


def test_the_nucleus_at_an_exact_boundary() -> None:
    assert filter_logits(torch.tensor([0.5, 0.25, 0.125, 0.125]).log(), SamplingConfig(top_p=0.75)).isfinite().tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_temperature_zero_takes_the_most_likely_code_and_draws_no_number() -> None:
    hidden = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    head = Softmax().build(4, Layout((5,), channels=2, vocabulary=9))
    head.logits.weight.data.normal_(generator=torch.Generator().manual_seed(2))
    rng = PerSampleRNG(0, range(3))
    drawn = head.sample(hidden, rng, SamplingConfig(temperature=0.0))
    assert torch.equal(drawn.values, head.scores(hidden).argmax(-1))
    torch.testing.assert_close(drawn.confidence, head.scores(hidden).log_softmax(-1).amax(-1).sum(-1))
    cold = head.sample(hidden, rng, SamplingConfig(temperature=1e-4))
    assert torch.equal(cold.values, drawn.values)


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(temperature=0.7, top_k=3)])
def test_confidence_is_the_log_probability_of_what_was_drawn(sampling: SamplingConfig) -> None:
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    drawn = head_of(logits).sample(torch.ones(6, 9, 1), PerSampleRNG(1, range(6)), sampling)
    table = filter_logits(logits, sampling).log_softmax(-1)
    expected = table[0][drawn.values[..., 0]] + table[1][drawn.values[..., 1]]
    torch.testing.assert_close(drawn.confidence, expected)
    assert drawn.values.shape == (6, 9, 2)
    assert len(drawn.confidence.unique()) > 3  # not the confidence of the likeliest code


def test_a_code_of_probability_zero_is_never_drawn_even_at_the_ends() -> None:
    p = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0])
    uniform = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-24])
    assert draw_codes(p.expand(5, 5), uniform).tolist() == [1, 1, 3, 3, 3]


def test_guidance_moves_the_logits_from_null_through_conditional() -> None:
    generator = torch.Generator().manual_seed(3)
    given, null = torch.randn(2, 4, 8, generator=generator), torch.randn(2, 4, 8, generator=generator)
    head = Softmax().build(8, Layout((4,), vocabulary=11))
    head.logits.weight.data.normal_(generator=generator)

    def at(scale: float, without: Tensor | None = null) -> Tensor:
        return head.sample(given, PerSampleRNG(0, range(2)), SamplingConfig(), HeadContext(without, scale)).confidence

    for scale in [0.0, 0.5, 2.0, 7.5]:
        logits = head.scores(null) + scale * (head.scores(given) - head.scores(null))
        codes = draw_codes(logits.softmax(-1), PerSampleRNG(0, range(2)).uniform(4, 1))
        torch.testing.assert_close(at(scale), logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0, 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(at(1.0), at(1.0, None))
    torch.testing.assert_close(at(5.0, given), at(1.0, None))  # nothing to move along
    unconditional = head.sample(null, PerSampleRNG(0, range(2)), SamplingConfig()).confidence
    torch.testing.assert_close(at(0.0), unconditional)


def test_the_untrained_loss_is_exactly_ln_v() -> None:
    for smoothing in [0.0, 0.1]:
        head = Softmax(label_smoothing=smoothing).build(16, Layout((4, 4), channels=3, vocabulary=16384))
        loss = head.loss(torch.randn(5, 16), torch.randint(0, 16384, (5, 3)))
        assert loss.shape == (5,)
        torch.testing.assert_close(loss, torch.full((5,), math.log(16384)), rtol=1e-6, atol=0)


def test_loss_is_the_mean_cross_entropy_over_codebooks() -> None:
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    targets = torch.tensor([[0, 0], [6, 1]])
    expected = -torch.stack([logits[0].log_softmax(-1)[targets[:, 0]], logits[1].log_softmax(-1)[targets[:, 1]]]).mean(0)
    torch.testing.assert_close(head_of(logits).loss(torch.ones(2, 1), targets), expected)


def test_smoothed_loss_is_bounded_below_by_the_entropy_of_its_target_and_reaches_it() -> None:
    v, smoothing = 50, 0.1
    target = torch.full((v,), smoothing / v, dtype=torch.float64)
    target[7] += 1 - smoothing
    entropy = float(torch.special.entr(target).sum())
    head = SoftmaxHead(1, Layout((1,), vocabulary=v), Softmax(label_smoothing=smoothing))

    def loss() -> float:
        return float(head.loss(torch.ones(1, 1), torch.tensor([[7]])).detach())

    head.logits.weight.data = target.log().float()[:, None]
    assert loss() == pytest.approx(entropy, rel=1e-5)
    for scale in [0.5, 0.9, 1.1, 2.0, 20.0]:  # less sure or surer than the target: worse
        head.logits.weight.data = target.log().float()[:, None] * scale
        assert loss() > entropy + 1e-4


def test_gradient_of_the_loss_is_probability_minus_target() -> None:
    head = head_of(LOGITS)
    head.loss(torch.ones(1, 1), torch.tensor([[2]])).sum().backward()
    expected = LOGITS.softmax(-1)
    expected[2] -= 1
    torch.testing.assert_close(head.logits.weight.grad[:, 0], expected)


def test_loss_stays_in_float32_under_autocast() -> None:
    head = head_of(LOGITS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head.loss(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.long))
    assert loss.dtype == torch.float32


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="needs discrete tokens"):
        Softmax().build(8, Layout((4,), channels=16))
    for wrong in [-0.1, 1.0, 2.0]:
        with pytest.raises(ValidationError, match="label_smoothing"):
            Softmax(label_smoothing=wrong)
    for setting, reason in [
        ({"temperature": -1.0}, "temperature must be 0 or more, not -1"),
        ({"top_k": -1}, "top_k must be 0 or more, not -1"),
        ({"top_p": 0.0}, r"top_p must be above 0 and at most 1, not 0\.0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"temperature": math.nan}, "temperature"),
    ]:
        with pytest.raises(ValueError, match=reason):
            SamplingConfig(**setting)


def test_the_log_probability_of_codes_is_that_of_the_definition_summed_over_codebooks() -> None:
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    codes = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    expected = [
        sum(math.log(float(oracle(each, SamplingConfig())[code])) for each, code in zip(logits, pair, strict=True)) for pair in codes
    ]
    found = head_of(logits).log_prob(torch.ones(49, 1), codes).detach()
    torch.testing.assert_close(found, torch.tensor(expected))
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
