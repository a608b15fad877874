"""The networks inside iterative heads: zero at the start, differentiable forwards, and the formula written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.config.registry import parse_part, parts_of
from jielong.networks.denoiser import MLP, Attention, Denoiser, MLPDenoiser, NetworkSettings, sinusoid

SMALL: dict[str, NetworkSettings] = {"mlp": MLP(layers=2, width=12), "attention": Attention(layers=2, width=8, heads=2, groups=3)}
NETWORKS = pytest.mark.parametrize("settings", SMALL.values(), ids=SMALL)
M, C, D = 5, 6, 7


def built(settings: NetworkSettings, times: int = 1, outputs: int = C, noisy: bool = True) -> Denoiser:
    """A network in float64; its zeros are filled so that it does something."""
    torch.manual_seed(0)
    network = settings.build(inputs=C, outputs=outputs, hidden=D, times=times).double()
    if noisy:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def inputs(times: int = 1) -> tuple[Tensor, Tensor | None, Tensor]:
    torch.manual_seed(1)
    given = torch.rand(M, times, dtype=torch.double) if times else None
    return torch.randn(M, C, dtype=torch.double), given, torch.randn(M, D, dtype=torch.double)


def test_every_network_is_tried() -> None:
    joint = {"dit", "mmdit", "flux2", "unet"}  # test_dit.py, test_public_transformers.py and test_unet.py try these
    assert {*SMALL, *joint} == set(parts_of("network"))


@NETWORKS
def test_settings_survive_their_own_dump(settings: NetworkSettings) -> None:
    assert parse_part("network", settings.model_dump(mode="json")) == settings


@NETWORKS
@pytest.mark.parametrize("times", [0, 1, 2, 3])
@pytest.mark.parametrize("outputs", [C, 2 * C])
def test_an_untrained_network_gives_zero_for_any_number_of_times(settings: NetworkSettings, times: int, outputs: int) -> None:
    network = built(settings, times, outputs, noisy=False)
    out = network(*inputs(times))
    assert out.shape == (M, outputs)
    assert torch.equal(out, torch.zeros_like(out))


@NETWORKS
def test_every_input_matters_and_rows_do_not_mix(settings: NetworkSettings) -> None:
    network = built(settings, times=2)
    x, times, hidden = inputs(2)
    assert times is not None
    before = network(x, times, hidden)
    for changed in (x[0], times[0, :1], times[0, 1:], hidden[0]):
        kept = changed.clone()
        changed += 0.1
        after = network(x, times, hidden)
        assert (after[0] - before[0]).abs().min() > 1e-9
        torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)
        changed.copy_(kept)


@NETWORKS
def test_a_prepared_hidden_vector_and_shared_times_change_nothing(settings: NetworkSettings) -> None:
    network = built(settings)
    x, _, hidden = inputs()
    time = torch.tensor([[0.37]], dtype=torch.double)
    torch.testing.assert_close(
        network.predict(x, time, network.prepare(hidden)), network(x, time.expand(M, 1), hidden), rtol=1e-12, atol=1e-12
    )


@NETWORKS
def test_the_forward_derivative_is_that_of_finite_differences(settings: NetworkSettings) -> None:
    """Along a direction in the token and in both times, by central differences in float64."""
    network = built(settings, times=2)
    x, times, hidden = inputs(2)
    assert times is not None
    along, pace = torch.randn_like(x), torch.tensor([1.0, -0.5], dtype=torch.double).expand(M, 2)

    def at(moved: Tensor, when: Tensor) -> Tensor:
        return network(moved, when, hidden)

    out, slope = torch.func.jvp(at, (x, times), (along, pace))
    torch.testing.assert_close(out, at(x, times), rtol=0, atol=0)
    step = 1e-8  # times are multiplied by 1000 inside
    expected = (at(x + step * along, times + step * pace) - at(x - step * along, times - step * pace)) / (2 * step)
    assert (slope - expected).norm() / expected.norm() < 1e-6
    # A loss may hold the derivative's target still and go backwards through the rest.
    (out - slope.detach()).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_sinusoids_are_those_of_a_thousand_steps() -> None:
    found = sinusoid(torch.tensor([0.25], dtype=torch.double), size=4)
    slow = 1 / math.sqrt(10_000)
    assert found[0].tolist() == pytest.approx([math.cos(250), math.cos(250 * slow), math.sin(250), math.sin(250 * slow)])


def test_the_mlp_is_the_formula_of_mar() -> None:
    """Section 3.2's head written out with the network's own matrices."""
    network = built(SMALL["mlp"])
    assert isinstance(network, MLPDenoiser)
    x, times, hidden = inputs()
    assert times is not None
    assert network.of_times is not None
    y = F.silu(network.of_times(sinusoid(times[:, 0])) + hidden @ network.of_hidden.weight.T + network.of_hidden.bias)
    numbers = (y @ network.modulation.weight.T + network.modulation.bias).view(M, 8, 12)
    h = network.input(x)
    for layer in range(2):
        shift, scale, gate = numbers[:, 3 * layer], numbers[:, 3 * layer + 1], numbers[:, 3 * layer + 2]
        mean, spread = h.mean(1, keepdim=True), h.var(1, keepdim=True, unbiased=False)
        norm = (h - mean) / (spread + 1e-6).sqrt() * network.norms[layer].weight + network.norms[layer].bias
        first, _, last = network.blocks[layer]
        h = h + gate * last(F.silu(first(norm * (1 + scale) + shift)))
    mean, spread = h.mean(1, keepdim=True), h.var(1, keepdim=True, unbiased=False)
    expected = network.output((h - mean) / (spread + 1e-6).sqrt() * (1 + numbers[:, 7]) + numbers[:, 6])
    torch.testing.assert_close(network(x, times, hidden), expected)


def test_written_out_attention_is_torchs() -> None:
    network: Denoiser = built(SMALL["attention"])
    qkv = torch.randn(M, 3, 24, dtype=torch.double)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(network._attend(qkv), expected)  # type: ignore[operator]


def test_two_kinds_of_output_stay_apart() -> None:
    """Means first, then variances, whatever the groups: values of the first group are columns 0, 1 and 6, 7."""
    network = built(SMALL["attention"], outputs=2 * C)
    x, times, hidden = inputs()
    for projection in network.projections:  # type: ignore[union-attr]
        torch.nn.init.zeros_(projection.weight)  # groups no longer see each other
    before = network(x, times, hidden)
    x[:, :2] += 1
    changed = (network(x, times, hidden) - before).abs().amax(0) > 0
    assert changed.nonzero().flatten().tolist() == [0, 1, 6, 7]


@NETWORKS
def test_autocast_computes_in_bfloat16_and_close(settings: NetworkSettings) -> None:
    network = built(settings).float()
    x, times, hidden = (None if each is None else each.float() for each in inputs())
    exact = network(x, times, hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, times, hidden)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens of 6 values, with 6 to predict, do not divide into 4 groups"):
        Attention().build(inputs=6, outputs=6, hidden=4)
    with pytest.raises(ValueError, match="a width of 10 does not divide into 4 heads"):
        Attention(width=10).build(inputs=4, outputs=4, hidden=4)
    with pytest.raises(ValueError, match="made for 1 times a row, not 2"):
        built(MLP(width=4))(torch.zeros(2, C).double(), torch.zeros(2, 2).double(), torch.zeros(2, D).double())
