"""Folders that cannot be written: a cache is gone without, an output folder is refused before the work."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jielong.apps.cli import app

from .conftest import brief, command


def in_child(words: list[object], read_only: Path, log: Path) -> int | None:
    """Exit code of a command below whose feet a folder is read-only; its standard error goes to ``log``."""

    def child() -> None:
        def refuse(event: str, arguments: tuple[object, ...]) -> None:
            # chmod does not stop an administrator, whom tests may run as; the interpreter calls this before it calls the system.
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (writes or event in ("os.mkdir", "os.rename", "os.remove")) and str(arguments[0]).startswith(str(read_only)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))

        os.environ["JIELONG_CACHE"] = str(read_only / "jielong")
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)
        sys.stderr = sys.__stderr__
        sys.addaudithook(refuse)
        app([str(word) for word in words])

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    return process.exitcode


def test_a_read_only_cache_stops_nothing_and_is_said_once(tokenizer: Path, pictures: Path, tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "home"
    words = ["train", "maskgit-tiny", "--data", pictures, "--out", out, *brief("data.size=16", f"tokenizer.checkpoint={tokenizer}")]
    assert in_child(words, cache, tmp_path / "log") == 0
    log = (tmp_path / "log").read_text()
    assert log.count("Read-only file system; set JIELONG_CACHE to another folder. It is computed now, and again the next time") == 1
    assert not cache.exists()
    assert command("train", *words[1:4], "--out", tmp_path / "same", *words[6:]).exit_code == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "same")]
    assert weights[0] == weights[1]


def test_a_read_only_output_folder_is_refused_before_the_work(tokenizer: Path, pictures: Path, tmp_path: Path) -> None:
    for words in (
        ["train", "vqgan-tiny", "--data", pictures, "--out", tmp_path / "read-only" / "run", *brief()],
        ["tokenize", tokenizer, "--data", pictures, "--out", tmp_path / "read-only" / "tokens.safetensors"],
        ["compare", "vqgan-tiny", "--data", pictures, "--samples", 16, "--out", tmp_path / "read-only" / "comparison"],
    ):
        assert in_child(words, tmp_path / "read-only", tmp_path / "log") == 1
        log = (tmp_path / "log").read_text()
        assert "Read-only file system; choose another place with --out" in log
        assert "training" not in log
    assert not (tmp_path / "read-only").exists()


def test_too_small_a_disk_is_found_out_before_tokenizing(
    tokenizer: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jielong.training.token_cache.tokenize", None)  # calling it would raise
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=100))
    result = command("tokenize", tokenizer, "--data", pictures, "--out", tmp_path / "tokens.safetensors")
    assert result.exit_code == 1
    assert (
        f"tokens.safetensors cannot be written: No space left on device ({24 * 16} bytes are needed, 100 bytes are free)" in result.stderr
    )
    assert list(tmp_path.iterdir()) == []
