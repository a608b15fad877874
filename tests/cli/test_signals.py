"""A signal while a command works: exit code 128 + its number, and nothing half-written."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jielong.apps.cli import app

from .conftest import brief

pytestmark = pytest.mark.usefixtures("default_signals")


def in_child(words: list[object], due: Callable[[Path], bool], number: int, cache: Path) -> int | None:
    """Exit code of a command that gets a signal when the first file for which it is due is written and not yet in its place."""

    def child() -> None:
        os.environ["JIELONG_CACHE"] = str(cache)
        replace = os.replace

        def signalled(source: str, target: str) -> None:
            if due(Path(target)):
                os.kill(os.getpid(), number)
            replace(source, target)

        os.replace = signalled
        app([str(word) for word in words])

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_half_written_is_left(tokenizer: Path, pictures: Path, tmp_path: Path, number: int) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    words = ["tokenize", tokenizer, "--data", pictures, "--out", out / "tokens.safetensors"]
    assert in_child(words, lambda path: path.name == "tokens.safetensors", number, cache) == 128 + number
    assert not out.exists()
    words = ["train", "maskgit-tiny", "--data", pictures, "--out", out, *brief("data.size=16", f"tokenizer.checkpoint={tokenizer}")]
    assert in_child(words, lambda path: path.parent.name == "tokens", number, cache) == 128 + number
    assert not out.exists()
    assert list(cache.glob("tokens/*")) == list(cache.glob("tokens/.*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_training_saves_and_says_by_its_exit_code_what_stopped_it(pictures: Path, tmp_path: Path, number: int) -> None:
    words = ["train", "vqgan-tiny", "--data", pictures, "--out", tmp_path, *brief()]
    assert in_child(words, lambda path: path.name == "state-000000000008", number, tmp_path / "cache") == 128 + number
    assert [path.name for path in tmp_path.glob("*state-*")] == ["state-000000000008"]
    assert in_child(words, lambda path: False, number, tmp_path / "cache") == 0
