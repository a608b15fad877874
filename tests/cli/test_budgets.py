"""Budgets on the command line: samples, time, and what a dry run tells of both."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import command, succeed


def test_a_dry_run_tells_the_scaled_schedule() -> None:
    output = succeed("train", "vqgan", "--samples", "20000", "--budget", "4m", "--dry-run").stdout
    schedule = " ".join(output[output.index("Schedule") : output.index("Derived sizes")].split())
    assert "625 steps of 32 samples, or 4:00" in schedule
    for name in ("perceptual", "adversarial"):
        assert f"losses.{name}.start_samples from 19,400 97.0% of the budget, step 608, 3:53 at most" in schedule
    assert "train.warmup until 320 1.6% of the budget, step 11, 0:04 at most" in schedule
    late = succeed("train", "vqgan", "--samples", "20000", "--set", "losses.adversarial.start_samples=30000", "--dry-run").stdout
    assert "150.0% of the budget, never reached" in " ".join(late.split())


def test_samples_scale_a_run_and_what_it_did_not_reach_is_said(tmp_path: Path) -> None:
    late = ("--set", "losses.adversarial={start_samples: 64, channels: 4, layers: 1}")
    done = succeed("train", "vqgan-tiny", "--samples", "64", "--out", tmp_path, *late)
    assert "warning: losses.adversarial never started: start_samples is 100% of the budget (64 of 64 samples)" in done.stderr
    assert len(json.loads((tmp_path / "summary.json").read_text())["unreached"]) == 1
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["samples"] == 64
    longer = succeed("train", "vqgan-tiny", "--samples", "96", "--out", tmp_path, *late)
    assert "resumed at 64 of 96 samples" in longer.stderr
    assert "never started" not in longer.stderr


def test_a_budget_of_samples_is_given_once() -> None:
    done = command("train", "vqgan-tiny", "--samples", "64", "--set", "train.samples=32")
    assert done.exit_code == 1
    assert "samples and the setting train.samples both give the budget" in " ".join(done.stderr.split())
