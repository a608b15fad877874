"""TiTok's sampler and loss (arXiv 2406.07550) as settings of the masked order and the softmax head, against their formulas.

Statistical tests: a right implementation fails each with probability below 1e-6.
"""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext
from jielong.heads.softmax import Softmax
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.base import Step
from jielong.orders.masked import Masked

ALARM = 1e-6
LAYOUT = Layout((6,), 1, vocabulary=5)
TITOK = Masked(schedule="arccos", steps=8, choice_temperature=9.5, softmax_temperature=(1.3, 0.5), annealed_draws=True, unmasked_weight=0.1)
PLAIN = SamplingConfig()


def temperature(order: Masked, index: int, count: int = 8, base: float = 1.0) -> float:
    step = Step(index, count, 8 - index, 7 - index)
    return order.build().sampling_at(LAYOUT, 0, step, PLAIN.override(temperature=base)).temperature


@pytest.mark.parametrize("index", range(8))
def test_the_temperature_is_that_of_the_formula(index: int) -> None:
    """Argmax of ``l / tau + a g`` is a draw from ``softmax(l / (tau a))``, with ``tau = 0.5 + 0.8 (1 - r)`` and ``a = 9.5 (1 - r)``."""
    r = (index + 1) / 8
    tau, noise = 0.5 + 0.8 * (1 - r), 9.5 * (1 - r)
    assert temperature(TITOK, index) == pytest.approx(tau * noise)
    assert temperature(TITOK.model_copy(update={"annealed_draws": False}), index, base=0.7) == pytest.approx(0.7 * tau)
    assert temperature(Masked(), index, base=0.7) == 0.7


def test_kept_positions_are_those_of_noisy_annealed_logits() -> None:
    """The first position of ``argmax(l / tau + a g)`` has the chances ``softmax(l / (tau a))``."""
    samples, logits = 4000, torch.tensor([1.0, -2.0, 4.0, 12.0, 0.0, 7.0])
    step = Step(index=2, count=8, hidden_before=6, hidden_after=5)
    unknown = torch.ones(samples, 6, dtype=torch.bool)
    kept = TITOK.build().reveal(step, unknown, logits.expand(samples, 6), PerSampleRNG(0, range(samples)))
    tau, noise = 0.5 + 0.8 * 5 / 8, 9.5 * 5 / 8
    expected = (logits / (tau * noise)).double().softmax(0) * samples
    assert stats.chisquare(kept.sum(0).numpy(), expected.numpy()).pvalue > ALARM


def test_confidence_is_the_guided_logit() -> None:
    torch.manual_seed(0)
    layout = Layout((3,), 2, vocabulary=7)
    hidden, null = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    head = Softmax(confidence="logit").build(4, layout)
    torch.nn.init.normal_(head.logits.weight)
    output = head.sample(hidden, PerSampleRNG(1, range(2)), PLAIN.override(temperature=0.5, top_k=3), HeadContext(null, 3.0))
    logits = head.scores(null) + 3.0 * (head.scores(hidden) - head.scores(null))
    assert output.confidence is not None
    torch.testing.assert_close(output.confidence, logits.gather(-1, output.values[..., None])[..., 0].sum(-1))
    plain = Softmax().build(4, layout)
    plain.load_state_dict(head.state_dict())
    other = plain.sample(hidden, PerSampleRNG(1, range(2)), PLAIN.override(temperature=0.5, top_k=3), HeadContext(null, 3.0))
    assert torch.equal(other.values, output.values)


def test_the_loss_weighs_unmasked_positions() -> None:
    """``sum_i w_i CE_i / sum_i w_i`` per item, with weight 1 at masked positions and 0.1 at others."""
    torch.manual_seed(0)
    head = Softmax().build(16, LAYOUT)
    torch.nn.init.normal_(head.logits.weight)
    model = Generator(LAYOUT, TITOK.build(), Transformer(TransformerConfig(layers=1, width=16, heads=2), axes=1), head).eval()
    tokens, rng = Tokens(torch.randint(5, (4, 6, 1)), LAYOUT), PerSampleRNG(3, range(4))
    states = model.training_states(tokens, rng=PerSampleRNG(3, range(4)))
    masked = Masked(schedule="arccos").build().view(LAYOUT, PerSampleRNG(3, range(4))).loss_mask
    assert masked.any()
    assert not masked.all()
    assert states.loss_mask.all()
    weights = torch.where(masked, 1.0, 0.1)
    entropy = torch.nn.functional.cross_entropy(head.scores(states.hidden)[:, :, 0].mT, tokens.values[..., 0], reduction="none")
    expected = ((entropy * weights).sum(1) / weights.sum(1)).mean()
    torch.testing.assert_close(model.loss(tokens, rng=rng), expected)
    with torch.no_grad():
        assert model.generate(count=2, sampling=SamplingConfig(steps=4)).values.shape == (2, 6, 1)
