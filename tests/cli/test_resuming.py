"""A run that cannot be resumed is refused with what changed, and nothing in its folder is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from jielong.system import load
from jielong.training.checkpoint import CheckpointError
from jielong.training.state import check_same_inputs

from .conftest import COLOURS, brief, command, paint, succeed


@pytest.fixture
def pictures_of_its_own(tmp_path: Path, pictures: Path) -> Path:
    return shutil.copytree(pictures, tmp_path / "pictures")


@pytest.fixture
def run(tmp_path: Path, pictures_of_its_own: Path) -> Path:
    """A finished run of a generator of classes."""
    return trained(tmp_path / "run", pictures_of_its_own)


def words(out: Path, data: Path, *more: str) -> list[str]:
    settings = brief("condition=class", "backbone.transformer.layers=1", *more)
    return ["train", "maskgit-tiny", "--data", str(data), "--out", str(out), "--device", "cpu", *settings]


def trained(out: Path, data: Path) -> Path:
    succeed(*words(out, data))
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(run: Path, data: Path, *more: str) -> str:
    """The error of a refused command that changed no byte of the run's folder."""
    before = content(run)
    result = command(*words(run, data, *more))
    assert result.exit_code == 1, result.output
    assert content(run) == before
    system = load(str(run), "cpu")
    assert system.generate_tokens(torch.zeros(1, dtype=torch.long).tolist(), 1).values.shape[0] == 1
    return " ".join(result.stderr.split())


def test_another_size(run: Path, pictures_of_its_own: Path) -> None:
    assert "data.size was 8 and is now 16" in refused(run, pictures_of_its_own, "data.size=16")


def test_other_classes(run: Path, pictures_of_its_own: Path) -> None:
    paint(pictures_of_its_own / "train" / "yellow" / "0.png", (240, 220, 60), 0)
    found = refused(run, pictures_of_its_own)
    assert "the classes changed from 3 to 4 (new: yellow); " in found
    assert "; the data changed from 24 to 25 items. Restore" in found
    (pictures_of_its_own / "train" / "yellow").rename(pictures_of_its_own / "train" / "amber")
    assert "new: amber" in refused(run, pictures_of_its_own)


def test_other_data_of_the_same_classes(run: Path, pictures_of_its_own: Path) -> None:
    paint(pictures_of_its_own / "train" / "red" / "0.png", COLOURS["green"], 3)
    assert "the data changed: still 24 items, with other content" in refused(run, pictures_of_its_own)


def test_a_hash_that_an_earlier_version_recorded_is_not_compared(run: Path, pictures_of_its_own: Path) -> None:
    described = json.loads((run / "model.json").read_text())
    before = {**described, "data": {"items": described["data"]["items"], "fingerprint": "of another kind"}}
    check_same_inputs(before, described, run)
    with pytest.raises(CheckpointError, match="the data changed from 23 to 24"):
        check_same_inputs({"data": {"items": 23}}, described, run)


def test_more_is_refused_before_anything_is_written(run: Path, pictures_of_its_own: Path, tmp_path: Path) -> None:
    state = next(run.glob("state-*"))
    weights = state / "objective.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "objective.safetensors is truncated" in refused(run, pictures_of_its_own, "train.samples=32")
    weights.write_bytes(whole)
    succeed(*words(run, pictures_of_its_own, "train.samples=32"))
    fresh = command(*words(tmp_path / "fresh", pictures_of_its_own, "train.init_from=nothing"))
    assert fresh.exit_code == 1
    assert not (tmp_path / "fresh").exists()


def test_a_run_of_an_earlier_version_is_compared_by_what_it_recorded(run: Path, pictures_of_its_own: Path) -> None:
    path = run / "model.json"
    description = json.loads(path.read_text())
    del description["data"]
    path.write_text(json.dumps(description))
    paint(pictures_of_its_own / "train" / "red" / "0.png", COLOURS["green"], 3)
    succeed(*words(run, pictures_of_its_own, "train.samples=32"))
    assert json.loads(path.read_text())["data"]["items"] == 24
