"""New words: their rows alone are trained, other texts read as before, and a checkpoint can hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from subjects import checkpoint, pictures

from jielong.conditions.composite import Composite
from jielong.conditions.length import Length
from jielong.conditions.text import Text
from jielong.conditions.words import WordVectors, words_of
from jielong.config.registry import RecipeError
from jielong.system import load
from jielong.system.adapters import find_adapter, read_adapter
from jielong.system.merging import merge
from jielong.training.checkpoint import CheckpointError
from jielong.training.experiment import prepare, run
from jielong.training.personalise import Personalisation, plan

WANTED = Personalisation("@me", method="textual-inversion", vectors=2, samples=24, batch=4, noun="cat")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("base"))
    return pictures(Path("me"))


def test_a_word_stands_by_itself():
    words = WordVectors({"@me": 2, "@me_too": 1}, 4)
    assert words.pieces("a picture of @me, smiling") == ["a picture of ", "@me", ", smiling"]
    assert words.pieces("@me_too and @me") == ["@me_too", " and ", "@me"]
    assert not words.within("me, @meadow or x@me")
    assert (words.rows("@me"), words.rows("@me_too"), tuple(words.table().shape)) == (range(2), range(2, 3), (3, 4))


@pytest.mark.parametrize("encoder", ["minilm", "bytes"])
def test_a_word_that_begins_as_another_reads_as_it(encoder):
    """Vectors equal to those of ``cat`` give the states of a text with ``cat``; gradients reach the new rows alone."""
    condition = Text(encoder=encoder, width=16, cfg_dropout=0).build()
    found = words_of(condition)
    assert found is not None
    parameter = found[0].add_word("@me", found[0].vectors_of("cat", 1 if encoder == "minilm" else 3))
    for text, same in (("a picture of @me", "a picture of cat"), ("@me", "cat")):
        new, old = condition(condition.prepare([text])), condition(condition.prepare([same]))
        torch.testing.assert_close(new.states, old.states, rtol=0, atol=2e-3 if encoder == "minilm" else 0)  # cached ones are in half
    texts = ["a dog", "a picture of @me, smiling", "@me"]
    together = condition(condition.prepare(texts))
    for row, text in enumerate(texts):
        alone = condition(condition.prepare([text]))
        length = alone.states.shape[1]
        torch.testing.assert_close(together.states[row, :length], alone.states[0], rtol=0, atol=1e-4)
        assert together.mask[row].sum() == length
    before = condition(condition.prepare(["a dog"])).states.detach().clone()
    together.pooled.square().sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.abs().sum() > 0
    if encoder == "minilm":
        assert {name for name, each in condition.named_parameters() if each.grad is not None} == {"word_embeddings.@me"}
    with torch.no_grad():
        parameter += 1
    assert torch.equal(condition(condition.prepare(["a dog"])).states, before)
    with pytest.raises(ValueError, match="'@me' is a word of this model already"):
        found[0].add_word("@me", parameter)
    with pytest.raises(ValueError, match=r"has vectors \(n, "):
        found[0].add_word("@you", torch.zeros(1, 3))


def test_training_changes_the_new_rows_alone_and_resumes(place):
    recipe = plan("base", place, Path("adapters/@me"), WANTED)
    run(recipe, Path("adapters/@me"), device="cpu", progress=False)
    whole = read_adapter(find_adapter("@me"))
    assert whole.record.words == {"@me": 2}
    assert whole.tensors.keys() == {"word.@me", "word.@me.initial"}
    assert not torch.equal(whole.tensors["word.@me"], whole.tensors["word.@me.initial"])
    plain, personal = load("base", "cpu").generator, load("base", "cpu", adapters=["@me"]).generator
    assert plain is not None
    assert personal is not None
    state = personal.state_dict()
    assert state.keys() - plain.state_dict().keys() == {"condition.word_embeddings.@me"}
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    run(recipe, Path("parts"), device="cpu", progress=False, stop_after=8)
    run(recipe, Path("parts"), device="cpu", progress=False)
    parts = read_adapter(Path("parts/adapter.safetensors"))
    assert all(torch.equal(value, whole.tensors[name]) for name, value in parts.tensors.items())
    raw = prepare(recipe)
    assert [name for name, each in raw.model.named_parameters() if each.requires_grad] == ["condition.word_embeddings.@me"]


def test_both_are_merged_into_a_checkpoint_that_knows_the_word(place):
    recipe = plan("base", place, Path("adapters/@me"), replace(WANTED, method="both"))
    run(recipe, Path("adapters/@me"), device="cpu", progress=False)
    merge("base", ["@me:0.5"], Path("merged"))
    merged, applied = load("merged", "cpu"), load("base", "cpu", adapters=["@me:0.5"])
    assert merged.generator is not None
    assert applied.generator is not None
    other = applied.generator.state_dict()
    assert merged.generator.state_dict().keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in merged.generator.state_dict().items())
    assert torch.equal(merged.generate("@me", seed=1).tensor, applied.generate("@me", seed=1).tensor)
    tensors = read_adapter(find_adapter("@me")).tensors
    half = (tensors["word.@me"] + tensors["word.@me.initial"]) / 2
    torch.testing.assert_close(other["condition.word_embeddings.@me"], half)
    assert "condition.word_embeddings.@me" not in load("base", "cpu", adapters=["@me:0"]).generator.state_dict()
    with pytest.raises(CheckpointError, match="both define the word @me: apply one of them"):
        load("base", "cpu", adapters=["@me", "@me"])
    with pytest.raises(RecipeError, match="'@me' is a word of this model already: choose another name"):
        prepare(plan("merged", place, Path("again"), WANTED))


def test_settings_hold_words():
    text = Text(encoder="bytes")
    assert text.with_words({"@me": 2}).words == {"@me": 2}
    both = Composite(parts=(text, Length())).with_words({"@me": 1})
    found = words_of(both.build())
    assert found is not None
    assert list(found[0].word_embeddings) == ["@me"]
    with pytest.raises(ValueError, match="'me' may be a word of any text"):
        Text(words={"me": 1})
    with pytest.raises(ValueError, match="method is lora, textual-inversion, both, not 'words'"):
        Personalisation("@me", method="words")  # type: ignore[arg-type]
