"""A part of the corpus, and the judge of its outcomes; ``make hostile`` runs all of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from .case import Case
from .damage import DAMAGES
from .runner import MEMORY, SECONDS, Report, judge, run_all

ROOT = Path(__file__).parents[2]
CASE = Case("pictures", "a", "bad.png", lambda folder: None, ())
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")


@fork
def test_some_hostile_files_of_each_kind() -> None:
    ran = subprocess.run([sys.executable, "-m", "tests.hostile.run", "--fast"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]


@pytest.mark.parametrize(
    ("code", "text", "seconds", "memory", "says"),
    [
        (0, "", 1.0, 1, ()),
        (1, "error: bad.png is cut off", 1.0, 1, ()),
        (2, "usage", 1.0, 1, ()),
        (1, "error: a file is cut off", 1.0, 1, ("bad.png is not named",)),
        (1, "bad.png\nTraceback (most recent call last):", 1.0, 1, ("Traceback (most recent call last)",)),
        (1, "error: bad.png: unexpected error: KeyError", 1.0, 1, ("unexpected error",)),
        (-9, "", 1.0, 1, ("signal SIGKILL",)),
        (70, "", 1.0, 1, ("exit code 70",)),
        (0, "", SECONDS + 1.0, 1, (f"{SECONDS + 1} s",)),
        (0, "", 1.0, MEMORY + 1, ("2.1 GB",)),
        (0, "\x1b[31m", 1.0, 1, ("control characters on the terminal",)),
    ],
)
def test_what_is_a_fault(code: int, text: str, seconds: float, memory: int, says: tuple[str, ...]) -> None:
    assert judge(CASE, code, text, seconds, memory) == says


def test_a_whole_file_must_be_accepted() -> None:
    whole = Case("pictures", "a", "", lambda folder: None, (), whole=True)
    assert judge(whole, 1, "error", 1.0, 1) == ("a whole file is refused",)
    assert judge(whole, 0, "", 1.0, 1) == ()


def test_damage_is_the_same_for_the_same_seed() -> None:
    data = bytes(range(256)) * 4
    for damage in DAMAGES:
        assert damage(data, random.Random(1)) == damage(data, random.Random(1))
        assert any(damage(data, random.Random(seed)) != data for seed in range(5))


@fork
def test_a_command_that_fails_is_reported() -> None:
    """In a child of its own, as this process may have threads."""
    script = (
        "from tests.hostile.test_hostile import failing\nprint(*(fault for outcome in failing().failures for fault in outcome.faults))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "nowhere.png is not named"


def failing() -> Report:
    """A command on a recipe that does not exist, whose refusal names it, and another name is expected."""
    return run_all([Case("recipes", "a", name, lambda folder: None, ("show", "absent")) for name in ("absent", "nowhere.png")], 1)
