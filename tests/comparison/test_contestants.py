"""Entries of a comparison, and recipes at an equal budget."""

from __future__ import annotations

import pytest

from jielong.apps.comparison.contestants import UNLIMITED, Budget, at, entries_of
from jielong.config import recipe
from jielong.config.registry import RecipeError


def test_a_budget_is_one_thing() -> None:
    assert str(Budget(samples=2000)) == "2,000 samples"
    assert str(Budget(seconds=90)) == "90 s of training"
    for wrong in ({}, {"samples": 1, "seconds": 1.0}, {"samples": 0}, {"seconds": -1.0}):
        with pytest.raises(ValueError, match="equal budget"):
            Budget(**wrong)


def test_a_budget_of_samples_keeps_the_shape_of_a_schedule() -> None:
    full = recipe.load("titok")
    half = at(Budget(samples=full.train.samples // 2), full, seed=7)
    assert half.train.samples == full.train.samples // 2
    assert half.train.warmup == full.train.warmup // 2
    assert half.tokenizer.finetune_at == full.tokenizer.finetune_at // 2
    starts, full_starts = ({loss.name: getattr(loss, "start_samples", None) for loss in each.losses} for each in (half, full))
    assert starts["adversarial"] == full_starts["adversarial"] // 2 > 0
    assert half.train.seed == 7
    assert half.train.lr == full.train.lr


def test_a_budget_of_time_keeps_the_shape_of_a_schedule_and_lifts_the_limit() -> None:
    full = recipe.load("titok-tiny")
    timed = at(Budget(seconds=60), full)
    assert timed.train.samples == UNLIMITED
    assert timed.train.warmup == UNLIMITED * 64 // 512
    assert timed.train.sample_every is None
    assert timed.tokenizer.finetune_at == UNLIMITED * 256 // 512
    assert at(Budget(seconds=60), recipe.load("vqgan-tiny", ["train.warmup=null"])).train.resolved().warmup == UNLIMITED // 50


def test_warming_up_ends_before_the_budget() -> None:
    assert at(Budget(samples=1), recipe.load("vqgan-tiny")).train.warmup == 0


def test_every_recipe_fits_a_small_budget() -> None:
    for name in recipe.built_in():
        assert at(Budget(samples=1000), recipe.load(name)).train.samples == 1000


def test_names() -> None:
    entries = entries_of(["vqgan-tiny", "vq-emoji"])
    assert [(each.label, each.kind, each.checkpoint) for each in entries] == [
        ("vqgan-tiny", "tokenizer", None),
        ("vq-emoji", "tokenizer", "vq-emoji"),
    ]
    with pytest.raises(RecipeError, match="'vq-emoji'"):
        entries_of(["vq-emojy"])
    with pytest.raises(ValueError, match="named twice"):
        entries_of(["vqgan-tiny", "vqgan-tiny"])


def test_a_model_that_a_recipe_builds_on_must_be_there() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        entries_of(["maskgit"], ["tokenizer={checkpoint: nowhere}"])
