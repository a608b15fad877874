"""A condition as the chain's start: in place of the placeholder, added to it, and as the last state of a prefix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jielong.backbones.transformer import Transformer
from jielong.conditions.classes import ClassCondition
from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.softmax import SoftmaxHead
from jielong.networks import transformer as network
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.eligibility import fused_inference
from jielong.networks.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from jielong.orders.base import Order
from jielong.orders.masked import Masked, MaskedOrder
from jielong.orders.masked_next import MaskedNextOrder
from jielong.orders.raster import RasterOrder

GRID = torch.cartesian_prod(torch.arange(2), torch.arange(4))
N, WIDTH, STATES, B = len(GRID), 16, 6, 2
RASTER = torch.arange(N)
PATHS = ("prefix", "cross", "adaln", "pooled")


def shaken(module: nn.Module) -> None:
    """Move all weights away from their start, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


def make(path: str, start: str, states: int = STATES) -> network.Transformer:
    config = Transformer.model_validate({"layers": 2, "width": WIDTH, "heads": 2, "condition": path, "start": start})
    net = config.build(Layout((2, 4), vocabulary=7), states).eval()
    shaken(net)
    return net


def inputs() -> Tensor:
    return torch.randn(B, N, WIDTH, generator=torch.Generator().manual_seed(2))


def condition(states: int = STATES, causal: bool = False) -> Conditioning:
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[True, True, True], [False, True, True]])
    each = torch.randn(B, 3, states, generator=generator)
    return Conditioning(each, mask, torch.randn(B, states, generator=generator), causal=causal)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("start", ["condition", "sum"])
@pytest.mark.parametrize("path", PATHS)
def test_cached_equals_uncached(path: str, start: str, causal: bool, fused: bool) -> None:
    net, given, x = make(path, start), condition(causal=causal), inputs()
    whole = net(BackboneInputs(x, GRID, RASTER, given))
    cache = net.new_cache(B, N, 3)
    with fused_inference(fused):
        first = net(BackboneInputs(x[:, :3], GRID[:3], RASTER[:3], given), cache)
        later = [net(BackboneInputs(x[:, [at]], GRID[[at]], RASTER[[at]]), cache) for at in range(3, N)]
    torch.testing.assert_close(torch.cat([first, *later], 1), whole, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("path", ["cross", "adaln", "pooled"])
def test_a_pooled_vector_of_the_width_of_a_position_is_the_start_as_it_is(path: str) -> None:
    """The definition: the vector added to the first input of the same network without a start."""
    net, given, x = make(path, "sum", WIDTH), condition(WIDTH), inputs()
    assert not [name for name, _ in net.named_parameters() if "start" in name]
    moved = torch.cat([x[:, :1] + given.pooled[:, None], x[:, 1:]], 1)
    plain = network.Transformer(net_config(path), axes=2, condition_width=None if path == "pooled" else WIDTH).eval()
    plain.load_state_dict(net.state_dict())
    expected = plain(BackboneInputs(moved, GRID, RASTER, None if path == "pooled" else given))
    torch.testing.assert_close(net(BackboneInputs(x, GRID, RASTER, given)), expected)


def net_config(path: str) -> network.TransformerConfig:
    return network.TransformerConfig.model_validate({"layers": 2, "width": WIDTH, "heads": 2, "condition": path})


def test_a_pooled_vector_of_another_width_has_a_map() -> None:
    net, given, x = make("pooled", "condition"), condition(), inputs()
    assert isinstance(net.start_map, nn.Linear)
    moved = torch.cat([x[:, :1] + net.start_map(given.pooled)[:, None], x[:, 1:]], 1)
    plain = network.Transformer(net_config("pooled"), axes=2).eval()
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if not name.startswith("start_map")})
    torch.testing.assert_close(net(BackboneInputs(x, GRID, RASTER, given)), plain(BackboneInputs(moved, GRID, RASTER)))


def test_a_prefix_that_ends_at_the_start_is_one_causal_chain() -> None:
    """All states and all tokens but the last input as one sequence, without rotation so that places do not matter."""
    config = Transformer.model_validate({"layers": 2, "width": WIDTH, "heads": 2, "start": "condition", "rotary": False})
    net = config.build(Layout((2, 4), vocabulary=7), STATES).eval()
    shaken(net)
    given, x = condition(causal=True), inputs()
    x[:, 0] = 0
    for item, first in ((0, 0), (1, 1)):  # the second has a state of padding before it
        assert net.prefix is not None
        states = net.prefix(given)[item : item + 1, first:]
        chain = torch.cat([states, x[item : item + 1, 1:]], 1)
        n = chain.shape[1]
        plain = network.Transformer(net_config("prefix").model_copy(update={"rotary": False}), axes=2).eval()
        plain.load_state_dict({name: value for name, value in net.state_dict().items() if not name.startswith("prefix")})
        expected = plain(BackboneInputs(chain, torch.zeros(n, 2, dtype=torch.long), torch.arange(n)))[:, -N:]
        torch.testing.assert_close(net(BackboneInputs(x, GRID, RASTER, given))[item : item + 1], expected, rtol=1e-4, atol=1e-5)


