"""The video pixel network: what a position sees along all four axes, by gradient; its units' limits; sampling with the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jielong.backbones import vpn as settings
from jielong.config.registry import parse_part
from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.convolutional_lstm import ConvolutionalLSTM
from jielong.networks.multiplicative import MultiplicativeBlock, activate
from jielong.networks.pixel_grid import ClipGrid, PixelGrid
from jielong.networks.vpn import VPN, VPNConfig
from jielong.networks.vpn_decoder import PixelDecoder

GRIDS = [ClipGrid(3, PixelGrid(4, 3)), ClipGrid(3, PixelGrid(2, 3, 3))]
SMALL: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2, "width": 4, "features": 12, "first_kernel": 7}


def net_of(grid: ClipGrid, condition_width: int | None = None, **sizes: Any) -> VPN:
    """A small network with no weight at zero, in double precision."""
    torch.manual_seed(0)
    net = VPN(VPNConfig(**{**SMALL, **sizes}), grid=grid, condition_width=condition_width).double().eval()
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return net


def run(net: nn.Module, inputs: Tensor, conditioning: Conditioning | None = None) -> Tensor:
    positions = inputs.shape[1]
    return net(BackboneInputs(inputs, torch.zeros(positions, 3, dtype=torch.long), torch.arange(positions), conditioning))


def inputs_of(grid: ClipGrid, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(batch, grid.positions, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def condition_of(batch: int, width: int = 5) -> Conditioning:
    pooled = torch.randn(batch, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return Conditioning(pooled[:, None], torch.ones(batch, 1, dtype=torch.bool), pooled)


def seen(net: nn.Module, grid: ClipGrid) -> Tensor:
    """``(N, N)`` bool: whether the hidden vector of a position (row) depends on the input of a position (column)."""
    inputs = inputs_of(grid).requires_grad_()
    hidden = run(net, inputs)
    slopes = [torch.autograd.grad(each.square().sum(), inputs, retain_graph=True)[0][0].abs().sum(-1) for each in hidden[0]]
    return torch.stack(slopes) > 0


@pytest.mark.parametrize("unit", ["multiplicative", "relu"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_position_sees_every_token_before_it_along_time_rows_columns_and_colours_and_no_other(grid: ClipGrid, unit: str) -> None:
    """Position ``i`` is handed token ``i - 1``, so it may see inputs up to its own; the first is handed what lies outside."""
    found = seen(net_of(grid, unit=unit, decoder_layers=3), grid)
    wanted = torch.ones_like(found).tril()
    wanted[0, 0] = False
    assert not bool((found & ~wanted).any())
    if unit == "multiplicative":  # a relu may be off
        assert torch.equal(found, wanted)
    else:
        assert float(found[wanted].float().mean()) > 0.9


def test_the_baseline_sees_earlier_frames_and_nothing_of_its_own() -> None:
    for grid in GRIDS:
        size = grid.picture.positions
        frame = torch.arange(grid.positions) // size
        found = seen(net_of(grid, decoder="independent"), grid)
        # Input i holds token i - 1; the first input, the start, is subtracted from all tokens.
        of_token = (torch.arange(grid.positions) - 1).clamp_min(0) // size
        wanted = of_token[None] < frame[:, None]
        assert torch.equal(found[:, 1:], wanted[:, 1:])


def test_a_leak_would_be_found() -> None:
    """The same check fails when the map of a frame is the one after it."""
    grid = GRIDS[0]
    net = net_of(grid)
    past = net.past
    net.past = lambda frames, pooled, state=None: (past(frames, pooled)[0].roll(-1, dims=1), None)  # type: ignore[method-assign, assignment, return-value]
    assert bool(seen(net, grid).triu(1).any())


@pytest.mark.parametrize("unit", ["multiplicative", "relu"])
@pytest.mark.parametrize("decoder", ["pixelcnn", "independent"])
@pytest.mark.parametrize("grid", GRIDS)
def test_cached_equals_whole_for_one_position_at_a_time_and_for_several(grid: ClipGrid, decoder: str, unit: str) -> None:
    net = net_of(grid, condition_width=5, decoder=decoder, unit=unit)
    inputs, given = inputs_of(grid, 2), condition_of(2)
    whole = run(net, inputs, given).detach()
    for size in (1, 7):
        cache, parts = net.new_cache(2, grid.positions), []
        for at in range(0, grid.positions, size):
            piece = inputs[:, at : at + size]
            where, blocks = torch.zeros(piece.shape[1], 3), torch.arange(at, at + piece.shape[1])
            tried = net(BackboneInputs(torch.randn_like(piece), where, blocks, None if at else given), cache, commit=False)
            assert tried.shape == piece.shape
            parts.append(net(BackboneInputs(piece, where, blocks), cache))
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)
        assert cache.nbytes == net.cache_bytes(2, grid.positions, dtype=torch.float64)
    half = grid.positions // 2 + 1
    torch.testing.assert_close(run(net, inputs[:, :half], given), whole[:, :half], rtol=1e-6, atol=1e-9)


def test_layers_that_cannot_be_fused_give_the_same() -> None:
    grid = GRIDS[1]
    net = net_of(grid)
    inputs = inputs_of(grid)
    whole = run(net, inputs).detach()
    assert isinstance(net.decoder, PixelDecoder)
    handle = net.decoder.out.register_forward_hook(lambda *_: None)
    cache = net.new_cache(1, grid.positions)
    handle.remove()
    assert not cache.fused
    where, blocks = torch.zeros(grid.positions, 3), torch.arange(grid.positions)
    torch.testing.assert_close(net(BackboneInputs(inputs, where, blocks), cache), whole, rtol=1e-5, atol=1e-6)
    assert cache.pixels is None


def test_rows_of_a_cache_go_on_by_themselves() -> None:
    grid = GRIDS[0]
    net, inputs, half = net_of(grid, condition_width=5), inputs_of(grid, 3), 17
    given = condition_of(3)
    cache, places, blocks = net.new_cache(3, grid.positions), torch.zeros(grid.positions, 3), torch.arange(grid.positions)
    net(BackboneInputs(inputs[:, :half], places[:half], blocks[:half], given), cache)
    rest = net(BackboneInputs(inputs[:2, half:], places[half:], blocks[half:]), cache.rows(slice(0, 2)))
    torch.testing.assert_close(rest, run(net, inputs, given)[:2, half:].detach(), rtol=1e-5, atol=1e-6)


def test_the_encoder_runs_once_a_finished_frame() -> None:
    grid = GRIDS[0]
    net, calls = net_of(grid), []
    net.encoder.register_forward_hook(lambda *_: calls.append(1))
    net(BackboneInputs(inputs_of(grid), torch.zeros(36, 3), torch.arange(36)), net.new_cache(1, 36))
    assert len(calls) == grid.frames - 1


def test_without_the_map_of_the_past_every_frame_is_that_of_the_decoder_alone() -> None:
    """Zeros in place of the LSTM's map leave an ordinary PixelCNN: frames are independent, each as the only frame of a clip."""
    for grid in GRIDS:
        net, inputs = net_of(grid), inputs_of(grid)
        nothing = lambda frames, pooled, state=None: (frames.new_zeros(len(frames), 2, 12, *frames.shape[-2:]), None)  # noqa: E731
        net.past = nothing  # type: ignore[method-assign, assignment]
        hidden, size = run(net, inputs), grid.picture.positions
        alone = net_of(replace(grid, frames=1))
        alone.load_state_dict(net.state_dict())
        for frame in range(grid.frames):
            tokens = inputs[:, frame * size + 1 : (frame + 1) * size]
            found = run(alone, torch.cat([inputs[:, :1], tokens], dim=1))
            torch.testing.assert_close(hidden[:, frame * size : (frame + 1) * size], found)


