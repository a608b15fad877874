"""Options of published transformers: normalised queries and keys, biases, activations, adaptive norms, positions, padding."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from jielong.backbones.transformer import Transformer
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.softmax import Softmax
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.eligibility import fused_inference
from jielong.networks.embedding import SlotEmbedding
from jielong.networks.layers import AttentionContext, FeedForward, SelfAttention
from jielong.networks.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from jielong.networks.resnet import ResnetEncoder, ResnetSizes
from jielong.networks.transformer import Transformer as Network
from jielong.orders.raster import RasterOrder
from jielong.training.optimizers import build_optimizer
from jielong.training.settings import TrainSettings

WIDTH, HEADS, HEAD, N, B = 16, 2, 8, 8, 2
COORDS = torch.cartesian_prod(torch.arange(2), torch.arange(4))


def shaken(module: nn.Module) -> None:
    """Move all weights away from their start, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


def rows(seed: int = 2, *shape: int) -> Tensor:
    return torch.randn(*(shape or (B * N, WIDTH)), generator=torch.Generator().manual_seed(seed))


def make(width: int = WIDTH, **options: object) -> Network:
    config = Transformer.model_validate({"layers": 2, "width": WIDTH, "heads": HEADS, "condition": "adaln", **options})
    net = config.build(Layout((2, 4), vocabulary=7), width).eval()
    shaken(net)
    return net


def test_queries_and_keys_of_length_one_give_scaled_cosines() -> None:
    layer = SelfAttention(WIDTH, HEADS, qk_norm="l2", bias=True, norm_eps=1e-5, key_bias=False)
    shaken(layer)
    assert layer.log_scale is not None
    layer.log_scale.data = torch.tensor([1.5, 9.0])  # the second is above the cap
    x = rows()
    q, k, v = F.linear(x, layer.qkv.weight).view(B, N, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
    assert layer.qv_bias is not None
    q, v = (each + bias.view(HEADS, 1, HEAD) for each, bias in zip((q, v), layer.qv_bias.chunk(2), strict=True))
    cosines = (q / q.norm(dim=-1, keepdim=True)) @ (k / k.norm(dim=-1, keepdim=True)).mT
    scale = torch.tensor([math.exp(1.5), 100.0]).view(HEADS, 1, 1)
    expected = ((cosines * scale).softmax(-1) @ v).transpose(1, 2).reshape(B * N, WIDTH)
    torch.testing.assert_close(layer(x, AttentionContext(B)), expected, atol=1e-5, rtol=1e-5)


def test_the_scale_begins_at_four_and_learns() -> None:
    layer = SelfAttention(WIDTH, HEADS, qk_norm="l2", bias=False, norm_eps=1e-5)
    assert layer.scale is not None
    torch.testing.assert_close(layer.scale, torch.full((HEADS,), 4.0))
    layer(rows(), AttentionContext(B)).square().sum().backward()
    assert layer.log_scale is not None
    assert layer.log_scale.grad is not None
    assert bool(layer.log_scale.grad.abs().min() > 0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"qk_norm": "l2", "bias": True, "key_bias": False},
        {"qk_norm": "l2", "rotary": False, "norm": "layer"},
        {"bias": True, "key_bias": False},
        {"activation": "gelu_erf"},
        {"adaln_shared": True, "norm": "layer"},
        {"adaln_shared": True, "adaln_hidden": False},
    ],
    ids=str,
)
def test_cached_passes_equal_the_whole(options: dict[str, object], fused: bool) -> None:
    net, x = make(**options), rows(3, B, N, WIDTH)
    given = Conditioning.single(rows(4, B, WIDTH))
    blocks = torch.tensor([0, 1, 1, 2, 2, 2, 3, 4])
    with torch.no_grad(), fused_inference(fused):
        whole = net(BackboneInputs(x, COORDS, blocks, given))
        cache, parts = net.new_cache(B, N), []
        for start, stop in ((0, 1), (1, 3), (3, 6), (6, 7), (7, 8)):
            own = given if start == 0 else None
            parts.append(net(BackboneInputs(x[:, start:stop], COORDS[start:stop], blocks[start:stop], own), cache))
    assert (type(cache.layers).__name__ == "FusedLayers") is fused
    assert whole.std() > 0.1
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)


def test_gelu_is_exact_or_by_tanh() -> None:
    x = rows()
    for activation, approximate in (("gelu_erf", "none"), ("gelu", "tanh")):
        layer = FeedForward(WIDTH, 4 * WIDTH, activation, True)
        assert torch.equal(layer(x), F.gelu(layer.up(x), approximate=approximate))
    assert not torch.equal(F.gelu(x), F.gelu(x, approximate="tanh"))


def test_one_modulation_for_all_layers_equals_equal_ones_of_each() -> None:
    shared, own = make(adaln_shared=True), make()
    state = {name: value for name, value in shared.state_dict().items() if "modulation" not in name or name.startswith("last")}
    for layer in range(2):
        vector = shared.state_dict()[f"blocks.{layer}.modulation.vector"]
        state[f"blocks.{layer}.modulation.weight"] = shared.shared_modulation.weight
        state[f"blocks.{layer}.modulation.bias"] = shared.shared_modulation.bias + vector
    own.load_state_dict(state)
    inputs = BackboneInputs(rows(3, B, N, WIDTH), COORDS, torch.arange(N), Conditioning.single(rows(4, B, WIDTH)))
    torch.testing.assert_close(shared(inputs), own(inputs))


