"""The verdict of how-many-steps both ways on synthetic distances, and a run at a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.apps.lab import Verdict, conclude, run
from jielong.apps.lab.experiments import how_many_steps
from jielong.apps.lab.experiments.how_many_steps import best_of_few, judge


def rounds(level: float, seed: int = 0) -> Tensor:
    return level + 0.002 * torch.randn(64, generator=torch.Generator().manual_seed(seed))


def verdict(one: float, many: float, few: float) -> Verdict:
    distances = {("diffusion", 1): rounds(one), ("diffusion", 100): rounds(many, 1), ("mean_flow", 1): rounds(few, 2)}
    return conclude(judge(distances | {("mean_flow", 100): rounds(0.0), ("energy", 1): rounds(few + 0.5, 3)}, 0))


def test_claim_can_hold_and_fail() -> None:
    assert verdict(one=0.5, many=0.05, few=0.05) is Verdict.HOLDS
    assert verdict(one=0.5, many=0.05, few=0.07) is Verdict.FAILS  # few evaluations are not enough
    assert verdict(one=0.06, many=0.05, few=0.05) is Verdict.FAILS  # diffusion needs no more than they
    assert verdict(one=0.5, many=0.05, few=0.055) is Verdict.UNKNOWN  # a tenth


def test_the_best_is_chosen_by_rounds_that_do_not_judge_it() -> None:
    lucky, steady = torch.cat([torch.zeros(8), torch.ones(8)]), torch.full((16,), 0.2)
    distances = {("diffusion", 1): steady - 1, ("shortcut", 2): lucky, ("energy", 1): steady, ("shortcut", 4): steady - 1}
    distances |= {("gaussian_mixture", 1): steady - 1}
    assert best_of_few(distances) == ("shortcut", 2), "neither the reference, nor NFE 4, nor the form of the data"
    distances |= {("diffusion", 100): steady}
    checks = judge(distances, 0)
    assert checks[0].says.startswith("shortcut, NFE 2")
    assert checks[0].verdict is Verdict.FAILS, "its luck was in the first half"


def test_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer evaluations: each is as slow as any other."""
    monkeypatch.setattr(how_many_steps, "NFE", (1, 2, 5))
    monkeypatch.setattr(how_many_steps, "MANY", 5)
    run("how-many-steps", tmp_path, budget=0.001)
    record = json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "plot.png").exists()
    for name in ("diffusion", "flow_matching", "mean_flow", "shortcut", "consistency"):
        assert all(f"{name}, NFE {count}" in record["figures"] for count in (1, 2, 5))
    assert "diffusion, NFE 100" not in record["figures"]
    assert "energy, NFE 1" in record["figures"]
    assert "softmax" not in record["provenance"]["heads"]
