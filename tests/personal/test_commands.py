"""The commands: personalise, generate with adapters, list and merge them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from subjects import checkpoint, pictures
from typer.testing import CliRunner

from jielong.apps.cli import app


def command(*words: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert (result.exit_code != 0) == fails, result.stderr
    return result


def test_from_pictures_to_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    checkpoint(Path("base"))
    words = ("personalise", "base", pictures(Path("me")), "--name", "@me", "--samples", 16, "--batch", 4, "--device", "cpu")
    again = (*words, "--method", "both", "--vectors", 2, "--rank", 2, "--target", "attention", "--prior", 3, "--noun", "cat")
    done = command(*again, "--licence", "mine")
    assert done.stdout.splitlines()[-1] == "adapters/@me"
    assert "jielong generate base --adapter @me --text 'a picture of @me'" in done.stderr
    lines = [json.loads(line) for line in Path("adapters/@me/metrics.jsonl").read_text().splitlines()]
    assert {"subject_loss", "prior_loss", "loss"} <= lines[-1].keys()
    assert "@me" in command("adapters", "list").stdout
    assert "mine" in command("adapters", "list").stdout
    command("generate", "base", "--adapter", "@me:0.8", "--text", "@me", "--out", "drawn", "--device", "cpu")
    origin = json.loads(next(Path("drawn").glob("*.json")).read_text())
    assert "@me:0.8" in json.dumps(origin)
    command("adapters", "merge", "base", "--adapter", "@me", "--out", "merged")
    command("generate", "merged", "--text", "@me", "--out", "other", "--device", "cpu")
    assert json.loads(Path("merged/adapters.json").read_text())[0]["licence"] == "mine"
    # the same command does not train again, and another recipe in the same folder is refused
    command(*again, "--licence", "mine")
    assert "holds a run of another recipe" in command(*words, fails=True).stderr
    assert "there is no adapter called '@you'" in command("generate", "base", "--adapter", "@you", "--text", "@you", fails=True).stderr
    refused = command("serve", "base", "merged", "--adapter", "@me", fails=True)
    assert "adapters belong to one model" in refused.stderr
