"""What rotates queries and keys of a transformer: nothing, a position, or the token that it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.backbones.transformer import Transformer as TransformerSettings
from jielong.config.sampling import Lazy
from jielong.core.tokens import Layout
from jielong.generation.generator import Generator
from jielong.heads.softmax import SoftmaxHead
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.eligibility import fused_inference
from jielong.networks.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from jielong.networks.rope import Rotary
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.masked import Masked, MaskedOrder
from jielong.orders.raster import Raster, RasterOrder

GRID = torch.cartesian_prod(torch.arange(3), torch.arange(4))
N, WIDTH, STATES, B = len(GRID), 16, 6, 2
RASTER = torch.arange(N)


def make(condition: str | None = None, **changes: object) -> Transformer:
    """A small network with all weights away from their start, so that nothing hides behind a zero."""
    settings = {"layers": 2, "width": WIDTH, "heads": 2, "condition": condition or "prefix"} | changes
    net = Transformer(TransformerConfig.model_validate(settings), axes=2, condition_width=STATES if condition else None).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


def inputs(seed: int = 2) -> Tensor:
    return torch.randn(B, N, WIDTH, generator=torch.Generator().manual_seed(seed))


def condition() -> Conditioning:
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[True, True, True], [False, True, True]])
    return Conditioning(torch.randn(B, 3, STATES, generator=generator), mask, torch.randn(B, STATES, generator=generator))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_without_rotation_cached_equals_uncached(path: str | None, size: int, fused: bool) -> None:
    net, given, x, blocks = make(path, rotary=False), condition() if path else None, inputs(), RASTER // size
    whole = net(BackboneInputs(x, GRID, blocks, given))
    cache = net.new_cache(B, N, 3)
    with fused_inference(fused):
        spans = [slice(start, start + size) for start in range(0, N, size)]
        steps = [net(BackboneInputs(x[:, at], GRID[at], blocks[at], None if at.start else given), cache) for at in spans]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=2e-5)


def test_without_rotation_places_do_not_matter() -> None:
    """One block is a set of positions: in another order they give the same vectors in that order."""
    net, x, one = make(rotary=False), inputs(), torch.zeros(N, dtype=torch.long)
    hidden, order = net(BackboneInputs(x, GRID, one)), torch.randperm(N, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(BackboneInputs(x[:, order], GRID, one)), hidden[:, order], rtol=1e-4, atol=1e-5)
    rotated = make()
    assert not torch.allclose(rotated(BackboneInputs(x[:, order], GRID, one)), rotated(BackboneInputs(x, GRID, one))[:, order], atol=1e-3)


def test_a_narrow_head_needs_no_channels_for_axes_without_rotation() -> None:
    with pytest.raises(ValueError, match="cannot be rotated over 2 axes"):
        make(heads=8)
    assert make(heads=8, rotary=False)(BackboneInputs(inputs(), GRID, RASTER)).shape == (B, N, WIDTH)


def test_lazy_steps_of_everything_equal_a_pass_without_rotation() -> None:
    net, x, one = make(rotary=False), inputs(), torch.zeros(N, dtype=torch.long)
    cache = net.new_lazy_cache(Lazy(refresh=8, share=1.0, layers=1), B, N)
    for step in range(2):
        cache.next(step == 0, torch.tensor([[step], [step + 1]]))
        hidden = net(BackboneInputs(x, GRID, one), cache)
    torch.testing.assert_close(hidden, net(BackboneInputs(x, GRID, one)), rtol=1e-4, atol=1e-5)


def test_mar_without_rotation_has_no_tables() -> None:
    net = MaskedAutoencoder(MaskedAutoencoderConfig(width=WIDTH, heads=8, rotary=False), extents=(3, 4))
    assert net.encoder.rotary is None
    assert net.decoder.rotary is None


LAYOUT = Layout((3, 4), vocabulary=5)
SOURCES = RasterOrder().sources(LAYOUT)


def by_tokens(path: str | None, start: str = "placeholder", **changes: object) -> Transformer:
    settings = {"layers": 2, "width": WIDTH, "heads": 2, "condition": path or "prefix", "start": start, "rotary_at": "token"} | changes
    net = TransformerSettings.model_validate(settings).build(LAYOUT, STATES if path else None).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


def at(x: Tensor, span: slice, given: Conditioning | None = None) -> BackboneInputs:
    assert SOURCES is not None
    return BackboneInputs(x[:, span], GRID[span], RASTER[span], given, sources=SOURCES[span])


def test_in_raster_order_a_position_reads_the_token_before_it() -> None:
    assert SOURCES is not None
    assert SOURCES.tolist() == [[-1, -1], *GRID[:-1].tolist()]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize(("path", "start"), [(None, "placeholder"), ("prefix", "placeholder"), ("prefix", "condition"), ("adaln", "sum")])
def test_by_places_of_tokens_cached_equals_uncached(path: str | None, start: str, qk_norm: bool, fused: bool) -> None:
    net, given, x = by_tokens(path, start, qk_norm=qk_norm), condition() if path else None, inputs()
    whole, cache = net(at(x, slice(0, N), given)), net.new_cache(B, N, 3)
    with fused_inference(fused):
        steps = [net(at(x, slice(0, 3), given), cache), *(net(at(x, slice(place, place + 1)), cache) for place in range(3, N))]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("path", [None, "prefix"])
def test_scores_to_the_start_and_the_prefix_are_zero_and_others_are_of_places_of_tokens(path: str | None) -> None:
    """The definition of LlamaGen's released weights, of the first layer: what is rotated by zeros gives every query a score of 0."""
    net, given, x = by_tokens(path), condition() if path else None, inputs()
    seen: list[Tensor] = []
    net.blocks[0].attention.register_forward_hook(lambda module, arguments, result: seen.append(result))
    net(at(x, slice(0, N), given))
    front = torch.zeros(B, 0, WIDTH)
    if given is not None and net.prefix is not None:
        front = net.prefix(given)
    count = front.shape[1]
    rows = net.blocks[0].attention_norm(torch.cat([front, x], 1).flatten(0, 1))
    q, k, v = net.blocks[0].attention.qkv(rows).view(B, count + N, 3, 2, -1).permute(2, 0, 3, 1, 4)
    assert SOURCES is not None
    table = Rotary(WIDTH // 2, 2)(SOURCES[1:], x.device, x.dtype)
    scores = torch.zeros(B, 2, count + N, count + N)
    scores[..., count + 1 :, count + 1 :] = table(q[..., count + 1 :, :]) @ table(k[..., count + 1 :, :]).mT / (WIDTH // 2) ** 0.5
    real = torch.ones(B, count + N, dtype=torch.bool)
    allowed = torch.ones(count + N, count + N, dtype=torch.bool).tril()
    if given is not None:
        real[:, :count] = given.mask
        allowed[:count, :count] = True
    visible = allowed & real[:, None] | torch.eye(count + N, dtype=torch.bool)
    expected = (scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)
    found = seen[0].view(B, count + N, WIDTH)
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)


def test_scores_depend_on_differences_of_places_of_tokens() -> None:
    """Moving all tokens of the grid by the same rows and columns changes nothing."""
    net, x = by_tokens(None), inputs()
    assert SOURCES is not None
    moved = SOURCES + torch.where(SOURCES < 0, 0, torch.tensor([2, 5]))
    hidden = net(at(x, slice(0, N)))
    torch.testing.assert_close(net(BackboneInputs(x, GRID, RASTER, sources=moved)), hidden, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(make()(BackboneInputs(x, GRID, RASTER)), hidden, atol=1e-3)


@pytest.mark.parametrize("pattern", ["parallel", "delay"])
def test_the_loop_draws_by_places_of_tokens_what_the_naive_reference_draws(pattern: str) -> None:
    layout, order = Layout((6,), channels=2, vocabulary=5), RasterOrder(Raster.model_validate({"pattern": pattern}))
    settings = TransformerSettings.model_validate({"layers": 1, "width": WIDTH, "heads": 2, "rotary_at": "token"})
    torch.manual_seed(0)
    model = Generator(layout, order, settings.build(layout, None), SoftmaxHead(WIDTH, layout)).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    drawn = [model.generate(count=3, cache=cache).values for cache in (True, False)]
    assert torch.equal(*drawn)


def test_places_of_tokens_need_an_order_with_one_token_before_each() -> None:
    with pytest.raises(ValueError, match="take order: raster"):
        Generator(LAYOUT, MaskedOrder(Masked()), by_tokens(None), SoftmaxHead(WIDTH, LAYOUT))
    with pytest.raises(ValueError, match="rotary: false"):
        by_tokens(None, rotary=False)
    with pytest.raises(ValueError, match="leave it out"):
        by_tokens(None)(BackboneInputs(inputs(), GRID, RASTER))


def of_raster(positions: str) -> Generator:
    settings = TransformerSettings.model_validate({"layers": 1, "width": WIDTH, "heads": 2, "positions": positions})
    torch.manual_seed(0)
    return Generator(LAYOUT, RasterOrder(), settings.build(LAYOUT, None), SoftmaxHead(WIDTH, LAYOUT)).eval()


def test_without_position_embeddings_inputs_are_tokens_alone() -> None:
    """The same as tables of zeros, without the tables."""
    without, zeros = of_raster("none"), of_raster("axes")
    state = without.state_dict()
    assert not [name for name in state if name.startswith("position_embeddings")]
    draw = torch.Generator().manual_seed(5)
    state = {name: torch.randn(value.shape, generator=draw) for name, value in state.items()}
    without.load_state_dict(state)
    tables = {f"position_embeddings.{axis}.weight": torch.zeros(extent, WIDTH) for axis, extent in enumerate(LAYOUT.grid)}
    zeros.load_state_dict(state | tables)
    for cache in (True, False):
        drawn = without.generate(count=2, temperature=0, cache=cache).values
        assert torch.equal(drawn, zeros.generate(count=2, temperature=0, cache=cache).values)


def test_without_position_embeddings_something_else_tells_positions_apart() -> None:
    with pytest.raises(ValueError, match="leaves it to rotation"):
        TransformerSettings.model_validate({"width": WIDTH, "heads": 2, "positions": "none", "rotary": False})
    backbone = TransformerSettings.model_validate({"layers": 1, "width": WIDTH, "heads": 2, "positions": "none"}).build(LAYOUT, None)
    with pytest.raises(ValueError, match="or positions: axes"):
        Generator(LAYOUT, MaskedOrder(Masked()), backbone, SoftmaxHead(WIDTH, LAYOUT))
