"""What flow matching, MeanFlow, shortcut and consistency heads have in common: alone, filled at random, and in a generator."""

from __future__ import annotations

import pytest
import torch
from flow_maps import Exact
from torch import Tensor, nn

from jielong.backbones.transformer import Transformer
from jielong.config.registry import parse_part
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext
from jielong.heads.consistency import Consistency
from jielong.heads.continuous import IterativeHead
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.mean_flow import MeanFlow
from jielong.heads.shortcut import Shortcut
from jielong.networks.denoiser import MLP, Attention
from jielong.orders.raster import Raster

LAYOUT = Layout((2, 2), channels=4)
NETWORK = MLP(layers=1, width=16)
SETTINGS = {
    "flow_matching": FlowMatching(network=NETWORK),
    "flow_matching heun": FlowMatching(network=NETWORK, sampler="heun", shift=2.0),
    "flow_matching sde": FlowMatching(network=NETWORK, sampler="sde"),
    "flow_matching attention": FlowMatching(network=Attention(layers=1, width=8, heads=2, groups=2)),
    "mean_flow": MeanFlow(network=NETWORK),
    "mean_flow improved": MeanFlow(network=NETWORK, improved=True, same=0.5),
    "mean_flow attention": MeanFlow(network=Attention(layers=1, width=8, heads=2, groups=2), improved=True, same=0.0),
    "shortcut": Shortcut(network=NETWORK),
    "consistency": Consistency(network=NETWORK),
}
EACH = pytest.mark.parametrize("settings", SETTINGS.values(), ids=[name.replace(" ", "-") for name in SETTINGS])


def built(settings, noisy: bool = True) -> IterativeHead:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    head = settings.build(6, LAYOUT)
    if noisy:
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=0.2)
    return head


def hiddens(items: int = 5, count: int = 2) -> Tensor:
    return torch.randn(count, items, 3, 6, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def draw(
    head: IterativeHead, hidden: Tensor, null: Tensor | None = None, guidance: float = 1.0, first: int = 0, **sampling: float
) -> Tensor:
    rng = PerSampleRNG(7, range(first, first + len(hidden)))
    return head.sample(hidden, rng, SamplingConfig(**sampling), HeadContext(null, guidance)).values  # type: ignore[arg-type]


@EACH
def test_settings_survive_their_own_dump(settings) -> None:  # type: ignore[no-untyped-def]
    assert parse_part("head", settings.model_dump(mode="json")) == settings


@EACH
def test_shapes_and_gradients(settings) -> None:  # type: ignore[no-untyped-def]
    head = built(settings)
    hidden = torch.randn(40, 6, requires_grad=True)
    loss = head.loss(hidden, torch.randn(40, 4))
    assert loss.shape == (40,)
    loss.sum().backward()
    assert hidden.grad is not None
    for gradient in [hidden.grad, *(parameter.grad for parameter in head.parameters())]:
        assert gradient is not None
        assert bool(gradient.isfinite().all())
    assert bool(hidden.grad.abs().sum(1).all())
    draws = draw(head, hiddens()[0])
    assert (draws.shape, draws.dtype) == ((5, 3, 4), torch.float32)


@EACH
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_token_does_not_depend_on_others_of_the_batch(settings, guidance: float) -> None:  # type: ignore[no-untyped-def]
    head, (hidden, null) = built(settings), hiddens()
    together = draw(head, hidden, null, guidance)
    torch.testing.assert_close(draw(head, hidden[3:4], null[3:4], guidance, first=3), together[3:4], rtol=1e-4, atol=1e-4)
    assert float((together[3] - together[2]).abs().min()) > 1e-4


@EACH
def test_guidance_runs_from_null_through_conditional(settings) -> None:  # type: ignore[no-untyped-def]
    head, (hidden, null) = built(settings), hiddens()
    alone = draw(head, hidden)
    assert torch.equal(draw(head, hidden, null, 1.0), alone)
    torch.testing.assert_close(draw(head, hidden, null, 0.0), draw(head, null), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(draw(head, hidden, hidden, 5.0), alone, rtol=1e-4, atol=1e-4)
    assert float((draw(head, hidden, null, 3.0) - alone).abs().max()) > 1e-3


@EACH
def test_temperature_zero_draws_one_token_and_one_is_the_default(settings) -> None:  # type: ignore[no-untyped-def]
    head = built(settings)
    hidden = hiddens()[0][:1].expand(5, 3, 6)[:, :1]
    cold = draw(head, hidden, temperature=0.0)
    torch.testing.assert_close(cold, cold[:1].expand_as(cold), rtol=1e-5, atol=1e-5)
    cool, warm = (draw(head, hidden, temperature=each) for each in (1e-4, 1.0))
    torch.testing.assert_close(cool, cold, rtol=0.03, atol=0.03)
    assert torch.equal(warm, draw(head, hidden))
    assert float((warm - cold).abs().max()) > 0.1


@EACH
def test_evaluations_are_counted_and_follow_the_chain(settings) -> None:  # type: ignore[no-untyped-def]
    head = built(settings)
    outputs = 8 if isinstance(settings, MeanFlow) and settings.improved else 4
    head.network = counter = Exact(lambda x, *rest: x.new_zeros(len(x), outputs), head.network.times_in)
    hidden = hiddens()[0]

    def evaluations(progress: float = 0.0, **sampling: int) -> int:
        counter.asked.clear()
        head.sample(hidden, PerSampleRNG(0, range(5)), SamplingConfig(**sampling), HeadContext(known_fraction=progress))
        return len(counter.asked)

    assert evaluations() == settings.steps
    assert [evaluations(share, num_inference_steps=16, final_inference_steps=4) for share in (0.0, 1.0)] == [16, 4]
    assert evaluations(num_inference_steps=1) == 1


@EACH
def test_losses_and_draws_are_float32_under_autocast(settings) -> None:  # type: ignore[no-untyped-def]
    head = built(settings)
    hidden, tokens = torch.randn(400, 6), torch.randn(400, 4)
    torch.manual_seed(1)
    exact = head.loss(hidden, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(1)
        rough = head.loss(hidden, tokens)
        assert draw(head, hiddens()[0]).dtype == torch.float32
    assert rough.dtype == torch.float32
    assert float(((rough - exact).abs().mean() / exact.mean()).detach()) < 0.05


@EACH
def test_codes_are_refused(settings) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="needs continuous tokens; this tokenizer's are codes"):
        settings.build(6, Layout((2, 2), channels=4, vocabulary=16))


@pytest.mark.parametrize("name", ["flow_matching", "mean_flow", "shortcut", "consistency"])
def test_in_a_generator_with_the_cache_or_without(name: str) -> None:
    torch.manual_seed(0)
    backbone = Transformer(layers=1, width=16, heads=2).build(LAYOUT, None)
    head = SETTINGS[name].model_copy(update={"steps": 2}).build(16, LAYOUT)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    model = Generator(LAYOUT, Raster().build(), backbone, head)
    loss = model.loss(Tokens(torch.randn(3, 4, 4), LAYOUT))
    loss.backward()
    assert bool(loss.isfinite())
    tokens = model.eval().generate(count=3, seed=1)
    assert tokens.values.shape == (3, 4, 4)
    torch.testing.assert_close(model.eval().generate(count=3, seed=1, cache=False).values, tokens.values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.eval().generate(count=3, seed=1, batch=2).values, tokens.values, rtol=1e-3, atol=1e-3)
