"""The benchmark of the DiT against that of diffusers runs at its smallest, and both sides have the same task."""

from __future__ import annotations

import pytest

from running_scripts import ROOT, run_script

SMALL = "--layers 1 --width 8 --heads 2 --side 2 --batch 2 --evaluations 1 --pairs 1 --precision fp32"


def test_both_sides_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    run_script(ROOT / "benchmarks" / "joint_networks.py", *SMALL.split())
    printed = capsys.readouterr().out
    assert "2 x 4 tokens" in printed
    assert printed.count("times as fast") == 2
