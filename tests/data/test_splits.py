"""Splits by content: no content in both, the same again after renaming and adding files, also in joined, selected and deduplicated sets."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jielong.config.recipe import load
from jielong.data.duplicates import leak
from jielong.data.ledger import Cause
from jielong.data.opening import open_data, open_quietly, open_source
from jielong.data.source import DataError, Source
from jielong.data.splits import HELDOUT_SHARE, Split, fraction, in_both, other_splits, split_by_content
from jielong.training.experiment import prepare

quick = settings(max_examples=60, deadline=None, derandomize=True)
names = st.text("abcäß ._-1漢'\"", min_size=1, max_size=8).filter(lambda name: not name.startswith(".") and name == name.strip())
folders = st.dictionaries(names, st.integers(0, 40), min_size=1, max_size=30)
contents = st.lists(st.integers(0, 200).map(str), min_size=1, max_size=200)


def picture(value: int) -> bytes:
    return b"P5 2 2 255\n" + bytes([value] * 4)


def write(root: Path, files: dict[str, int]) -> Path:
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.pgm").write_bytes(picture(value))
    return root


def sides(source: Source) -> dict[str, set[Split]]:
    """The splits in which each content is."""
    found: dict[str, set[Split]] = {}
    for content, side in zip(source.content_hashes, source.splits, strict=True):
        found.setdefault(content, set()).add(side)
    return found


@quick
@given(contents, contents, st.randoms())
def test_a_split_depends_on_content_alone(first: list[str], more: list[str], random: Random) -> None:
    split = dict(zip(first, split_by_content(first), strict=True))
    assert split_by_content(first) == [split[content] for content in first]  # one side a content
    assert set(split.values()) == ({"train", "heldout"} if len(split) > 1 else {"train"})
    shuffled = random.sample(first, len(first))
    assert split_by_content(shuffled) == [split[content] for content in shuffled]
    after = dict(zip(first + more, split_by_content(first + more), strict=True))
    below = {content for content in split if fraction(content) < HELDOUT_SHARE}
    if 0 < len(below) < len(split):  # enough items that the share alone decides
        assert {content: after[content] for content in split} == split
    elif not below and len(split) > 1:  # the one that stands in may be relieved; none that was trained on is measured later
        assert all(after[content] == "train" for content, side in split.items() if side == "train")


def test_the_share_is_five_percent() -> None:
    split = Counter(split_by_content([str(number) for number in range(20_000)]))
    assert abs(split["heldout"] - 1000) < 5 * (20_000 * 0.05 * 0.95) ** 0.5


@quick
@given(folders, st.dictionaries(names, st.integers(0, 40), max_size=10), st.integers(0, 40))
def test_a_folder_is_split_the_same_again(files: dict[str, int], more: dict[str, int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = sides(open_source(str(write(Path(folder) / "first", files))))
        renamed = {f"{len(files) - place}-{seed}": value for place, value in enumerate(files.values())}
        assert sides(open_source(str(write(Path(folder) / "renamed", renamed)))) == first
        assert all(len(each) == 1 for each in first.values())
        assert len(set().union(*first.values())) == min(2, len(first))
        after = sides(open_source(str(write(Path(folder) / "first", {name: more[name] for name in more.keys() - files.keys()}))))
        assert all(len(each) == 1 for each in after.values())
        below = [content for content in first if fraction(content) < HELDOUT_SHARE]
        if 0 < len(below) < len(first):
            assert {content: after[content] for content in first} == first


@quick
@given(folders, folders, st.booleans(), st.sets(st.integers(0, 40)))
def test_joined_sets_have_no_content_in_both_splits(
    first: dict[str, int], second: dict[str, int], declared: bool, heldout: set[int]
) -> None:
    if declared:
        first = {f"{'test' if value in heldout else 'train'}/{name}": value for name, value in first.items()}
        assume(any(name.startswith("train/") for name in first))
    with tempfile.TemporaryDirectory() as folder:
        names = [str(write(Path(folder) / name, files)) for name, files in (("first", first), ("second", second))]
        joined = open_source(",".join(names))
        assert len(joined.items) == len(first) + len(second)
        assert all(len(each) == 1 for each in sides(joined).values())
        assert leak(joined) is None
        alone = open_source(names[0])
        if declared:
            assert joined.splits[: len(first)] == alone.splits
        elif len(sides(joined)) > 1:
            assert set(joined.splits) == {"train", "heldout"}


@quick
@given(folders, st.booleans())
def test_a_deduplicated_set_has_every_content_once(files: dict[str, int], declared: bool) -> None:
    if declared:
        files = {f"{'train' if value % 3 else 'test'}/{name}": value for name, value in files.items()}
        assume({name.partition("/")[0] for name in files} == {"train", "test"})
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder), files)
        whole, once = open_quietly(root), open_quietly(root, deduplicate=True)
        assert sorted(once.source.content_hashes) == sorted(set(whole.source.content_hashes))
        assert sides(once.source) == sides(whole.source)
        repeated = once.unused.reasons(Cause.REPEATED)
        assert set(once.keys) | set(repeated) == set(whole.keys)
        assert len(once) + len(repeated) == len(whole)
        for key, reason in repeated.items():
            kept = reason.removeprefix(f"{key} has the same content as ").removesuffix(", and data.deduplicate is set")
            assert kept in once.keys
            assert kept < key


def test_declared_splits_that_leak_stay_and_are_named_once(tmp_path: Path) -> None:
    write(tmp_path, {"train/a": 1, "train/b": 2, "test/c": 1, "test/d": 3})
    source = open_source(str(tmp_path))
    assert source.splits == ["heldout", "heldout", "train", "train"]
    assert in_both(source.content_hashes, source.splits) == [(0, 2)]
    recipe = load("maskgit-tiny", [f"data.set={tmp_path}", "condition=null"])
    with pytest.warns(UserWarning, match=r"1 of 2 held-out items have .* \(test/c.pgm = train/a.pgm\)") as warned:
        prepare(recipe)
    assert len([each for each in warned if "held-out" in str(each.message)]) == 1


def test_words_that_name_neither_split_are_named(tmp_path: Path) -> None:
    rows = zip("abcdef", ("train", "Dev", "TEST", "extra", "extra", ""), strict=True)
    (tmp_path / "metadata.csv").write_text("file_name,split\n" + "".join(f"{name}.pgm,{word}\n" for name, word in rows))
    write(tmp_path, {name: value for value, name in enumerate("abcdef")})
    source = open_source(str(tmp_path))
    assert source.splits == ["train", "heldout", "heldout", "train", "train", "train"]
    assert other_splits(item.split for item in source.items).startswith("items of the split 'extra' (2) are read as training items")
    with pytest.warns(UserWarning, match=r"'extra' \(2\) are read as training"):
        prepare(load("maskgit-tiny", [f"data.set={tmp_path}", "condition=null"]))
    assert other_splits(["train", "Training", None, "", "val"]) == ""


def test_equal_items_alone_hold_nothing_out(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys("abcd", 7))
    assert len(open_data(tmp_path, "train")) == 4
    with pytest.raises(DataError, match=r"too few different items \(1 of 4\)"):
        open_data(tmp_path, "heldout")
