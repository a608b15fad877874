"""A set of small pictures, and checkpoints of a few steps, made once by the commands themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app

COLOURS = {"red": (220, 40, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
BRIEF = ("train.samples=16", "train.batch=8", "train.warmup=8", "train.sample_every=16", "train.save_every=8", "train.ema=0.5")
"""Two steps."""


def command(*words: object) -> Result:
    """Run a command; the result has ``exit_code``, ``stdout`` and ``stderr``."""
    return CliRunner().invoke(app, [str(word) for word in words])


def succeed(*words: object) -> Result:
    """Run a command that must succeed."""
    result = command(*words)
    assert result.exit_code == 0, result.stderr
    return result


def brief(*more: str) -> list[str]:
    return [word for each in (*BRIEF, *more) for word in ("--set", each)]


def paint(path: Path, colour: tuple[int, int, int], place: int, side: int = 16) -> None:
    """A square of a colour on white, at one of a few places."""
    image = Image.new("RGB", (side, side), "white")
    left = 2 + place % 4
    image.paste(colour, (left, left, left + side // 2, left + side // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures to train on and 6 held out, in classes, with captions."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("heldout", 2)):
        for name, colour in COLOURS.items():
            for place in range(count):
                path = root / split / name / f"{place}.png"
                paint(path, colour, place)
                path.with_suffix(".txt").write_text(f"a {name} square, number {place}, {split}")
    return root


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A convolutional tokenizer: 16 x 16 pixels, 4 x 4 tokens of 64 codes."""
    out = tmp_path_factory.mktemp("runs") / "tokenizer"
    succeed("train", "vqgan-tiny", "--data", pictures, "--out", out, *brief())
    return out


@pytest.fixture(scope="session")
def painter(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A masked generator of 8 x 8 pixels from words."""
    out = tmp_path_factory.mktemp("runs") / "painter"
    succeed("train", "maskgit-tiny", "--data", pictures, "--out", out, *brief())
    return out


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, pictures: Path, tokenizer: Path) -> Path:
    """A raster generator of the tokenizer's tokens from classes."""
    out = tmp_path_factory.mktemp("runs") / "chain"
    parts = ("data.size=16", f"tokenizer={{checkpoint: {tokenizer}}}", "condition={class: {width: 16}}", "sampling.guidance.scale=2")
    succeed("train", "llamagen-tiny", "--data", pictures, "--out", out, *brief(*parts))
    return out