def test_limits_of_the_multiplicative_unit() -> None:
    h, content, off, on = (
        torch.randn(4, 3, 5, 5),
        torch.randn(4, 3, 5, 5),
        torch.full((4, 3, 5, 5), -200.0),
        torch.full((4, 3, 5, 5), 200.0),
    )
    unit = lambda *maps: activate("multiplicative", torch.cat(maps, dim=1), h)  # noqa: E731
    assert torch.equal(unit(off, on, on, content), torch.zeros_like(h))
    torch.testing.assert_close(unit(on, on, off, content), h.tanh())
    torch.testing.assert_close(unit(on, off, on, content), content.tanh().tanh())
    torch.testing.assert_close(unit(on, off, off, content), torch.zeros_like(h))
    gates = torch.randn(3, 4, 3, 5, 5)
    expected = gates[0].sigmoid() * (gates[1].sigmoid() * h + gates[2].sigmoid() * content.tanh()).tanh()
    torch.testing.assert_close(unit(*gates, content), expected)
    torch.testing.assert_close(activate("relu", content, h), content.relu())


def test_a_block_is_residual_and_its_dilation_is_that_of_both_units() -> None:
    block = MultiplicativeBlock(4, "multiplicative", dilation=4).double()
    nn.init.zeros_(block.leave.weight)
    x = torch.randn(1, 4, 1, 40, dtype=torch.float64)
    torch.testing.assert_close(block(x), x)
    nn.init.normal_(block.leave.weight)
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(block(x)[0, :, 0, 20].sum(), x)
    assert slope[0, :, 0].abs().sum(0).nonzero()[:, 0].tolist() == [12, 16, 20, 24, 28]


