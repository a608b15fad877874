"""Flows against autograd's Jacobian, their own inverse, and an integral."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.coupling_flow import CouplingFlow
from jielong.heads.exact_flow import FlowHead
from jielong.heads.tarflow import TarFlow
from jielong.networks.flows import Bijection, Coupling, Diagonal, squeeze, unsqueeze
from jielong.networks.transformer import TransformerConfig

SMALL = TransformerConfig(layers=2, width=16, heads=2, norm="layer", activation="gelu", bias=True)
FLOWS: dict[str, Any] = {
    "nice": CouplingFlow(network="mlp", coupling="additive", couplings=4, width=16, layers=2, prior="logistic"),
    "affine vector": CouplingFlow(network="mlp", couplings=4, width=16),
    "realnvp": CouplingFlow(width=8, layers=1, scales=2),
    "realnvp one scale": CouplingFlow(width=8, layers=1, scales=1, actnorm=False),
    "glow": CouplingFlow(width=8, layers=1, scales=2, mixing=True),
    "tarflow": TarFlow(blocks=3, network=SMALL),
}
EACH = pytest.mark.parametrize("settings", FLOWS.values(), ids=[name.replace(" ", "-") for name in FLOWS])
LAYOUT = Layout((2, 4), channels=1)


def built(settings: Any, layout: Layout = LAYOUT, std: float = 0.3, dtype: torch.dtype = torch.float32) -> FlowHead[Any]:
    """A head with random weights: an untrained one is the identity."""
    torch.manual_seed(0)
    head: FlowHead[Any] = settings.build(6, layout)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return head.to(dtype).eval()


def inputs(count: int = 3, layout: Layout = LAYOUT, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(count, layout.positions, layout.channels, generator=generator, dtype=dtype)
    return values, torch.randn(count, layout.positions, 6, generator=generator, dtype=dtype)


@EACH
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@torch.no_grad()
def test_the_inverse_undoes_the_flow_in_both_orders(settings: Any, dtype: torch.dtype, bound: float) -> None:
    layout = Layout((4, 8), channels=3)
    head, (x, hidden) = built(settings, layout, 0.1, dtype), inputs(2, layout, dtype)
    out = head.flow(x, hidden)
    assert float((out.values - x).abs().max()) > 0.1  # the weights do something
    sampling = SamplingConfig(cache=dtype == torch.float32)  # rotations in the cache are float32
    assert float((head.invert(out.values, hidden, sampling, HeadContext()) - x).abs().max()) < bound
    assert float((head.flow(head.invert(x, hidden, sampling, HeadContext()), hidden).values - x).abs().max()) < bound


@EACH
def test_the_log_determinant_is_that_of_autograds_jacobian(settings: Any) -> None:
    head, (x, hidden) = built(settings, dtype=torch.float64), inputs(dtype=torch.float64)
    found = head.flow(x, hidden).log_determinant
    for item in range(len(x)):

        def flow(values: Tensor, given: Tensor = hidden[item : item + 1]) -> Tensor:
            return head.flow(values.view(1, 8, 1), given).values.flatten()

        jacobian = torch.autograd.functional.jacobian(flow, x[item].flatten())
        # Norms and rotations of the transformer are float32.
        torch.testing.assert_close(found[item], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-5, rtol=1e-5)
    if settings.name == "coupling_flow" and settings.coupling == "additive":
        assert bool((found == found[0]).all())  # only the last scale changes volumes


@EACH
def test_an_untrained_flow_is_the_identity_up_to_rotations(settings: Any) -> None:
    head, (x, hidden) = settings.build(6, LAYOUT), inputs()
    out = head.flow(x, hidden)
    torch.testing.assert_close(out.log_determinant, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.values.square().sum((1, 2)), x.square().sum((1, 2)))
    if settings.name == "tarflow" or settings.prior == "normal":
        nll = 0.5 * (x.square().sum((1, 2)) + 8 * math.log(2 * math.pi)) / 8
        torch.testing.assert_close(head.loss(hidden, x), nll)


@pytest.mark.parametrize("name", ["realnvp one scale", "nice", "affine vector", "tarflow"])
@torch.no_grad()
def test_the_density_of_two_numbers_integrates_to_one(name: str) -> None:
    layout = Layout((1, 2), channels=1)
    head = built(FLOWS[name], layout, 0.2)
    hidden = inputs(1, layout)[1]
    side = torch.linspace(-15, 15, 201)
    step = float(side[1] - side[0])
    total, spread = 0.0, 0.0
    for row in side:  # a row of the grid at a time
        points = torch.stack([row.expand(len(side)), side], dim=1)[..., None]
        density = head.log_prob(hidden.expand(len(side), -1, -1), points).exp()
        total += float(density.sum()) * step**2
        spread = max(spread, float(density.max()))
    assert abs(total - 1) < 0.01
    assert spread < 1 / step**2  # no cell holds everything


@EACH
@torch.no_grad()
def test_the_log_probability_of_a_sample_is_that_of_its_latent(settings: Any) -> None:
    head, (_, hidden) = built(settings), inputs()
    values = head.sample(hidden, PerSampleRNG(5, range(3)), SamplingConfig()).values
    z = head.flow(values, hidden).values
    drawn = head.sample(hidden, PerSampleRNG(5, range(3)), SamplingConfig(temperature=0.0)).values
    zeros = head.flow(drawn, hidden).values
    torch.testing.assert_close(zeros, torch.zeros_like(z), atol=1e-4, rtol=0)
    half = head.flow(head.sample(hidden, PerSampleRNG(5, range(3)), SamplingConfig(temperature=0.5)).values, hidden).values
    torch.testing.assert_close(half, 0.5 * z, atol=1e-4, rtol=1e-3)
    prior = torch.distributions.TransformedDistribution(torch.distributions.Uniform(0.0, 1.0), [torch.distributions.SigmoidTransform().inv])
    each = prior.log_prob(z) if head.prior == "logistic" else torch.distributions.Normal(0.0, 1.0).log_prob(z)
    expected = each.sum((1, 2)) + head.flow(values, hidden).log_determinant
    torch.testing.assert_close(head.log_prob(hidden, values), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(head.loss(hidden, values), -expected / 8, atol=1e-4, rtol=1e-4)
    alone = head.sample(hidden[1:], PerSampleRNG(5, [1, 2]), SamplingConfig()).values
    torch.testing.assert_close(alone, values[1:], atol=1e-5, rtol=1e-4)


@EACH
def test_every_weight_and_the_condition_learn(settings: Any) -> None:
    head, (x, hidden) = built(settings), inputs()
    hidden.requires_grad_()
    head.loss(hidden, x).sum().backward()
    assert hidden.grad is not None
    assert bool(hidden.grad.abs().sum((1, 2)).all())
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


def test_a_coupling_reads_kept_values_alone() -> None:
    class Probe(nn.Module):
        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            seen.append(x)
            return torch.ones(len(x), 4)

    seen: list[Tensor] = []
    coupling: Bijection = Coupling(Probe(), torch.tensor([1.0, 0.0]), "affine")
    x = torch.tensor([[3.0, 5.0]])
    out = coupling(x, x)
    assert torch.equal(seen[0], torch.tensor([[3.0, 0.0]]))
    scale = math.tanh(1.0)
    torch.testing.assert_close(out.values, torch.tensor([[3.0, 5 * math.exp(scale) + 1]]))
    torch.testing.assert_close(out.log_determinant, torch.tensor([scale]))


def test_squeezing_puts_squares_into_channels() -> None:
    maps = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    small = squeeze(maps)
    assert small.shape == (2, 12, 2, 3)
    assert torch.equal(small[1, :3, 1, 2], maps[1, :, 2, 4])
    assert torch.equal(small[1, 9:, 1, 2], maps[1, :, 3, 5])
    assert torch.equal(unsqueeze(small), maps)


def test_a_diagonal_multiplies_the_volume_of_every_position() -> None:
    layer = Diagonal(2)
    with torch.no_grad():
        layer.log_scale.copy_(torch.tensor([0.5, -0.2]))
    maps = torch.ones(1, 2, 3, 4)
    torch.testing.assert_close(layer(maps, maps).log_determinant, torch.tensor([12 * 0.3]))


def test_a_token_of_the_transformer_flow_depends_on_earlier_ones_alone() -> None:
    head, (x, hidden) = built(TarFlow(blocks=1, network=SMALL)), inputs(1)
    jacobian = torch.autograd.functional.jacobian(lambda values: head.flow(values.view(1, 8, 1), hidden).values.flatten(), x.flatten())
    assert float(jacobian.triu(1).abs().max()) == 0.0
    assert bool(jacobian.tril().ne(0).sum() == 36)
    backward = built(TarFlow(blocks=2, network=SMALL))
    second = torch.autograd.functional.jacobian(
        lambda values: backward.flow.maps[1](values.view(1, 8, 1), hidden).values.flatten(), x.flatten()
    )
    assert float(second.tril(-1).abs().max()) == 0.0


@torch.no_grad()
def test_the_cache_of_the_transformer_flow_changes_nothing() -> None:
    layout = Layout((3, 4), channels=3)
    head, (_, hidden) = built(TarFlow(blocks=3, network=SMALL), layout, 0.15), inputs(2, layout)
    null = inputs(4, layout)[1][2:]
    for context in (HeadContext(), HeadContext(null=null, guidance=2.5)):
        with_cache, without = (
            head.sample(hidden, PerSampleRNG(0, range(2)), SamplingConfig(cache=cached), context).values for cached in (True, False)
        )
        torch.testing.assert_close(with_cache, without, atol=1e-4, rtol=1e-4)
        assert float(with_cache.abs().max()) < 100


@torch.no_grad()
def test_guidance_may_grow_with_the_tokens_of_a_block() -> None:
    head, (_, hidden) = built(TarFlow(blocks=1, network=SMALL)), inputs(2)
    null, rng = inputs(4)[1][2:], (lambda: PerSampleRNG(0, range(2)))
    plain = head.sample(hidden, rng(), SamplingConfig()).values
    growing = HeadContext(null=null, guidance_at=lambda share: 1 + 2 * share)
    guided = head.sample(hidden, rng(), SamplingConfig(), growing).values
    torch.testing.assert_close(guided[:, 0], plain[:, 0], atol=1e-5, rtol=1e-4)  # the first token is not guided
    assert float((guided[:, -1] - plain[:, -1]).abs().min()) > 1e-4
    same = head.sample(hidden, rng(), SamplingConfig(), HeadContext(null=hidden, guidance=3.0)).values
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=1e-4)
    swapped = head.sample(hidden, rng(), SamplingConfig(), HeadContext(null=null, guidance=0.0)).values
    torch.testing.assert_close(swapped, head.sample(null, rng(), SamplingConfig()).values, atol=1e-5, rtol=1e-4)


def test_denoising_is_tweedies_mean_for_a_gaussian() -> None:
    """Data of variance v with noise s: an untrained flow is a unit normal, so v + s^2 = 1 and the mean x v / (v + s^2) = x (1 - s^2)."""
    head = TarFlow(blocks=2, network=SMALL, noise=0.4).build(6, LAYOUT)
    x, hidden = inputs()
    torch.testing.assert_close(head.denoised(x, hidden), x * (1 - 0.16))
    with torch.inference_mode():
        drawn = head.sample(hidden * 1.0, PerSampleRNG(0, range(3)), SamplingConfig()).values
    torch.testing.assert_close(drawn, PerSampleRNG(0, range(3)).normal(8, 1) * (1 - 0.16))


def test_noise_is_added_in_training_alone() -> None:
    head = TarFlow(blocks=1, network=SMALL, noise=0.5).build(6, Layout((16, 16), channels=4))
    x, hidden = torch.zeros(8, 256, 4), torch.zeros(8, 256, 6)
    constant = 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(head.train().loss(hidden, x).mean(), torch.tensor(constant + 0.5 * 0.25), rtol=0.05, atol=0)
    torch.testing.assert_close(head.eval().loss(hidden, x), torch.full((8,), constant))


def test_two_moons_are_likelier_than_under_any_gaussian() -> None:
    layout, generator = Layout((1, 2), channels=1), torch.Generator().manual_seed(0)

    def moons(count: int) -> Tensor:
        angle, side = torch.rand(count, generator=generator) * math.pi, torch.rand(count, generator=generator) < 0.5
        first, second = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
        points = torch.where(side[:, None], first, second) + 0.05 * torch.randn(count, 2, generator=generator)
        return ((points - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5]))[..., None]

    torch.manual_seed(0)
    head = CouplingFlow(network="mlp", couplings=4, width=32, layers=2).build(4, layout)
    optimizer, hidden = torch.optim.Adam(head.parameters(), 1e-2), torch.zeros(128, 2, 4)
    for _ in range(150):
        optimizer.zero_grad()
        head.loss(hidden, moons(128)).mean().backward()
        optimizer.step()
    points = moons(2048)
    covariance = torch.cov(points[..., 0].T)
    gaussian = 0.5 * float(torch.logdet(2 * math.pi * math.e * covariance))
    with torch.no_grad():
        found = 2 * float(head.eval().loss(torch.zeros(2048, 2, 4), points).mean())
    assert found < gaussian - 0.5


@pytest.mark.parametrize(
    ("settings", "layout", "words"),
    [
        (CouplingFlow(), Layout((2, 4), 1, vocabulary=8), "coupling_flow head needs continuous tokens"),
        (TarFlow(), Layout((2, 4), 1, vocabulary=8), "tarflow head needs continuous tokens"),
        (TarFlow(), Layout((2, 2), 4, scales=((1, 1), (2, 2))), "this tokenizer's have scales"),
        (CouplingFlow(scales=3), Layout((2, 4), 1), r"3 scales halve the grid 2 times, and \(2, 4\) does not divide by 4"),
        (CouplingFlow(), Layout((8,), 1), "take network: mlp"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(settings: Any, layout: Layout, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings.build(6, layout)


def test_settings_of_the_other_network_are_refused() -> None:
    with pytest.raises(ValueError, match="scales, mixing: of network: convolutional alone"):
        CouplingFlow(network="mlp", scales=3, mixing=True)
    head, (x, hidden) = built(FLOWS["tarflow"]), inputs()
    with pytest.raises(ValueError, match="these have padding"):
        head.loss(hidden, x, HeadContext(mask=torch.ones(3, 8, dtype=torch.bool)))
