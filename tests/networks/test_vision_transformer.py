"""Patches, positions and the trunk of the vision transformer, against PyTorch's own encoder and against what must not matter."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.transformer import TransformerConfig
from jielong.networks.vision_transformer import GridTransformer, ViTDecoder, ViTEncoder


def config(**changes: object) -> TransformerConfig:
    return TransformerConfig.model_validate({"width": 16, "layers": 2, "heads": 2} | changes)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def grown(module: nn.Module) -> nn.Module:
    """Weights large enough that attention is far from even, and everything matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize(("patch", "grid"), [(1, (3, 5)), (4, (2, 3)), (8, (1, 1))])
def test_pictures_become_a_grid_and_come_back(positions: str, patch: int, grid: tuple[int, int]) -> None:
    height, width = grid[0] * patch, grid[1] * patch
    features = ViTEncoder(3, grid, patch, 5, config(), positions)(torch.randn(2, 3, height, width))
    assert features.shape == (2, 5, *grid)
    assert ViTDecoder(5, grid, patch, 4, config(), positions)(features).shape == (2, 4, height, width)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_every_weight_learns_and_every_pixel_reaches_every_token(positions: str) -> None:
    encoder = grown(ViTEncoder(3, (3, 2), 2, 5, config(bias=True), positions))
    decoder = grown(ViTDecoder(5, (3, 2), 2, 3, config(bias=True), positions))
    picture = torch.randn(1, 3, 6, 4, requires_grad=True)
    features = encoder(picture)
    for row in range(3):
        for column in range(2):
            (reach,) = torch.autograd.grad(features[0, :, row, column].sum(), picture, retain_graph=True)
            assert bool((reach != 0).all())
    decoder(features).square().sum().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert decoder.last_layer is decoder.out.weight


def test_with_equal_places_the_order_of_patches_does_not_matter_and_with_places_it_does() -> None:
    features, order = torch.randn(2, 16, 3, 4), torch.randperm(12)
    shuffled = features.flatten(2)[..., order].unflatten(2, (3, 4))
    learned, rotary = (grown(GridTransformer((3, 4), config(), positions)) for positions in ("learned", "rotary"))
    for trunk in (learned, rotary):
        assert (trunk(shuffled) - trunk(features)[:, order]).abs().max() > 0.05
    learned.table.data.copy_(learned.table[:1].expand(12, 16).clone())
    torch.testing.assert_close(learned(shuffled), learned(features)[:, order], rtol=1e-4, atol=1e-5)


def test_rotary_places_are_relative() -> None:
    trunk = grown(GridTransformer((3, 4), config(), "rotary"))
    moved = copy.deepcopy(trunk)
    moved.coordinates += torch.tensor([5, 2])
    features = torch.randn(2, 16, 3, 4)
    torch.testing.assert_close(moved(features), trunk(features), rtol=1e-4, atol=1e-5)


def test_the_trunk_equals_pytorchs_encoder_on_the_same_weights() -> None:
    trunk = grown(GridTransformer((3, 4), config(norm="layer", activation="gelu", bias=True), "learned")).eval()
    layer = nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0.0, activation=partial(F.gelu, approximate="tanh"), norm_first=True, batch_first=True
    )
    theirs = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False).eval()
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "feed_forward.up.",
        "linear2.": "feed_forward.down.",
        "norm1.": "attention_norm.",
        "norm2.": "forward_norm.",
        "layers.": "blocks.",
    }
    state = {}
    for key in theirs.state_dict():
        our_key = key
        for their, our in names.items():
            our_key = our_key.replace(their, our)
        state[key] = trunk.transformer.state_dict()[our_key]
    theirs.load_state_dict(state)
    features = torch.randn(2, 16, 3, 4)
    torch.testing.assert_close(trunk(features), theirs(features.flatten(2).mT + trunk.table), rtol=1e-4, atol=1e-5)


def test_a_decoder_without_layers_between_is_a_linear_map_a_patch() -> None:
    """The picture's pixel (y, x) of channel c is row ``c p^2 + y p + x`` of the last map: what stands in a patch stays in it."""
    decoder = ViTDecoder(5, (2, 2), 3, 3, config(), "rotary")
    hidden: list[Tensor] = []
    decoder.body.register_forward_hook(lambda module, arguments, result: hidden.append(result))
    picture = decoder(torch.randn(1, 5, 2, 2))
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        patch = decoder.out(hidden[0][0, place]).view(3, 3, 3)
        torch.testing.assert_close(picture[0, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3], patch)


def test_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"made for a grid of \(2, 3\) positions, not \(3, 2\)"):
        ViTEncoder(3, (2, 3), 2, 5, config(), "rotary")(torch.randn(1, 3, 6, 4))
