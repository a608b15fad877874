"""docs/recipes.md: its examples build and its tables are what building the parts finds."""

from __future__ import annotations

import re

import pytest
from command_lines import ROOT, blocks

from jielong.config.data import settings_kind
from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.config.schema import Trained
from jielong.system.build import build_generator
from jielong.system.checkpoint import build_tokenizer, load
from running_scripts import module_of

PAGE = ROOT / "docs" / "recipes.md"
EXAMPLES = blocks(PAGE, "yaml")
WRONG = {
    "unknown key 'train.learning_rate'": "train: {samples: 8, learning_rate: 1}\n",
    "there is no head called 'softmx'": "head: softmx\ntrain: {samples: 8}\n",
    "'train.samples' is missing": "train: {}\n",
    "a generator needs order, backbone and head together": "order: raster\ntrain: {samples: 8}\n",
    "a generator needs a trained tokenizer": "order: raster\nbackbone: transformer\nhead: softmax\ntrain: {samples: 8}\n",
    "a tokenizer takes no condition": "condition: class\ntrain: {samples: 8}\n",
}


def test_there_are_five_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_an_example_is_built(text: str) -> None:
    pytest.importorskip("jielong_zoo")
    recipe = parse(text, "recipes.md")
    if isinstance(recipe.tokenizer, Trained):
        media = load(recipe.tokenizer.checkpoint).tokenizer.media
    else:
        kind = settings_kind(recipe.data)
        media = kind.medium(recipe.data, 3)
    tokenizer = build_tokenizer(recipe, media)
    if recipe.trains_generator:
        assert build_generator(recipe, tokenizer, ["a", "b"]).layout == tokenizer.layout
    else:
        assert tokenizer.layout.positions > 1


@pytest.mark.parametrize("message", WRONG)
def test_a_message_of_the_page_is_that_of_the_program(message: str) -> None:
    assert f"`{message}`" in PAGE.read_text("utf-8")
    with pytest.raises(RecipeError) as refused:
        parse(f"tokenizer: vq\n{WRONG[message]}", "mine.yaml")
    assert message in str(refused.value)


def test_every_message_of_the_page_is_tried() -> None:
    rows = PAGE.read_text("utf-8").rpartition("| message |")[2]
    assert set(re.findall(r"^\| `([^`]+)` \|", rows, re.M)) == set(WRONG)


def test_the_tables_are_up_to_date() -> None:
    assert module_of(ROOT / "docs" / "make_recipes.py").page() == PAGE.read_text("utf-8")
