"""Recipes that are bombs, lead to themselves, or are of another encoding: refused at once, with the line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jielong.config.recipe import MAX_CHAIN, RecipeError, load, parse
from jielong.config.yaml_text import MAX_DEPTH, MAX_NODES, MAX_STRING, MAX_TEXT, read_mapping
from jielong.system import load as load_system
from jielong.system import zoo
from jielong.training.checkpoint import CheckpointError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "its aliases make over"),
        ("a: &a [*a]\n", "lead to themselves"),
        ("a: &a {b: *a}\n", "lead to themselves"),
        ("a: &a {b: 1}\nc: {<<: *a, <<: *a}\n", "given twice"),
        ("a: " + "[" * 100_000, f"line 1: this is nested over {MAX_DEPTH} levels"),
        ("a: " + "{b: " * (MAX_DEPTH + 1), "line 1: this is nested over"),
        ("a: [" + "1, " * MAX_NODES + "1]", f"at most {MAX_NODES:,} keys and values"),
        ("a: 1\n" * (MAX_TEXT // 4), "characters, and a recipe has at most"),
        ("a: !!python/object/apply:os.system [true]", "line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not read"),
        ("a: !x 1", "line 1: the tag '!x' is not read"),
        ("train:\n  lr: .nan\n", "line 2: train.lr: nan is no number"),
        ("train:\n  lr: 1e999\n", "line 2: train.lr: inf is no number"),
        ("train:\n  samples: 99999999999999999999\n", "line 2: train.samples: 99999999999999999999 is no number below"),
        ("a: " + "9" * 5000, "is not YAML: Exceeds the limit"),
        ("a: 2001-99-99", "is not YAML: month must be in"),
        ("a: " + "x" * (MAX_STRING + 1), f"has over {MAX_STRING:,} characters"),
        ("a: 1\nb: 2\na: 3\n", r"line 3: the key 'a' is given twice \(first: f.yaml, line 1\)"),
        ("? [1, 2]\n: 3\n", "line 1: a key is a word or a whole number"),
        ("null: 3\n", "line 1: a key is a word or a whole number"),
        ("a: [1\n---\nb: 2\n", "f.yaml is not YAML: line 2: "),
        ("a: \x00", "f.yaml is not YAML: unacceptable character #x0000"),
        ("- 1\n", "f.yaml must be a mapping"),
        ("", "f.yaml must be a mapping"),
    ],
)
def test_what_no_recipe_is(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        read_mapping(text, "f.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_anchors_within_the_bounds_are_read() -> None:
    text = "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n"
    assert read_mapping(text, "f")[0] == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_long_values_and_names_are_cut_in_the_sentence() -> None:
    for text in ("zzz" * 1000 + ": 1", "head: " + "z" * 5000, "head: {" + "y" * 5000 + ": {}}", "order: [" + "1, " * 500 + "]"):
        with pytest.raises(RecipeError) as caught:
            parse(f"extends: maskgit-tiny\n{text}\n")
        assert all(len(line) < 1000 for line in str(caught.value).splitlines()), str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("extends: maskgit-tiny  # 接龙\n".encode(encoding))
    assert load(str(tmp_path / "a.yaml")) == load("maskgit-tiny")


@pytest.mark.parametrize(("data", "says"), [("# \xe9\n".encode("latin-1"), "UTF-8"), ("a: 1".encode("utf-16-le"), "UTF-16")])
def test_other_encodings_are_named(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(RecipeError, match=rf"a\.yaml.*{says}"):
        load(str(tmp_path / "a.yaml"))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.yaml", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RecipeError, match="1,099,511,627,776 bytes, which no recipe has"):
        load(str(tmp_path / "a.yaml"))


def test_recipes_that_lead_to_themselves_by_other_paths(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yaml").write_text("extends: sub/../b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: sub/../a.yaml\n")
    with pytest.raises(RecipeError, match="in a circle"):
        load(str(tmp_path / "a.yaml"))
    for number in range(MAX_CHAIN + 2):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    (tmp_path / f"{MAX_CHAIN + 2}.yaml").write_text("extends: maskgit-tiny\n")
    with pytest.raises(RecipeError, match=f"over {MAX_CHAIN} recipes extend each other"):
        load(str(tmp_path / "0.yaml"))


def test_a_checkpoint_whose_tokenizer_is_itself(tmp_path: Path) -> None:
    folder = shutil.copytree(zoo()["maskgit-emoji"], tmp_path / "model")
    text = (folder / "recipe.yaml").read_text()
    assert "checkpoint: vq-emoji" in text
    (folder / "recipe.yaml").write_text(text.replace("checkpoint: vq-emoji", f"checkpoint: {folder}"))
    with pytest.raises(CheckpointError, match=r"recipe\.yaml leads to itself: .* -> "):
        load_system(str(folder), "cpu")
    shutil.copytree(folder, folder / "stages" / "tokenizer")
    with pytest.raises(CheckpointError, match=r"leads to itself"):
        load_system(str(folder), "cpu")
