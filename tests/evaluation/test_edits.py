"""Figures of edits: the instructed attribute, and all others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from jielong.data import open_data
from jielong.data.pairs import source_media
from jielong.evaluation.edits import edits, reached, unchanged

WANTED = [("hair_color", "red"), ("glasses", "round"), ("hair_color", "blue")]


def test_counts_of_goals_and_of_what_is_kept() -> None:
    judge = cast("Any", SimpleNamespace(record=SimpleNamespace(unread={"glasses": ["round"]})))
    before = {"hair_color": ["black", "black", "black"], "glasses": ["none", "none", "none"], "skin": ["dark", "dark", "pale"]}
    after = {"hair_color": ["red", "black", "blue"], "glasses": ["none", "round", "square"], "skin": ["dark", "dark", "pale"]}
    found = {"hair_color": ["red", "red", "green"], "glasses": ["none", "round", "square"], "skin": ["dark", "pale", "pale"]}
    assert reached(found, WANTED, judge) == {"hair_color": [True, False]}
    kept = unchanged(found, before, after, WANTED)
    # Of the second the hair is no longer black; of the third source and target differ in glasses too, so these do not count.
    assert kept == {"hair_color": [False], "glasses": [True], "skin": [True, False, True]}


def test_targets_reach_the_goal_and_sources_keep_everything() -> None:
    images = open_data("faces-edits", "heldout")
    rows = list(range(0, len(images), 6))
    context = cast(
        "Any", SimpleNamespace(media=images, rows=rows, real=images.media(rows), system=SimpleNamespace(inputs=("text", "picture")))
    )
    best, copied = (edits(context, made).figures for made in (context.real, source_media(images, rows)))
    assert best["edit_goal"].value == best["edit_goal_real"].value > 0.95
    assert best["edit_kept"].value == copied["edit_kept"].value == 1
    assert copied["edit_goal"].value < 0.05
    context.system.inputs = ("text",)
    assert not edits(context, context.real).figures
