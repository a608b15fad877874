"""Texts padded on the left, read in order, with a table for no text: the layout of LlamaGen's captions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from jielong.backbones.transformer import Transformer
from jielong.conditions.base import Condition
from jielong.conditions.text import FrozenText, Text
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.softmax import SoftmaxHead
from jielong.orders.raster import RasterOrder
from tiny_t5 import t5_folder

TEXTS, LENGTH, WIDTH = ["cat", "a red cat"], 12, 8


def make(**settings: object) -> Condition:
    torch.manual_seed(0)
    return Text.model_validate({"encoder": "bytes", "length": LENGTH, "width": WIDTH, "cfg_dropout": 0.5} | settings).build()


def test_texts_end_at_the_last_state() -> None:
    right, left = make(), make(padding="left", causal=True)
    plain, given = (each(each.prepare(TEXTS)) for each in (right, left))
    assert (plain.causal, given.causal) == (False, True)
    assert given.states.shape == (2, LENGTH, WIDTH)
    for item, text in enumerate(TEXTS):
        assert given.mask[item].tolist() == [False] * (LENGTH - len(text)) + [True] * len(text)
        assert torch.equal(given.states[item, LENGTH - len(text) :], plain.states[item, : len(text)])
    assert torch.equal(given.pooled, plain.pooled)


def test_a_longer_text_is_cut_at_its_end() -> None:
    left = make(padding="left")
    long = left(left.prepare(["abcdefghijklmnop"]))
    assert torch.equal(long.states, left(left.prepare(["abcdefghijkl"])).states)


def test_a_dropped_text_is_a_table_where_the_text_was() -> None:
    condition = make(padding="left", null_condition="table")
    prepared = condition.prepare(TEXTS)
    assert condition.null.shape == (LENGTH, WIDTH)
    given, mixed = condition(prepared), condition(prepared, torch.tensor([False, True]))
    assert torch.equal(mixed.mask, given.mask)
    assert torch.equal(mixed.states[0], given.states[0])
    assert torch.equal(mixed.states[1], condition.null)
    assert torch.equal(mixed.pooled[1], condition.null.mean(0))
    none, against = condition.unconditional(3), condition.compared(TEXTS)
    assert torch.equal(none.states, condition.null.expand(3, -1, -1))
    assert bool(none.mask.all())
    assert torch.equal(against.states[0], condition.null)
    assert torch.equal(against.mask, given.mask)


def test_one_vector_for_no_text_keeps_the_order_of_reading() -> None:
    condition = make(causal=True)
    assert condition.unconditional(2).causal
    assert condition(condition.prepare(TEXTS), torch.tensor([True, True])).causal


def test_one_vector_stands_where_texts_end() -> None:
    condition = make(padding="left", causal=True)
    mixed = condition(condition.prepare(TEXTS), torch.tensor([False, True]))
    none = condition.unconditional(1)
    for given, item in ((mixed, 1), (none, 0)):
        assert given.mask[item].tolist() == [False] * (LENGTH - 1) + [True]
        assert torch.equal(given.states[item, -1], condition.null)
        assert torch.equal(given.pooled[item], condition.null)
    assert torch.equal(mixed.states[0], condition(condition.prepare(TEXTS)).states[0])


def test_a_table_needs_texts_of_one_length() -> None:
    with pytest.raises(ValidationError, match="set padding: left"):
        make(null_condition="table")


@pytest.mark.parametrize("null", ["vector", "table"])
def test_a_picture_after_a_text_in_one_chain(null: str) -> None:
    """The loop equals the naive reference with guidance, and training reaches the table."""
    layout, condition = Layout((2, 3), vocabulary=5), make(padding="left", causal=True, null_condition=null)
    settings = {"layers": 2, "width": 16, "heads": 2, "start": "condition", "rotary_at": "token"}
    backbone = Transformer.model_validate(settings).build(layout, condition.width)
    model = Generator(layout, RasterOrder(), backbone, SoftmaxHead(16, layout), condition).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    drawn = [model.generate(TEXTS, guidance=3, cache=cache).values for cache in (True, False)]
    assert torch.equal(*drawn)
    assert model.generate(None, 2).values.shape == (2, 6, 1)
    prepared = condition.prepare(TEXTS)
    condition.cfg_dropout = 1.0
    tokens = Tokens(torch.zeros(2, 6, 1, dtype=torch.long), layout)
    model.train().loss(tokens, prepared).backward()
    assert condition.null.grad is not None
    assert condition.null.grad.abs().sum() > 0


def test_the_states_of_t5_is_its_own_states(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = t5_folder(tmp_path, width=16)
    condition = Text.model_validate({"encoder": str(folder), "length": 6, "padding": "left"}).build()
    assert isinstance(condition, FrozenText)
    assert condition.width == 16
    given = condition(condition.prepare(["a cat", "a red cat"]))
    theirs = transformers.T5EncoderModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        padded = tokenizer(["a cat", "a red cat"], return_tensors="pt", padding=True)
        expected = theirs(**padded).last_hidden_state
    assert given.mask.sum(1).tolist() == [3, 4]
    for item, length in enumerate((3, 4)):
        torch.testing.assert_close(given.states[item, -length:], expected[item, :length], atol=2e-3, rtol=2e-3)  # kept in 16 bits
