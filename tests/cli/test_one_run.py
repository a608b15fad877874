"""A second command that writes to the same place is refused before it works, whatever the command."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from jielong.apps.cli import app
from jielong.core.locks import one_run, one_writer
from jielong.data.built import built_path

from .conftest import brief


def in_child(words: list[object], log: Path) -> int | None:
    """Exit code of a command in another process; its standard error goes to ``log``."""

    def child() -> None:
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        sys.stderr = sys.__stderr__
        app([str(word) for word in words])

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.mark.parametrize("name", ["train", "compare", "demo", "lab", "tokenize", "data build"])
def test_the_second_is_refused(tokenizer: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    words, hold = {
        "train": (["train", "vqgan-tiny", "--data", pictures, "--out", out, *brief()], one_run(out)),
        "compare": (["compare", "vqgan-tiny", "--data", pictures, "--samples", 16, "--out", out], one_run(out)),
        "demo": (["demo", "--out", out, "--minutes", 0], one_run(out)),
        "lab": (["lab", "run", "collapse", "--out", out], one_run(out / "collapse")),
        "tokenize": (["tokenize", tokenizer, "--data", pictures, "--out", out / "t.safetensors"], one_writer(out / "t.safetensors")),
        "data build": (["data", "build", "sounds"], one_writer(built_path("sounds"))),
    }[name]
    with hold:
        before = sorted(tmp_path.rglob("*"))
        assert in_child(words, tmp_path / "log") == 1
        log = (tmp_path / "log").read_text()
        (tmp_path / "log").unlink()
        assert f"is in use by process {os.getpid()} on " in log
        assert "choose another place with --out" in log or name == "data build"
        assert sorted(tmp_path.rglob("*")) == before