def test_padding_cannot_be_the_start() -> None:
    given = condition()
    right = Conditioning(given.states, given.mask.flip(1), given.pooled)
    with pytest.raises(ValueError, match="pad on the left"):
        make("prefix", "condition")(BackboneInputs(inputs(), GRID, RASTER, right))


def generator(start: str, order: Order | None = None, path: str = "pooled") -> Generator:
    layout = Layout((2, 4), vocabulary=7)
    torch.manual_seed(0)
    model = Generator(
        layout, order or RasterOrder(), make(path, start, WIDTH), SoftmaxHead(WIDTH, layout), ClassCondition("abc", WIDTH, 0.5)
    )
    shaken(model)
    return model.eval()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("start", ["condition", "sum"])
def test_the_loop_with_guidance_draws_what_the_naive_reference_draws(start: str, path: str) -> None:
    model = generator(start, path=path)
    drawn = [
        model.generate(["a", "c"], guidance=2.5, temperature=temperature, cache=cache) for temperature in (0, 1) for cache in (True, False)
    ]
    assert torch.equal(drawn[0].values, drawn[1].values)
    assert torch.equal(drawn[2].values, drawn[3].values)
    assert not torch.equal(drawn[2].values[0], drawn[2].values[1])


def test_in_place_of_the_placeholder_there_is_none() -> None:
    assert "placeholder" not in generator("condition").state_dict()
    assert "placeholder" in generator("sum").state_dict()
    tokens = Tokens(torch.zeros(2, 8, 1, dtype=torch.long), Layout((2, 4), vocabulary=7))
    model = generator("condition").train()
    model.loss(tokens, torch.tensor([0, 2])).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("order", [MaskedOrder(Masked()), MaskedNextOrder()])
def test_an_order_without_a_start_is_refused(order: Order) -> None:
    with pytest.raises(ValueError, match="puts the condition at the first position"):
        generator("condition", order)


def test_pooled_alone_needs_a_place() -> None:
    with pytest.raises(ValueError, match="set start: condition"):
        make("pooled", "placeholder")
    with pytest.raises(ValueError, match="set buffer"):
        MaskedAutoencoder(MaskedAutoencoderConfig(width=WIDTH, heads=2, buffer=0, condition="pooled"), extents=(2, 4), condition_width=4)


def test_mar_adds_a_pooled_vector_to_its_buffer_alone() -> None:
    net = MaskedAutoencoder(
        MaskedAutoencoderConfig(width=WIDTH, heads=2, buffer=3, condition="pooled"), extents=(2, 4), condition_width=STATES
    )
    shaken(net.eval())
    assert net.prefix is None
    given, x, known, one = condition(), inputs(), torch.rand(B, N) < 0.5, torch.zeros(N, dtype=torch.long)
    hidden = net(BackboneInputs(x, GRID, one, given, known))
    blank = MaskedAutoencoder(MaskedAutoencoderConfig(width=WIDTH, heads=2, buffer=3), extents=(2, 4)).eval()
    for item in range(B):
        weights = {name: value for name, value in net.state_dict().items() if not name.startswith("pooled")}
        assert net.pooled is not None
        weights["buffer_places"] = weights["buffer_places"] + net.pooled(given.pooled[item])
        blank.load_state_dict(weights)
        expected = blank(BackboneInputs(x[item : item + 1], GRID, one, known=known[item : item + 1]))
        torch.testing.assert_close(hidden[item : item + 1], expected, rtol=1e-4, atol=1e-5)


def test_a_recipe_without_a_condition_cannot_start_with_it() -> None:
    recipe = {
        "tokenizer": {"pixels": {}}, "order": "raster", "backbone": {"transformer": {"start": "condition"}}, "head": "softmax",
        "train": {"samples": 1},
    }  # fmt: skip
    with pytest.raises((ValueError, RecipeError), match="there is none"):
        Recipe.model_validate(recipe)
