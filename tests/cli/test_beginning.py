"""``train.init_from`` on the command line: a wrong name is told before anything is written, and a run that goes on needs it no more."""

from __future__ import annotations

import shutil
from pathlib import Path

from .conftest import brief, command, succeed

RECIPE = "kl-tiny"


def test_an_unknown_name_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    result = command("train", RECIPE, "--out", tmp_path / "run", *brief("train.init_from=kl-emojy"))
    assert result.exit_code == 1
    assert "there is no model called 'kl-emojy'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_finished_without_what_it_began_from(tmp_path: Path, pictures: Path) -> None:
    size = ("data.size=16",)
    succeed("train", RECIPE, "--data", pictures, "--out", tmp_path / "first", *brief(*size))
    words = ("train", RECIPE, "--data", pictures, "--out", tmp_path / "second", *brief(*size, f"train.init_from={tmp_path / 'first'}"))
    assert "from first, 0 at random" in succeed(*words).stderr
    shutil.rmtree(tmp_path / "first")
    succeed(*words)
