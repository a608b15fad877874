"""The section `adapter` of a recipe: what contradicts itself is refused when the recipe is read, by its key."""

from __future__ import annotations

import pytest

from jielong.config.adapter import AdapterSettings, LoraSettings, check_name, names_in
from jielong.config.recipe import load, parse
from jielong.config.registry import RecipeError

RECIPE = """
data: {set: faces, size: 8}
tokenizer: {pixels: {levels: 4}}
condition: {text: {encoder: bytes}}
order: raster
backbone: {transformer: {layers: 1, width: 16, heads: 2}}
head: softmax
adapter: {name: "@me", lora: {rank: 4, alpha: 8}}
train: {samples: 8, init_from: maskgit-faces}
"""
TOKENIZER = """
data: {set: faces, size: 8}
tokenizer: {vq: {}}
losses: regression
adapter: {name: "@me", lora: {}}
train: {samples: 8, init_from: vq-faces}
"""


def test_it_is_read_and_written_again() -> None:
    recipe = parse(RECIPE)
    assert recipe.adapter == AdapterSettings(name="@me", lora=LoraSettings(rank=4, alpha=8))
    assert recipe.adapter.method == "lora"
    assert recipe.adapter.captions_of_subject() == ("a picture of @me",)
    assert parse(recipe.to_yaml()) == recipe
    assert "adapter" not in load("maskgit-tiny").to_yaml()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (RECIPE.replace(", init_from: maskgit-faces", ""), "adapter: it updates a trained model: set train.init_from"),
        (
            RECIPE.replace("text: {encoder: bytes}", "class: {}"),
            "adapter: pictures .* come with captions alone, and this model takes class",
        ),
        (RECIPE.replace(", lora: {rank: 4, alpha: 8}", ""), "an adapter trains nothing: add lora: {}, textual_inversion: {}, or both"),
        (RECIPE.replace('"@me"', "me"), "'me' may be a word of any text, .* write @me"),
        (RECIPE.replace("rank: 4", "rnak: 4"), "unknown key 'adapter.lora.rnak'; did you mean 'rank'"),
        (RECIPE.replace("rank: 4", "rank: 0"), "adapter.lora.rank"),
        (
            RECIPE.replace("condition: {text: {encoder: bytes}}\n", "").replace("lora: {rank: 4, alpha: 8}", "textual_inversion: {}"),
            "adapter.textual_inversion: this model reads no texts",
        ),
        (TOKENIZER, r"adapter: it updates a generator, and this recipe trains a tokenizer"),
    ],
)
def test_contradictions_are_refused(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(text)


def test_a_name_is_one_word_of_no_text() -> None:
    assert check_name("@me_2") == "@me_2"
    for name in ("me", "@", "@me you", "@" + "a" * 41, "@me.you"):
        with pytest.raises(ValueError, match="write @"):
            check_name(name)
    assert names_in("a picture of @me, smiling", "@me")
    assert not names_in("@meadow, x@me", "@me")