def test_dilation_is_that_of_the_paper_and_can_be_off() -> None:
    for dilation, wanted in ((True, [1, 2, 4, 8, 1, 2, 4, 8]), (False, [1] * 8)):
        net = VPN(VPNConfig(width=4, dilation=dilation), grid=GRIDS[0])
        found = [unit.dilation for block in net.encoder.blocks for unit in block.units]  # type: ignore[union-attr]
        assert found == [(each, each) for each in wanted for _ in range(2)]


def test_a_convolutional_lstm_is_torchs_where_maps_are_one_pixel() -> None:
    """Of 1x1 maps only the middle tap counts, and gates are those of :class:`torch.nn.LSTM` in another order."""
    torch.manual_seed(0)
    own, features = ConvolutionalLSTM(5), 5
    other = nn.LSTM(features, features, batch_first=True)
    order = [2, 1, 3, 0]  # torch: input, forget, content, output; own: output, forget, input, content
    for mine, weight in ((own.inputs, other.weight_ih_l0), (own.state, other.weight_hh_l0)):
        parts = mine.weight.data[:, :, 1, 1].unflatten(0, (4, features))
        weight.data = torch.cat([parts[each] for each in order])
    assert own.inputs.bias is not None
    other.bias_ih_l0.data = torch.cat([own.inputs.bias.data.unflatten(0, (4, features))[each] for each in order])
    other.bias_hh_l0.data.zero_()
    x = torch.randn(2, 6, features, 1, 1)
    states, last = own(x)
    torch.testing.assert_close(states[..., 0, 0], other(x[..., 0, 0])[0])
    first, middle = own(x[:, :4])
    rest, end = own(x[:, 4:], middle)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), states)
    torch.testing.assert_close(end.cell, last.cell)


def test_a_condition_changes_every_position_and_starts_without_an_effect() -> None:
    grid, inputs = GRIDS[0], inputs_of(GRIDS[0]).expand(2, -1, -1)
    fresh = VPN(VPNConfig(**SMALL), grid=grid, condition_width=5).double()
    hidden = run(fresh, inputs, condition_of(2))
    torch.testing.assert_close(hidden[0], hidden[1])
    hidden = run(net_of(grid, condition_width=5), inputs, condition_of(2)).detach()
    assert float((hidden[0] - hidden[1]).abs().amax(-1).min()) > 1e-6


def test_every_weight_is_trained() -> None:
    for grid in GRIDS:
        for decoder in ("pixelcnn", "independent"):
            net = net_of(grid, condition_width=5, decoder=decoder)
            run(net, inputs_of(grid, 2), condition_of(2)).square().sum().backward()
            idle = [name for name, each in net.named_parameters() if each.grad is None or not bool(each.grad.any())]
            assert idle == []


def test_the_cache_grows_neither_with_the_frames_nor_with_what_was_drawn() -> None:
    few, many = net_of(ClipGrid(2, PixelGrid(4, 3))), net_of(ClipGrid(64, PixelGrid(4, 3)))
    assert few.cache_bytes(1, 24) == many.cache_bytes(1, 768)


def test_settings_reach_the_network() -> None:
    part = parse_part("backbone", {"vpn": {"encoder_layers": 3, "decoder_layers": 2, "width": 8, "features": 24, "unit": "relu"}})
    assert isinstance(part, settings.VPN)
    net = part.build(Layout((4, 6, 7, 3), vocabulary=4, axes=("time", "rows", "columns", "channels")), condition_width=9)
    assert (net.width, net.features, net.grid) == (8, 24, ClipGrid(4, PixelGrid(6, 7, 3)))
    assert isinstance(net.decoder, PixelDecoder)
    assert (len(net.encoder.blocks), len(net.decoder.blocks), net.decoder.blocks[0].unit) == (3, 2, "relu")


def test_what_does_not_fit_is_refused() -> None:
    for layout in (
        Layout((8, 8), vocabulary=4),
        Layout((16,), vocabulary=4),
        Layout((2, 8, 8), 1, 4, axes=("rows", "columns", "channels")),
    ):
        with pytest.raises(ValueError, match=r"reads a grid \(time, rows, columns\) or .* choose backbone: transformer"):
            ClipGrid.of(layout)
    with pytest.raises(
        ValueError, match="8 features cannot be shared by 3 colours, as half of them are inside a block: choose a multiple of 6"
    ):
        VPN(VPNConfig(width=8), grid=GRIDS[1])
    with pytest.raises(ValueError, match="first_kernel must be odd, so that a pixel stands in its middle, not 4"):
        VPNConfig(first_kernel=4)
    net = net_of(GRIDS[0])
    with pytest.raises(ValueError, match="the clip has 36 positions, but these are 37"):
        run(net, torch.randn(1, 37, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="a VPN sees earlier frames, and what is above and to the left, and so needs order: raster"):
        net.check_order(torch.zeros(36), True)
