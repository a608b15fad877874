"""Equal and similar items across the splits are counted and named, in the table and in JSON."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from rich.console import Console

from jielong.data.duplicates import NEAR_BITS, near_pairs
from jielong.data.inspecting import Report, inspect
from jielong.media.audio import encode_audio


def drawing(seed: int) -> Image.Image:
    """Shapes at random."""
    rng, image = np.random.default_rng(seed), Image.new("RGB", (96, 96), "white")
    for _ in range(5):
        corner, size = rng.integers(0, 70, 2), rng.integers(8, 40, 2)
        ImageDraw.Draw(image).rectangle((*corner.tolist(), *(corner + size).tolist()), tuple(rng.integers(0, 200, 3).tolist()))
    return image


def save(path: Path, image: Image.Image, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def shown(report: Report) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(report)
    return console.export_text()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Of six held-out drawings one is a file of the training split, and two are drawings of it; one training file is there twice."""
    for number in range(20):
        save(tmp_path / "train" / f"{number}.png", drawing(number))
    save(tmp_path / "train" / "again.png", drawing(0))
    for number in range(100, 103):
        save(tmp_path / "test" / f"{number}.png", drawing(number))
    save(tmp_path / "test" / '[bold]same".png', drawing(7))
    save(tmp_path / "test" / "compressed.jpg", drawing(8), quality=60)
    save(tmp_path / "test" / "scaled.bmp", drawing(9).resize((61, 61), Image.Resampling.BICUBIC))
    return tmp_path


def test_equal_and_similar_pictures_in_both_splits(pictures: Path) -> None:
    report = inspect(pictures)
    found = json.loads(json.dumps(report.as_dict()))["duplicates"]
    assert found["heldout"] == 6
    assert found["across"] == {"count": 1, "examples": [['test/[bold]same".png', "train/7.png"]]}
    near = [["test/compressed.jpg", "train/8.png"], ["test/scaled.bmp", "train/9.png"]]
    assert found["near"] == {"count": 2, "examples": near}
    assert found["compared"] == 5
    assert found["train"] == 1
    table = shown(report)
    assert '1 of 6 held out: test/[bold]same".png = train/7.png' in table
    assert "2 of 5 held out: test/compressed.jpg = train/8.png, test/scaled.bmp = train/9.png" in table
    assert report.odd["train/again.png"] == ["the same file as train/0.png"]


def test_three_pairs_are_named(tmp_path: Path) -> None:
    for number in range(5):
        for folder in ("train", "heldout"):
            save(tmp_path / folder / f"{number}.png", drawing(number))
    report = inspect(tmp_path)
    assert report.duplicates.across.count == 5
    assert len(report.duplicates.across.examples) == 3
    assert "heldout/2.png = train/2.png, ..." in shown(report)


def test_pictures_of_one_colour_are_not_similar(tmp_path: Path) -> None:
    for folder, colour in (("train", "black"), ("heldout", "white")):
        save(tmp_path / folder / "a.png", Image.new("RGB", (64, 64), colour))
    found = inspect(tmp_path).duplicates
    assert found.near is not None
    assert (found.near.count, found.compared) == (0, 0)


def test_without_the_library_the_report_says_so(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    report = inspect(pictures)
    assert report.as_dict()["duplicates"]["near"] is None
    assert report.duplicates.across.count == 1
    assert "pip install 'jielong[near-duplicates]'" in shown(report)


def test_recordings_are_compared_by_their_bytes(tmp_path: Path) -> None:
    for folder, names in (("train", "ab"), ("test", "bc")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.wav").write_bytes(encode_audio(torch.full((1, 400), ord(name) / 256), 4_000, ".wav"))
    found = inspect(tmp_path, sample_rate=4_000, duration=0.1).duplicates
    assert (found.across.count, found.across.examples) == (1, [("test/b.wav", "train/b.wav")])
    assert (found.near, found.why_not) == (None, "looked for in pictures only")


def test_a_set_without_declared_splits_has_no_content_in_both(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / f"{number}.png", drawing(number // 2))
    report = inspect(tmp_path)
    assert report.duplicates.across.count == 0
    assert report.duplicates.heldout % 2 == 0
    assert f"none declared; {report.duplicates.heldout} held out, by content" in shown(report)


def test_splits_that_are_neither_are_shown(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,split\na.png,extra\nb.png,test\n")
    for name in "ab":
        save(tmp_path / f"{name}.png", drawing(ord(name)))
    assert "extra: 1, test: 1; items of the split 'extra' (1) are read as training items" in shown(inspect(tmp_path))


def test_near_hashes_are_those_that_differ_in_few_bits() -> None:
    rng = np.random.default_rng(0)
    hashes = {index: int(value) for index, value in enumerate(rng.integers(0, 2**64, 900, np.uint64))}
    heldout, train = range(600), range(600, 900)  # more than a block
    for index in range(0, 600, 7):
        bits = rng.choice(64, index % 8, replace=False)
        hashes[index] = hashes[600 + index % 300] ^ sum(1 << int(bit) for bit in bits)
    distances = {i: {j: (hashes[i] ^ hashes[j]).bit_count() for j in train} for i in heldout}
    expected = {i for i in heldout if min(distances[i].values()) <= NEAR_BITS}
    found = near_pairs(heldout, train, hashes)
    assert {i for i, _ in found} == expected
    assert all(distances[i][j] == min(distances[i].values()) for i, j in found)
    assert 40 < len(found) < 86