def test_a_condition_without_a_map_is_read_by_silu_alone() -> None:
    direct, mapped = make(adaln_hidden=False), make()
    state = direct.state_dict()
    mapped.load_state_dict(state | {"pooled.0.weight": torch.eye(WIDTH), "pooled.0.bias": torch.zeros(WIDTH)})
    inputs = BackboneInputs(rows(3, B, N, WIDTH), COORDS, torch.arange(N), Conditioning.single(rows(4, B, WIDTH)))
    torch.testing.assert_close(direct(inputs), mapped(inputs))
    with pytest.raises(ValueError, match="reads a condition of 16 channels, and this one has 6: set its width"):
        make(width=6, adaln_hidden=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": "cross", "qk_norm": "l2"}, "l2 is of self-attention alone"),
        ({"condition": "prefix", "adaln_shared": True}, "are of condition: adaln"),
        ({"key_bias": False}, "there is none: set bias: true"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Transformer.model_validate(options)


def test_slots_are_a_vector_each_and_one_a_scale() -> None:
    layout = Layout((2, 3), vocabulary=7, scales=((1, 1), (1, 2), (2, 3)))
    table = SlotEmbedding(layout.extents, WIDTH, layout.positions)
    assert table.scales is not None
    scale = torch.tensor([0, 1, 1, 2, 2, 2, 2, 2, 2])
    assert torch.equal(table(layout.coordinates()), table.slots.weight + table.scales.weight[scale])
    grid = Layout((2, 3), vocabulary=7)
    assert torch.equal((plain := SlotEmbedding(grid.extents, WIDTH))(grid.coordinates()), plain.slots.weight)
    assert torch.equal(plain(grid.coordinates()[[4, 1]]), plain.slots.weight[[4, 1]])


def test_a_generator_takes_free_positions() -> None:
    layout = Layout((2, 4), vocabulary=7)
    config = Transformer.model_validate({"layers": 1, "width": WIDTH, "heads": HEADS, "positions": "slots"})
    model = Generator(layout, RasterOrder(), config.build(layout, None), Softmax().build(WIDTH, layout))
    assert isinstance(model.position_embeddings, SlotEmbedding)
    shaken(model)
    model.loss(Tokens(torch.zeros(B, 8, 1, dtype=torch.long), layout)).backward()
    assert model.position_embeddings.slots.weight.grad is not None
    assert bool((model.position_embeddings.slots.weight.grad.abs().sum(1) > 0).all())


def test_mar_takes_free_positions_of_the_same_values() -> None:
    sizes = {"width": WIDTH, "heads": HEADS, "encoder_layers": 1, "decoder_layers": 1, "buffer": 2}
    axes, slots = (
        MaskedAutoencoder(MaskedAutoencoderConfig.model_validate({**sizes, "positions": kind}), extents=(2, 4)).eval()
        for kind in ("axes", "slots")
    )
    shaken(axes)
    state = {name: value for name, value in axes.state_dict().items() if "_places." not in name}
    for place in ("decoder_places", "head_places"):
        state[f"{place}.slots.weight"] = getattr(axes, place)(COORDS)
    slots.load_state_dict(state)
    known = torch.arange(N).expand(B, N) % 3 == 0
    inputs = BackboneInputs(rows(3, B, N, WIDTH), COORDS, torch.zeros(N, dtype=torch.long), None, known)
    torch.testing.assert_close(slots(inputs), axes(inputs))


def test_logits_with_a_bias() -> None:
    layout = Layout((2, 4), channels=2, vocabulary=7)
    head = Softmax(bias=True).build(WIDTH, layout)
    shaken(head)
    hidden, targets = rows(), torch.randint(8, (B * N, 2), generator=torch.Generator().manual_seed(0))
    expected = F.linear(hidden, head.logits.weight, head.logits.bias).unflatten(-1, (2, 7))
    assert torch.equal(head.scores(hidden), expected)
    # Where some codebooks have no code (7), only the logits of the others are computed.
    each = F.cross_entropy(expected.flatten(0, 1), targets.flatten(), ignore_index=7, reduction="none").view(-1, 2)
    torch.testing.assert_close(head.loss(hidden, targets), each.sum(1) / (targets != 7).sum(1).clamp_min(1))


def test_a_wider_projection_with_zeros_around_is_the_narrow_one() -> None:
    narrow, wide = (ResnetEncoder(3, 4, ResnetSizes((8, 8), 1, 4, projection=kernel)) for kernel in (1, 3))
    state = narrow.state_dict()
    state["projection.weight"] = F.pad(state["projection.weight"], (1, 1, 1, 1))
    wide.load_state_dict(state)
    picture = rows(0, 1, 3, 8, 8)
    torch.testing.assert_close(wide(picture), narrow(picture))


def test_black_around_is_the_zero_of_pictures_from_0_to_1() -> None:
    sizes = ResnetSizes((8, 8), 1, 4, projection=1)
    ours, theirs = ResnetEncoder(3, 4, sizes, padding=-1.0), ResnetEncoder(3, 4, sizes)
    state = theirs.state_dict()
    weight = state["layers.0.weight"]
    ours.load_state_dict(state | {"layers.0.weight": weight / 2, "layers.0.bias": state["layers.0.bias"] + weight.sum((1, 2, 3)) / 2})
    picture = rows(0, 1, 3, 8, 8).clamp(-1, 1)
    torch.testing.assert_close(ours(picture), theirs((picture + 1) / 2), atol=1e-5, rtol=1e-4)


def test_biases_of_queries_and_values_do_not_decay() -> None:
    layer = SelfAttention(WIDTH, HEADS, qk_norm="l2", bias=True, norm_eps=1e-5, key_bias=False)
    optimizer = build_optimizer(layer, TrainSettings(samples=8, batch=8, weight_decay=0.1))
    decayed = [parameter for group in optimizer.param_groups if group["weight_decay"] for parameter in group["params"]]
    assert {id(parameter) for parameter in decayed} == {id(layer.qkv.weight), id(layer.out.weight)}
