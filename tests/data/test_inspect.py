"""Looking through a set before training."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jielong.data.inspecting import inspect
from jielong.media.images import animation, encode
from jielong.media.inspection import Spread


def picture(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    files = {
        "good.png": encode(picture(0)),
        "copy.png": encode(picture(0)),
        "small.png": encode(picture(1, 8, 9)),
        "long.png": encode(picture(2, 160, 40)),
        "grey.png": encode(picture(3).convert("L")),
        "flat.png": encode(Image.new("RGB", (32, 32), "red")),
        "moving.gif": animation([picture(4), picture(5)], kind="GIF"),
        "deep.png": encode(Image.fromarray(np.arange(32 * 32, dtype=np.uint16).reshape(32, 32))),
        "text.png": b"not a picture",
        "cut.png": encode(picture(6, 64, 64))[:4000],
        "good.txt": b"a good picture",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_finds_what_is_broken_and_odd_with_reasons(folder):
    report = inspect(folder, size=16)
    assert set(report.broken) == {"text.png", "cut.png"}
    reasons = {name: " ".join(words) for name, words in report.odd.items()}
    expected = {
        "good.png": "the same file as copy.png",
        "small.png": "tiny: 8 x 9",
        "long.png": "long: 160 x 40",
        "grey.png": "grey",
        "flat.png": "flat",
        "moving.gif": "animated: 2 frames",
        "deep.png": "unusual mode I;16",
    }
    assert set(reasons) == set(expected)
    assert all(words in reasons[name] for name, words in expected.items())


def test_counts(folder):
    report = inspect(folder, size=16)
    assert report.count == 8
    assert report.captions == 1
    assert report.examples == ["a good picture"]
    assert report.facts["width"] == Spread(8, 32, 160)
    assert report.facts["aspect"] == Spread(8 / 9, 1, 4)
    assert sum(report.facts["sides"].values()) == report.count
    assert report.facts["sides"] == {"0-31": 1, "32-63": 7}
    assert report.values["min"] >= -1
    assert report.values["max"] <= 1
    assert report.values["max"] - report.values["min"] > 1.5


def test_shows_itself(folder, tmp_path):
    report = inspect(folder, size=16)
    assert json.loads(json.dumps(report.as_dict()))["broken"].keys() == report.broken.keys()
    console = Console(file=io.StringIO(), width=120)
    console.print(report)
    text = " ".join(console.file.getvalue().split())  # long paths wrap
    assert "8 pictures" in text
    assert "cut.png" in text
    sheet = Image.open(report.write_sheet(tmp_path / "sheet.png"))
    assert sheet.width > 8 * 96


def test_limit_decodes_fewer_but_reads_every_header(folder):
    with pytest.warns(UserWarning, match="cut.png"):  # met when the batch to show is decoded
        report = inspect(folder, size=16, limit=1)
    assert report.decoded == 1
    assert "text.png" in report.broken
    assert report.odd["small.png"]


def test_control_characters_of_names_and_captions_do_not_reach_the_terminal(tmp_path):
    (tmp_path / "a\x1b[31m.png").write_bytes(encode(picture(0)))
    (tmp_path / "a\x1b[31m.txt").write_text("red\x1b[2J\x0f")
    (tmp_path / "b\x0f.png").write_bytes(b"no picture")
    (tmp_path / "c.png").write_bytes(encode(picture(1)))
    console = Console(file=io.StringIO(), width=200)
    console.print(inspect(tmp_path, size=16))
    text = console.file.getvalue()
    assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
    assert r"b\x0f.png" in text
