"""The verdict of how-small-a-head both ways on synthetic distances, and a run at a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from jielong.apps.lab import Verdict, conclude, run
from jielong.apps.lab.experiments.how_small_a_head import LARGEST, SIZES, SMALL, TINY, judge, named


def rounds(level: float, seed: int) -> Tensor:
    return level + 0.002 * torch.randn(64, generator=torch.Generator().manual_seed(seed))


def verdict(tiny: float, small: float, largest: float) -> Verdict:
    return conclude(judge({TINY: rounds(tiny, 0), SMALL: rounds(small, 1), LARGEST: rounds(largest, 2)}, 0))


def test_claim_can_hold_and_fail() -> None:
    assert verdict(tiny=0.5, small=0.05, largest=0.05) is Verdict.HOLDS
    assert verdict(tiny=0.5, small=0.07, largest=0.05) is Verdict.FAILS  # small is too small
    assert verdict(tiny=0.06, small=0.05, largest=0.05) is Verdict.FAILS  # so is nothing
    assert verdict(tiny=0.5, small=0.055, largest=0.05) is Verdict.UNKNOWN  # a tenth


def test_all_of_it(tmp_path: Path) -> None:
    run("how-small-a-head", tmp_path, budget=0.001)
    record = json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "plot.png").exists()
    sizes = [record["figures"][f"parameters, {named(size)}"]["value"] for size in SIZES]
    assert sizes == sorted(sizes)
    assert {SMALL, TINY, LARGEST} <= set(SIZES)
    assert 6 < record["figures"][f"parameters, {named(LARGEST)}"]["value"] / record["figures"][f"parameters, {named(SMALL)}"]["value"] < 10
