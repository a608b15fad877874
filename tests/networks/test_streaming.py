"""Chunks of any length give what the whole gives, layer by layer and for whole networks."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from jielong.networks.convolution1d import Conv1d, ConvTranspose1d, Residual
from jielong.networks.eligibility import fused_inference
from jielong.networks.seanet import SkipLSTM
from jielong.networks.streaming import StreamingModule, StreamingSequential
from jielong.networks.time_layer import fold
from jielong.networks.windowed import WindowedTransformer

CHUNKS = [[1] * 61, [61], [7, 0, 30, 1, 1, 22], [20, 41]]


def layers() -> dict[str, StreamingModule]:
    torch.manual_seed(0)
    modules: dict[str, StreamingModule] = {
        "convolution": Conv1d(4, 6, 7),
        "dilated": Conv1d(4, 6, 3, dilation=4),
        "strided": Conv1d(4, 6, 6, 3, norm="weight_norm"),
        "reflected": Conv1d(4, 6, 8, 4, padding="reflect"),
        "repeated": Conv1d(4, 6, 4, 2, padding="replicate"),
        "pointwise": Conv1d(4, 6, 1),
        "both ways": Conv1d(4, 6, 7, causal=False),
        "both ways, strided and reflected": Conv1d(4, 6, 10, 5, causal=False, padding="reflect"),
        "both ways, dilated and reflected": Conv1d(4, 6, 3, dilation=9, causal=False, padding="reflect"),
        "transposed": ConvTranspose1d(4, 6, 8, 4, norm="weight_norm"),
        "transposed in groups": ConvTranspose1d(4, 4, 4, 2, groups=4, bias=False),
        "transposed both ways": ConvTranspose1d(4, 6, 6, 3, causal=False),
        "recurrent": SkipLSTM(4, 2),
        "transformer": WindowedTransformer(4, layers=2, heads=2, window=9, scale=1.0),
        "residual": Residual(StreamingSequential(nn.ELU(), Conv1d(4, 2, 3), nn.ELU(), Conv1d(2, 4, 1)), Conv1d(4, 4, 1)),
        "residual that lags": Residual(
            StreamingSequential(Conv1d(4, 4, 7, causal=False), Conv1d(4, 4, 5, padding="reflect")), nn.Identity()
        ),
    }
    for layer in modules.values():
        for parameter in layer.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        layer.eval()
    return modules


NAMES = list(layers())


def sound(length: int = 61, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, length, generator=torch.Generator().manual_seed(1))


def in_chunks(layer: StreamingModule, x: Tensor, sizes: list[int]) -> list[Tensor]:
    with torch.no_grad(), layer.streaming(len(x)) as stream:
        parts = [layer(part) for part in x.split(sizes, dim=-1)]
        stream.finish()
        return [*parts, layer(x[..., :0])]


@pytest.mark.parametrize("sizes", CHUNKS, ids=["ones", "whole", "any", "two"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_chunks_are_the_whole(name: str, sizes: list[int]) -> None:
    layer, x = layers()[name], sound()
    parts = in_chunks(layer, x, sizes)
    torch.testing.assert_close(torch.cat(parts, dim=-1), layer(x), atol=1e-5, rtol=1e-5)
    # A stream has returned exactly as many samples as required_inputs says.
    received = itertools.accumulate(sizes)
    returned = itertools.accumulate(part.shape[-1] for part in parts)
    for samples, outputs in zip(received, returned, strict=False):
        assert layer.required_inputs(outputs) <= samples < layer.required_inputs(outputs + 1)


@pytest.mark.parametrize("length", [1, 2, 5, 9])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_short_sounds_too(name: str, length: int) -> None:
    layer, x = layers()[name], sound(length)
    torch.testing.assert_close(torch.cat(in_chunks(layer, x, [1] * length), dim=-1), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if "reflected" not in name and "both" not in name and "lags" not in name])
@torch.no_grad()
def test_one_row_begins_anew_while_the_others_go_on(name: str) -> None:
    layer, x, fresh = layers()[name], sound(36), sound(24, 1) + 1
    with layer.streaming(2) as stream:
        parts = [layer(x[..., :12])]
        stream.reset(1)
        parts.append(layer(torch.cat([x[:1, :, 12:], fresh])))
    whole, anew = layer(x)[0], layer(fresh)[0]
    torch.testing.assert_close(torch.cat(parts, dim=-1)[0], whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts[1][1], anew, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_row_that_cannot_be_reset_is_reported() -> None:
    for name, received, why in [("strided", 4, "1 of the 3 samples"), ("reflected", 8, "reflected"), ("both ways", 20, "look ahead")]:
        layer = layers()[name]
        with layer.streaming(2) as stream:
            layer(sound()[..., :received])
            with pytest.raises(ValueError, match=why):
                stream.reset(0)
            stream.reset()
            again = layer(sound())
        torch.testing.assert_close(again, layer(sound())[..., : again.shape[-1]])
    with pytest.raises(ValueError, match="there is no 2"):
        layers()["strided"].streaming(2).reset(2)


@torch.no_grad()
def test_streams_of_one_module_do_not_meet() -> None:
    layer = layers()["transformer"]
    one, other, parts = layer.streaming(2), layer.streaming(2), {0: [], 1: []}
    for part in sound().split(10, dim=-1):
        for number, (stream, x) in enumerate([(one, part), (other, part + 1)]):
            with stream:
                parts[number].append(layer(x))
    torch.testing.assert_close(torch.cat(parts[0], dim=-1), layer(sound()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(parts[1], dim=-1), layer(sound() + 1), atol=1e-5, rtol=1e-5)
    with one, pytest.raises(RuntimeError, match="in use already"), one:
        pass
    assert layer.stream is None


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_an_inner_stream_leaves_the_outer_one_as_it_was(name: str) -> None:
    layer, x = layers()[name], sound()
    with layer.streaming(2) as outer:
        outputs = [layer(x[..., :20])]
        torch.testing.assert_close(torch.cat(in_chunks(layer, x + 1, [30, 31]), dim=-1), layers()[name](x + 1), atol=1e-5, rtol=1e-5)
        assert layer.stream is outer
        outer.finish()
        outputs.append(layer(x[..., 20:]))
    assert layer.stream is None
    torch.testing.assert_close(torch.cat(outputs, dim=-1), layer(x), atol=1e-5, rtol=1e-5)


def test_what_cannot_be_streamed_says_why() -> None:
    with pytest.raises(ValueError, match="time_group_norm normalises over the whole sound"):
        Conv1d(4, 4, 3, norm="time_group_norm").streaming()
    with pytest.raises(ValueError, match="one sound or more, not 0"):
        Conv1d(4, 4, 3).streaming(0)
    layer = Conv1d(4, 4, 3)
    with layer.streaming(3), pytest.raises(ValueError, match="carries 3 sounds, and the chunk holds 2"):
        layer(sound())
    with pytest.raises(ValueError, match="at least as long as its stride"):
        Conv1d(4, 4, 3, 4)


@pytest.mark.parametrize("name", ["strided", "transposed"])
def test_weight_norm_is_folded_and_follows_its_weights(name: str) -> None:
    layer, x = layers()[name], sound()
    reference = torch.nn.utils.parametrizations.weight_norm
    plain: nn.Module = nn.Conv1d(4, 6, 6, 3, padding=3) if name == "strided" else nn.ConvTranspose1d(4, 6, 8, 4)
    plain = reference(plain)
    plain.parametrizations.weight.original0.data, plain.parametrizations.weight.original1.data = layer.gain.data, layer.weight.data
    torch.testing.assert_close(layer.kernel(), plain.weight)
    before, state = layer(x).detach(), layer.state_dict()
    fold(layer)
    assert layer.folded is None  # gradients are wanted
    bias = layer.bias[:, None]
    with torch.no_grad():
        assert layer.folded is not None
        assert layer.state_dict().keys() == state.keys()
        torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=1e-5)
        layer.gain.mul_(2)
        assert layer.folded is None
        torch.testing.assert_close(layer(x) - bias, 2 * (before - bias))
    layer.train()
    layer(x).sum().backward()
    assert layer.gain.grad is not None
    layer.eval()
    with torch.no_grad(), layer.streaming(2):
        assert layer.folded is not None
    with torch.no_grad():
        assert layer.folded is None  # the kernels of a stream belong to it
    fold(layer)
    with layer.streaming(2), torch.no_grad():
        pass
    with torch.no_grad():
        assert layer.folded is not None  # a stream leaves it as it was
        again = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
        assert again.folded is None
        torch.testing.assert_close(again(x), layer(x), atol=1e-6, rtol=1e-5)


class LowRank(nn.Module):
    """A weight plus a matrix of rank 1."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(1, *shape[1:], generator=torch.Generator().manual_seed(5)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.3 * self.row


