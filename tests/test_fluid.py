"""Fluid's four corners as overrides of one recipe, and MAR's recipes: what differs between them, and what may not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jielong.config.recipe import load
from jielong.config.registry import RecipeError
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.diffusion import DiffusionHead
from jielong.heads.softmax import SoftmaxHead
from jielong.orders.masked import MaskedOrder
from jielong.orders.raster import RasterOrder
from jielong.system import build_generator

CODES, NUMBERS = Layout((4, 4), vocabulary=32), Layout((4, 4), channels=6)
DISCRETE = ("tokenizer.checkpoint=vq-emoji", "head=softmax")
CORNERS = {
    ("random", "continuous"): (),
    ("raster", "continuous"): ("order=raster",),
    ("random", "discrete"): DISCRETE,
    ("raster", "discrete"): ("order=raster", *DISCRETE),
}


class Stub(nn.Module):
    """A tokenizer of which only the layout is asked."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout


def corner(order: str, kind: str) -> Generator:
    torch.manual_seed(0)
    recipe = load("fluid-tiny", CORNERS[order, kind])
    return build_generator(recipe, Stub(CODES if kind == "discrete" else NUMBERS), []).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("order", "kind"), list(CORNERS))
def test_every_corner_learns_and_draws(order: str, kind: str) -> None:
    model = corner(order, kind)
    assert isinstance(model.order, RasterOrder if order == "raster" else MaskedOrder)
    assert isinstance(model.head, SoftmaxHead if kind == "discrete" else DiffusionHead)
    layout = model.layout
    values = torch.randint(32, (2, 16, 1)) if kind == "discrete" else torch.randn(2, 16, 6)
    assert model.condition is not None
    model.train()
    loss = model.loss(Tokens(values, layout), model.condition.prepare(["a cat", "a dog"]))
    loss.backward()
    assert torch.isfinite(loss)
    steps = 3 if order == "masked" else None  # raster draws each position in one step
    drawn = model.eval().generate(["a cat", "a dog"], steps=steps, guidance=2.0)
    assert drawn.layout == layout
    assert torch.isfinite(drawn.values.float()).all()


def test_the_trunk_is_the_same_in_all_corners() -> None:
    """Fluid's check: order and tokens alone differ, so the backbone has as many parameters, and the same ones at the start."""
    trunks = [corner(*key).backbone.state_dict() for key in CORNERS]
    shapes = [{name: tuple(value.shape) for name, value in trunk.items()} for trunk in trunks]
    assert all(each == shapes[0] for each in shapes)


def test_the_raster_corner_is_causal_over_continuous_tokens() -> None:
    model, values = corner("raster", "continuous"), torch.randn(1, 16, 6)
    taken: list[torch.Tensor] = []
    model.backbone.register_forward_hook(lambda module, arguments, result: taken.append(result))
    assert model.condition is not None
    conditioning = model.condition.prepare(["a cat"])
    with torch.no_grad():
        model.loss(Tokens(values, NUMBERS), conditioning)
        for changed in range(16):
            other = values.clone()
            other[:, changed:] += 1
            model.loss(Tokens(other, NUMBERS), conditioning)
            assert torch.equal(taken[-1][:, : changed + 1], taken[0][:, : changed + 1])


@pytest.mark.parametrize("name", ["mar", "mar-flow", "mar-mean-flow", "mar-shortcut"])
def test_recipes_draw_with_every_speed_option_that_fits(name: str) -> None:
    wanted = ["sampling.schedule=square", "sampling.lazy.refresh=2", "sampling.detail_steps=2"]
    recipe = load(f"{name}-tiny", wanted)
    assert sum(getattr(recipe.sampling, option) is not None for option in ("schedule", "lazy", "detail_steps")) == len(wanted)
    plain = load(f"{name}-tiny").sampling
    assert (plain.schedule, plain.lazy, plain.detail_steps) == (None, None, None), "off by default"
    torch.manual_seed(0)
    model = build_generator(recipe, Stub(NUMBERS), []).eval()  # type: ignore[arg-type]
    drawn = model.generate(["a cat", "a dog"], sampling=recipe.sampling.override(steps=6, guidance=2.0))
    assert torch.isfinite(drawn.values).all()
    assert not torch.equal(drawn.values[0], drawn.values[1])


@pytest.mark.parametrize("option", ["sampling.lazy.refresh=2", "sampling.detail_steps=2"])
@pytest.mark.parametrize("name", ["nextstep1-tiny", "maskgit-tiny"])
def test_options_that_do_not_fit_the_order_are_refused_before_training(name: str, option: str) -> None:
    with pytest.raises(RecipeError, match=r"needs an order that chooses positions before it draws: order: \{masked: \{choose: random\}\}"):
        load(name, [option])
