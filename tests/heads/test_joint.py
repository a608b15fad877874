"""Joint heads: any iterative head whose network sees a whole block draws what no head of single tokens can, tokens that belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from distribution import assert_same_distribution
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.consistency import Consistency
from jielong.heads.continuous import IterativeHead
from jielong.heads.diffusion import Diffusion
from jielong.heads.flow_matching import FlowMatching, FlowMatchingHead, Times
from jielong.heads.mean_flow import MeanFlow
from jielong.heads.shortcut import Shortcut
from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import MLP, JointDenoiser
from jielong.networks.dit import DiT

LAYOUT = Layout((3,), channels=2)
NETWORK = DiT(layers=1, width=16, heads=2)
SETTINGS: dict[str, Any] = {
    "flow_matching": FlowMatching(network=NETWORK, diffusion_batch_mul=2, steps=4),
    "flow_matching heun": FlowMatching(network=NETWORK, sampler="heun", steps=4, diffusion_batch_mul=1),
    "flow_matching sde": FlowMatching(network=NETWORK, sampler="sde", steps=4),
    "diffusion": Diffusion(network=NETWORK, steps=4),
    "diffusion fixed": Diffusion(network=NETWORK, variance="fixed", prediction="v", sampler="edm", steps=4),
    "mean_flow": MeanFlow(network=NETWORK, same=0.3),
    "mean_flow improved": MeanFlow(network=NETWORK, improved=True),
    "shortcut": Shortcut(network=NETWORK, bootstrap=0.5),
    "consistency": Consistency(network=NETWORK),
}
EACH = pytest.mark.parametrize("settings", SETTINGS.values(), ids=[name.replace(" ", "-") for name in SETTINGS])
CONTEXT = HeadContext(coords=LAYOUT.coordinates())


def built(settings: Any, noisy: bool = True) -> IterativeHead:
    torch.manual_seed(0)
    head: IterativeHead = settings.build(6, LAYOUT)
    if noisy:
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=0.2)
    return head


def hiddens(count: int = 2, items: int = 4) -> Tensor:
    return torch.randn(count, items, 3, 6, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def draw(head: IterativeHead, hidden: Tensor, null: Tensor | None = None, guidance: float = 1.0, first: int = 0, **more: Any) -> Tensor:
    mask, coords = more.pop("mask", None), LAYOUT.coordinates()[: hidden.shape[1]]
    rng = PerSampleRNG(7, range(first, first + len(hidden)))
    return head.sample(hidden, rng, SamplingConfig(**more), HeadContext(null, guidance, coords=coords, mask=mask)).values


@EACH
def test_shapes_and_gradients(settings: Any) -> None:
    head = built(settings)
    assert head.joint
    hidden = torch.randn(5, 3, 6, requires_grad=True)
    loss = head.loss(hidden, torch.randn(5, 3, 2), CONTEXT)
    assert loss.shape == (5,)
    loss.sum().backward()
    assert hidden.grad is not None
    assert bool(hidden.grad.abs().sum(-1).all())
    for gradient in (parameter.grad for parameter in head.parameters()):
        assert gradient is not None
        assert bool(gradient.isfinite().all())
    draws = draw(head, hiddens()[0])
    assert (draws.shape, draws.dtype) == ((4, 3, 2), torch.float32)


@EACH
def test_the_loss_in_bf16_is_near(settings: Any) -> None:
    """Heads that differentiate the network turn autocast off for it, and the states that were prepared under it are of 16 bits."""
    head, found = built(settings), []
    hidden, targets = torch.randn(64, 3, 6), torch.randn(64, 3, 2)
    for rough in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rough):
            found.append(head.loss(hidden, targets, CONTEXT))
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1].mean(), found[0].mean(), rtol=0.1, atol=0.1)


@EACH
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_item_does_not_depend_on_others_of_the_batch(settings: Any, guidance: float) -> None:
    head, (hidden, null) = built(settings), hiddens()
    together = draw(head, hidden, null, guidance)
    torch.testing.assert_close(draw(head, hidden[2:3], null[2:3], guidance, first=2), together[2:3], rtol=1e-4, atol=1e-4)
    assert float((together[2] - together[1]).abs().min()) > 1e-4


@EACH
def test_guidance_runs_from_null_through_conditional(settings: Any) -> None:
    head, (hidden, null) = built(settings), hiddens()
    alone = draw(head, hidden)
    assert torch.equal(draw(head, hidden, null, 1.0), alone)
    if getattr(settings, "variance", "") != "learned":  # which is the conditional half's
        torch.testing.assert_close(draw(head, hidden, null, 0.0), draw(head, null), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(draw(head, hidden, hidden, 5.0), alone, rtol=1e-4, atol=1e-4)
    assert float((draw(head, hidden, null, 3.0) - alone).abs().max()) > 1e-3


@EACH
def test_padding_has_no_loss(settings: Any) -> None:
    """Neither its hidden vector nor its token is felt, in the loss or in its gradient."""
    head, hidden, targets = built(settings), torch.randn(4, 3, 6), torch.randn(4, 3, 2)
    real = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])
    context, found = replace(CONTEXT, mask=real), []
    for filler in (0.0, 9.0):
        hidden[~real] = targets[~real] = filler
        torch.manual_seed(3)
        loss = head.loss(hidden, targets, context)
        found.append((loss.detach(), torch.autograd.grad(loss.sum(), list(head.parameters()))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    full = built(settings).eval()
    torch.manual_seed(3)
    masked = full.loss(hidden, targets, replace(CONTEXT, mask=torch.ones_like(real)))
    torch.manual_seed(3)
    torch.testing.assert_close(masked, full.loss(hidden, targets, CONTEXT), rtol=1e-4, atol=1e-5)


@EACH
def test_a_sample_does_not_depend_on_padding(settings: Any) -> None:
    head, hidden = built(settings), hiddens()[0]
    real = torch.tensor([True, True, False]).expand(4, 3)
    once = draw(head, hidden, mask=real)
    hidden[:, 2] = 5.0
    torch.testing.assert_close(draw(head, hidden, mask=real)[:, :2], once[:, :2])


@EACH
def test_the_untrained_loss_is_that_of_tokens_one_by_one(settings: Any) -> None:
    """Both networks say 0, so the mean over a block is the mean over its tokens: the same figure up to chance."""
    alone = settings.model_copy(update={"network": MLP(layers=1, width=8)})
    head, single = built(settings, noisy=False).eval(), built(alone, noisy=False).eval()
    torch.manual_seed(1)
    targets = torch.randn(4000, 3, 2)
    joint = head.loss(torch.zeros(4000, 3, 6), targets, CONTEXT)
    each = single.loss(torch.zeros(12_000, 6), targets.flatten(0, 1))
    if isinstance(settings, Consistency):  # a distance of a whole block, and not a mean
        assert bool(joint.isfinite().all())
    else:
        spread = (joint.var() / len(joint) + each.var() / len(each)) ** 0.5
        assert abs(float((joint.mean() - each.mean()).detach())) < 5 * float(spread.detach())


class Exact(JointDenoiser[Any]):
    """A velocity of the whole block that is known."""

    def __init__(self, velocity: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__(1, 1, 1)
        self.velocity = velocity

    def prepare(self, hidden: Tensor, coords: Tensor, mask: Tensor | None = None, condition: Conditioning | None = None) -> None:
        return None

    def predict(self, x: Tensor, times: Tensor | None, prepared: None) -> Tensor:
        assert times is not None
        return self.velocity(x, float(times[0, 0]))


def covariance() -> Tensor:
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
    return root @ root.T / 6 + 0.1 * torch.eye(6)


@pytest.mark.parametrize("sampler", ["heun", "midpoint", "euler"])
def test_draws_have_the_covariance_across_positions(sampler: Any) -> None:
    """Data ``N(0, S)`` over all values of a block: ``v = (t S - (1 - t)) ((1 - t)^2 + t^2 S)^-1 x``, written out with matrices."""
    wanted, unit = covariance(), torch.eye(6)

    def velocity(x: Tensor, t: float) -> Tensor:
        field = (t * wanted - (1 - t) * unit) @ torch.linalg.inv((1 - t) ** 2 * unit + t**2 * wanted)
        return (x.flatten(1) @ field.T).view_as(x)

    head = FlowMatchingHead(Exact(velocity), LAYOUT, FlowMatching.model_validate({"sampler": sampler}))
    steps = 400 if sampler == "euler" else 100
    with torch.no_grad():
        found = head.sample(
            torch.zeros(3000, 3, 1), PerSampleRNG(0, range(3000)), SamplingConfig(num_inference_steps=steps), CONTEXT
        ).values
    exact = torch.randn(3000, 6, generator=torch.Generator().manual_seed(1)) @ torch.linalg.cholesky(wanted).T
    apart = (torch.cov(found.flatten(1).T) - wanted).abs().max()
    assert float(apart) < 6 * float(wanted.diagonal().max()) * (2 / 3000) ** 0.5
    assert_same_distribution(found.flatten(1)[:1000], exact[:1000])


def test_two_tokens_that_must_agree() -> None:
    """Data are (1, 1) and (-1, -1): a joint head draws pairs that agree, and a head of single tokens half of the time."""
    layout, shares = Layout((2,), channels=1), {}
    for name, network in (("joint", DiT(layers=1, width=32, heads=2)), ("single", MLP(layers=2, width=32))):
        torch.manual_seed(0)
        head = FlowMatching(network=network, steps=16, diffusion_batch_mul=1, times=Times(kind="uniform")).build(4, layout)
        optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
        context = HeadContext(coords=layout.coordinates())
        for _ in range(250):
            targets = (torch.randint(2, (128, 1, 1)) * 2.0 - 1).expand(128, 2, 1)
            hidden = torch.zeros(128, 2, 4)
            loss = head.loss(hidden, targets, context) if head.joint else head.loss(hidden.flatten(0, 1), targets.flatten(0, 1))
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        with torch.no_grad():
            found = head.sample(torch.zeros(500, 2, 4), PerSampleRNG(0, range(500)), SamplingConfig(), context).values[..., 0]
        assert abs(float(found.sign().mean())) < 0.25
        shares[name] = float((found.sign()[:, 0] == found.sign()[:, 1]).float().mean())
    assert shares["joint"] > 0.95
    assert 0.4 < shares["single"] < 0.6


def test_a_joint_network_needs_coordinates() -> None:
    head = built(SETTINGS["flow_matching"])
    with pytest.raises(ValueError, match="needs their coordinates"):
        head.loss(torch.zeros(1, 3, 6), torch.zeros(1, 3, 2))