@pytest.mark.parametrize("before", [True, False], ids=["folded before", "folded after"])
@pytest.mark.parametrize("name", ["strided", "transposed", "convolution"])
@torch.no_grad()
def test_a_parametrized_weight_is_not_ignored_by_prepared_kernels(name: str, before: bool) -> None:
    layer, x = layers()[name], sound()
    if before:
        fold(layer)
    plain = layer(x)
    parametrize.register_parametrization(layer, "weight", LowRank(layer.weight.shape))
    if not before:
        fold(layer)
    assert layer.folded is None
    with torch.enable_grad():
        expected = layer(x).detach()
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(torch.cat(in_chunks(layer, x, [30, 31]), dim=-1), expected, atol=1e-5, rtol=1e-5)
    assert (expected - plain).abs().max() > 0.1


@torch.no_grad()
def test_kernels_can_be_switched_off() -> None:
    layer = layers()["strided"]
    fold(layer)
    with fused_inference(False), layer.streaming(2):
        assert layer.folded is None
    assert layer.folded is not None


@torch.no_grad()
def test_the_transformer_sees_its_window_and_no_more() -> None:
    layer, x = WindowedTransformer(4, layers=1, heads=2, window=5, scale=1.0).eval(), sound(40)
    changed = x.clone()
    changed[:, 0, 10] += 1
    moved = (layer(changed) - layer(x)).abs().amax((0, 1)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [10, 11, 12, 13, 14]
    torch.testing.assert_close(layer(x), layer._whole(x), atol=1e-6, rtol=1e-5)  # 40 > 2 windows: piece by piece
    with pytest.raises(ValueError, match="even multiple of the number of heads"):
        WindowedTransformer(6, layers=1, heads=2, window=5)
