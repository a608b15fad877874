"""The order at_once in a generator: with and without a backbone, on sound and on pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jielong.backbones.none import NoBackbone
from jielong.backbones.transformer import Transformer
from jielong.completion import kept
from jielong.conditions.classes import ClassCondition
from jielong.generator import Generator
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.softmax import Softmax
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT
from jielong.orders.at_once import AtOnce
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster
from jielong.tokens import Layout, Tokens

SOUND, PICTURE = Layout((7,), channels=3), Layout((3, 4), channels=2)
JOINT = FlowMatching(network=DiT(layers=1, width=16, heads=2), steps=3, draws_per_token=2)
BACKBONES = {"none": NoBackbone(width=16), "transformer": Transformer(layers=1, width=16, heads=2, condition="cross")}
EACH = pytest.mark.parametrize("layout", [SOUND, PICTURE], ids=["sound", "picture"])
WITH = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)


def built(layout: Layout, backbone: Any, head: Any = JOINT, classes: bool = False, order: Any = AtOnce()) -> Generator:
    torch.manual_seed(0)
    condition = ClassCondition(["cat", "dog"], 8, 0.1) if classes else None
    body = backbone.build(layout, 8 if classes else None)
    built_order = order.build()
    made = Generator(layout, built_order, body, head.build(16, layout), condition, built_order.embedding(None, 16))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def tokens(layout: Layout, count: int = 4) -> Tokens:
    return Tokens(torch.randn(count, layout.positions, layout.channels, generator=torch.Generator().manual_seed(1)), layout)


@EACH
@WITH
def test_everything_learns(layout: Layout, backbone: Any) -> None:
    model = built(layout, backbone, classes=True)
    loss = model.loss(tokens(layout), model.condition.prepare(["cat", "dog", "dog", "cat"]))  # type: ignore[union-attr]
    loss.backward()
    assert loss.ndim == 0
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set()


@EACH
@WITH
def test_an_item_is_the_same_in_any_batch_and_without_a_cache(layout: Layout, backbone: Any) -> None:
    model = built(layout, backbone, classes=True)
    told = ["cat", "dog", "cat", "dog", "dog"]
    together = model.generate(told, guidance=2.0, seed=3).values
    torch.testing.assert_close(model.generate(told, guidance=2.0, seed=3, batch=2).values, together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.generate(told, guidance=2.0, seed=3, cache=False).values, together, rtol=1e-4, atol=1e-4)
    assert float((together[1] - together[3]).abs().min()) > 1e-5
    torch.testing.assert_close(model.generate(told, guidance=0.0, seed=3).values, model.generate(count=5, seed=3).values)


def test_all_is_drawn_in_one_step() -> None:
    seen: list[int] = []
    model = built(SOUND, BACKBONES["none"])
    model.generate(count=2, watch=lambda moment: seen.append(int(moment.new.sum())))
    assert seen == [2 * 7]


@WITH
def test_no_token_is_read(backbone: Any) -> None:
    """The hidden vectors are the same whatever the tokens are, so an untrained head's loss depends on the targets alone."""
    model = built(SOUND, backbone)
    first, second = tokens(SOUND).values, torch.zeros(4, 7, 3)
    known = torch.ones(4, 7, dtype=torch.bool)
    inputs = [model.inputs(values, known, 0, 7, model.places_at(model.course)) for values in (first, second)]
    assert torch.equal(*inputs)
    assert float((inputs[0][:, 1:] - inputs[0][:, :-1]).abs().min()) > 0


@pytest.mark.parametrize("layout", [Layout((3, 2), channels=1, vocabulary=5)])
def test_heads_of_single_tokens_draw_them_independently(layout: Layout) -> None:
    model = built(layout, BACKBONES["transformer"], Softmax())
    assert model.generate(count=3).values.shape == (3, 6, 1)
    model.loss(Tokens(torch.zeros(2, 6, 1, dtype=torch.long), layout)).backward()  # type: ignore[no-untyped-call]
    single = built(SOUND, BACKBONES["none"], FlowMatching(network=MLP(layers=1, width=8), steps=2))
    assert single.generate(count=3).values.shape == (3, 7, 3)


def test_a_block_of_one_token_may_be_joint_too() -> None:
    model = built(SOUND, BACKBONES["transformer"], order=Raster())
    model.loss(tokens(SOUND)).backward()  # type: ignore[no-untyped-call]
    assert model.generate(count=2).values.shape == (2, 7, 3)


@pytest.mark.parametrize(
    ("order", "backbone", "says"),
    [(Masked(), "transformer", "choose order: at_once"), (Raster(), "none", "needs order: at_once"), (Masked(), "none", "order: at_once")],
)
def test_what_cannot_be_is_refused(order: Any, backbone: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        built(SOUND, BACKBONES[backbone], order=order)


def test_what_is_kept_would_not_be_seen() -> None:
    with pytest.raises(ValueError, match="draws everything at once"):
        kept(PICTURE, AtOnce().build(), "upper")


def test_a_backbone_that_is_none_asks_for_what_it_was_built_for() -> None:
    model = built(SOUND, BACKBONES["none"], classes=True)
    with pytest.raises(ValueError, match="takes a condition"):
        model.backbone(torch.zeros(1, 7, 16), model.where, model.blocks)


@WITH
def test_clips_of_different_lengths_feel_neither_padding_nor_each_other(backbone: Any) -> None:
    model, lengths = built(SOUND, backbone, classes=True), torch.tensor([7, 3, 5, 3])
    told = ["cat", "dog", "dog", "cat"]
    behind = torch.arange(7) >= lengths[:, None]
    losses = []
    for filler in (0.0, float("nan")):
        torch.manual_seed(5)
        values = tokens(SOUND).values.masked_fill(behind[..., None], filler)
        losses.append(model.loss(Tokens(values, SOUND, lengths), model.condition.prepare(told)))  # type: ignore[union-attr]
    assert torch.equal(losses[0], losses[1])
    made = model.generate(told, guidance=2.0, seed=3, lengths=lengths.tolist())
    assert made.lengths is not None
    assert torch.equal(made.lengths, lengths)
    assert not made.values[behind].any()
    for row, length in enumerate(lengths.tolist()):
        alone = model.generate(told[: row + 1], guidance=2.0, seed=3, lengths=[length] * (row + 1)).values[row]
        torch.testing.assert_close(made.values[row], alone, rtol=1e-4, atol=1e-4)
