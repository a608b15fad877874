"""Calls with a cache run fused layers: in every variant the numbers of the layers themselves."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from jielong.networks import fused_inference as fused
from jielong.networks.backbone import BackboneInputs
from jielong.networks.cache import Cache
from jielong.networks.conditioning import Conditioning
from jielong.networks.transformer import Transformer, TransformerConfig

N, WIDTH, STATES = 24, 32, 12
GRID = torch.cartesian_prod(torch.arange(4), torch.arange(6))
RASTER = torch.arange(N)


def make(*, condition: str | None = None, condition_width: int | None = None, **changes: object) -> Transformer:
    """A small network with all weights away from their start, so that nothing hides behind a zero or a one."""
    settings = {"layers": 2, "width": WIDTH, "heads": 2, "norm_eps": 0.1, "condition": condition or "prefix"} | changes
    config = TransformerConfig.model_validate(settings)
    net = Transformer(config, axes=2, condition_width=condition_width if condition else None).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


def inputs(batch: int) -> Tensor:
    return torch.randn(batch, N, WIDTH, generator=torch.Generator().manual_seed(2))


def condition(batch: int) -> Conditioning:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(batch, 4, dtype=torch.bool)
    mask[0, 2:] = False
    return Conditioning(torch.randn(batch, 4, STATES, generator=generator), mask, torch.randn(batch, STATES, generator=generator))


def cached(net: Transformer, x: Tensor, given: Conditioning | None, size: int, blocks: Tensor, cache: Cache | None = None) -> Tensor:
    cache = cache or net.new_cache(len(x), N, 4)
    steps = [
        net(BackboneInputs(x[:, at : at + size], GRID[at : at + size], blocks[at : at + size], given if at == 0 else None), cache)
        for at in range(0, N, size)
    ]
    return torch.cat(steps, 1)


@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
@pytest.mark.parametrize(
    ("norm", "activation", "qk_norm", "bias"), list(itertools.product(["rms", "layer"], ["swiglu", "gelu"], [False, True], [False, True]))
)
def test_every_variant_equals_the_layers(norm: str, activation: str, qk_norm: bool, bias: bool, path: str | None, size: int) -> None:
    net = make(norm=norm, activation=activation, qk_norm=qk_norm, bias=bias, condition=path, condition_width=STATES)
    for batch in (1, 2, 3):  # up to two rows are multiplied by packed weights
        x, given, blocks = inputs(batch), condition(batch) if path else None, RASTER // size
        whole = net(BackboneInputs(x, GRID, blocks, given))
        torch.testing.assert_close(cached(net, x, given, size, blocks), whole, rtol=1e-4, atol=3e-5)


def test_weights_are_packed_for_few_rows_and_many_calls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    net, packings = make(), []
    pack = fused._Layer.pack
    monkeypatch.setattr(fused._Layer, "pack", lambda layer: (packings.append(layer), pack(layer)))
    for batch, size, expected in ((1, 1, 2), (2, 1, 2), (3, 1, 0), (1, 6, 0)):
        packings.clear()
        cached(net, inputs(batch), None, size, RASTER // size)
        assert len(packings) == expected, (batch, size)
    packings.clear()
    short = net.new_cache(1, fused.PACKED_CALLS - 1)
    net(BackboneInputs(inputs(1)[:, :1], GRID[:1], RASTER[:1]), short)
    assert packings == []


def test_weights_and_results_are_left_alone() -> None:
    net = make(condition="prefix", condition_width=STATES)
    x, given = inputs(1), condition(1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cache = net.new_cache(1, N, 4)
    first = net(BackboneInputs(x[:, :1], GRID[:1], RASTER[:1], given), cache)
    kept = first.clone()
    net(BackboneInputs(x[:, 1:2], GRID[1:2], RASTER[1:2]), cache)
    assert torch.equal(first, kept), "a later call does not write into what an earlier one returned"
    assert torch.equal(x, inputs(1))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_new_cache_uses_new_weights() -> None:
    net, x = make(), inputs(1)
    old = cached(net, x, None, 1, RASTER)
    cache = net.new_cache(1, N)
    cached(net, x, None, 1, RASTER, cache)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)
    new = net(BackboneInputs(x, GRID, RASTER))
    assert not torch.allclose(new, old, atol=1e-2)
    torch.testing.assert_close(cached(net, x, None, 1, RASTER), new, rtol=1e-4, atol=3e-5)
    cache.reset()
    torch.testing.assert_close(cached(net, x, None, 1, RASTER, cache), new, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
@pytest.mark.parametrize("batch", [1, 3])
def test_low_precision_is_close(path: str | None, batch: int) -> None:
    net = make(condition=path, condition_width=STATES, qk_norm=True)
    given = condition(batch) if path else None
    expected = net(BackboneInputs(inputs(batch), GRID, RASTER, given))
    cache = net.new_cache(batch, N, 4, dtype=torch.bfloat16)
    low = cached(net, inputs(batch), given, 1, RASTER, cache)
    assert cache.memory.dtype == torch.bfloat16
    assert (low - expected).norm() < 0.05 * expected.norm()  # bfloat16 keeps 8 bits: 0.4 % an operation


@torch.no_grad()
def test_threads_share_a_network_and_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jielong.networks.rope.CACHED_POSITIONS", 3)  # tables are dropped while the other thread uses them
    net = make(condition="cross", condition_width=STATES)
    items = [(inputs(2), condition(2)), (inputs(2).flip(1), condition(2))]

    def sample(number: int, meet: Callable[[], object]) -> Tensor:
        x, conditioning = items[number]
        cache, parts = net.new_cache(2, N), []
        for at in range(N):
            meet()
            part = BackboneInputs(x[:, at : at + 1], GRID[at : at + 1], RASTER[at : at + 1], conditioning if at == 0 else None)
            parts.append(net(part, cache))
        return torch.cat(parts, 1)

    alone = [sample(number, lambda: None) for number in (0, 1)]
    barrier = threading.Barrier(2, timeout=60)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda number: sample(number, barrier.wait), (0, 1)))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(*alone)
