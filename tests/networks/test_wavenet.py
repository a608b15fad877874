"""What a position sees, by gradient; the layers as convolutions; and sampling with rings against the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from jielong.backbones.wavenet import WaveNet as Settings
from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.gated import unit_rms
from jielong.networks.wavenet import GatedLayer, WaveNet, WaveNetConfig


def net_of(condition_width: int | None = None) -> WaveNet:
    """A small network with no weight at zero, in double precision."""
    torch.manual_seed(0)
    config = WaveNetConfig(stacks=2, layers=3, width=16, features=6, skip=24)
    net = WaveNet(config, condition_width=condition_width).double().eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def run(net: WaveNet, inputs: Tensor, conditioning: Conditioning | None = None) -> Tensor:
    positions = inputs.shape[1]
    return net(BackboneInputs(inputs, torch.zeros(positions, 1, dtype=torch.long), torch.arange(positions), conditioning))


def condition_of(batch: int) -> Conditioning:
    pooled = torch.randn(batch, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return Conditioning(pooled[:, None], torch.ones(batch, 1, dtype=torch.bool), pooled)


def test_a_position_sees_its_input_and_those_within_reach_and_no_other() -> None:
    net = net_of()
    assert net.receptive_field == 15
    inputs = torch.randn(1, 20, 16, dtype=torch.float64, requires_grad=True)
    hidden = run(net, inputs)
    for position in range(20):
        (gradient,) = torch.autograd.grad(hidden[0, position].sum(), inputs, retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        assert seen.tolist() == [position - net.receptive_field < other <= position for other in range(20)]


def test_a_layer_is_a_dilated_convolution_with_a_gate() -> None:
    torch.manual_seed(1)
    layer, x, pooled = GatedLayer(6, 4, 3, 0.0).double(), torch.randn(2, 9, 6, dtype=torch.float64), condition_of(2).pooled
    taps = torch.stack([layer.past.weight, layer.present.weight], dim=-1)
    shift = layer.shift(pooled)
    assert shift is not None
    a = F.conv1d(F.pad(x.mT, (4, 0)), taps, layer.present.bias, dilation=4) + shift[..., None]
    z = torch.tanh(a[:, :6]) * torch.sigmoid(a[:, 6:])
    after, gated = layer(x, pooled)
    torch.testing.assert_close(gated, z.mT)
    torch.testing.assert_close(after, x + F.conv1d(z, layer.residual.weight[..., None]).mT)


def test_layers_skip_to_the_end_in_a_sum() -> None:
    net, x = net_of(), torch.randn(2, 7, 16, dtype=torch.float64)
    entered, total = net.enter(unit_rms(x)), net.skip.bias
    for layer, weight in zip(net.layers, net.skip.weight.split(6, dim=1), strict=True):
        entered, gated = layer(entered, None)
        total = total + gated @ weight.T
    torch.testing.assert_close(run(net, x), F.relu(net.out(F.relu(total))))


@pytest.mark.parametrize("conditioned", [False, True])
def test_rings_give_what_the_whole_gives(conditioned: bool) -> None:
    net = net_of(3 if conditioned else None)
    inputs, given = torch.randn(3, 25, 16, dtype=torch.float64), condition_of(3) if conditioned else None
    whole = run(net, inputs, given)
    cache = net.new_cache(3, 25, dtype=torch.float64)
    assert cache.nbytes == net.cache_bytes(3, 1_000, dtype=torch.float64)
    parts, start = [], 0
    for size in (1, 1, 6, 1, 9, 1, 1, 5):
        piece, where = inputs[:, start : start + size], torch.zeros(size, 1)
        tried = net(BackboneInputs(torch.randn_like(piece), where, torch.arange(size), given if start == 0 else None), cache, commit=False)
        assert tried.shape == piece.shape
        parts.append(net(BackboneInputs(piece, where, torch.arange(size)), cache))
        start += size
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_rows_of_a_cache_go_on_by_themselves() -> None:
    net = net_of(3)
    inputs = torch.randn(3, 14, 16, dtype=torch.float64)
    whole = run(net, inputs, condition_of(3))
    cache = net.new_cache(3, 14, dtype=torch.float64)
    net(BackboneInputs(inputs[:, :5], torch.zeros(5, 1), torch.arange(5), condition_of(3)), cache)
    late = net(BackboneInputs(inputs[1:, 5:], torch.zeros(9, 1), torch.arange(9)), cache.rows(slice(1, 3)))
    torch.testing.assert_close(late, whole[1:, 5:])


def test_what_does_not_fit_is_refused() -> None:
    net, x = net_of(), torch.zeros(2, 3, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"embeddings must be \(batch, positions, 16\), not \(2, 3, 5\)"):
        run(net, torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="takes no condition"):
        run(net, x, condition_of(2))
    with pytest.raises(ValueError, match="takes a condition, but none"):
        run(net_of(3), x)
    cache = net.new_cache(2, 4, dtype=torch.float64)
    net(BackboneInputs(x, torch.zeros(3, 1), torch.arange(3)), cache)
    with pytest.raises(ValueError, match="the cache is for 4 positions, but these are 6"):
        net(BackboneInputs(x, torch.zeros(3, 1), torch.arange(3)), cache)
    with pytest.raises(ValueError, match="for a batch of 2, not 1"):
        net(BackboneInputs(x[:1], torch.zeros(3, 1), torch.arange(3)), cache)
    for blocks, shifted in ((torch.zeros(4), True), (torch.arange(4), False)):
        with pytest.raises(ValueError, match="needs order: raster"):
            net.check_order(blocks, shifted)


def test_settings_reach_the_network() -> None:
    net = Settings(stacks=2, layers=3, width=8, skip=12).build(Layout((40,), vocabulary=16), 5)
    assert net.dilations == (1, 2, 4, 1, 2, 4)
    assert (net.width, net.features, net.skip.out_features, net.receptive_field) == (8, 8, 12, 15)
    assert Settings().build(Layout((40,)), None).dilations[-1] == 512
    with pytest.raises(ValueError, match=r"tokens along time, not a grid \(4, 4\)"):
        Settings().build(Layout((4, 4), vocabulary=16), None)
    with pytest.raises(ValidationError):
        Settings(layers=0)
