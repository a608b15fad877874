"""The set `strokes`: drawn stroke after stroke from outlines and medians, held out by character and by pace, right to its judge."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import jielong_zoo
from jielong.core.json import JSON
from jielong.data import open_data
from jielong.data.built import BuildError
from jielong.data.licences import licence_of_weights, terms
from jielong.data.sets import MediaSet
from jielong.evaluation.judges.base import JudgedItems, judge_called, rows_of
from jielong_zoo.builders.strokes import dataset
from jielong_zoo.builders.strokes.drawing import BENDS, PAPER, Stroke, allotted, arrivals, outline, read_strokes, written

DATA = Path(jielong_zoo.path()) / "data"
SQUARES = {
    "一": [(100, 400, 900, 500)],
    "二": [(200, 600, 800, 680), (100, 100, 900, 200)],
    "三": [(100, y, 900, y + 80) for y in (700, 400, 0)],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as those of the package, of three characters made of rectangles."""
    folder = tmp_path_factory.mktemp("package")
    for character, boxes in SQUARES.items():
        strokes = [f"M {x0} {y0} L {x1} {y0} L {x1} {y1} L {x0} {y1} Z" for x0, y0, x1, y1 in boxes]
        medians = [[[x0, (y0 + y1) / 2], [x1, (y0 + y1) / 2]] for x0, y0, x1, y1 in boxes]
        (folder / f"{character}.json").write_text(json.dumps({"strokes": strokes, "medians": medians}), "utf-8")
    return folder


def frames_of(data: bytes) -> np.ndarray:
    image, found = Image.open(io.BytesIO(data)), []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        found += [np.asarray(image.convert("L"))] * round(image.info["duration"] * dataset.RATE / 1000)
    return np.stack(found)


def test_paths_are_corners_and_points_of_curves() -> None:
    assert outline("M 0 0 L 10 0 L 10 5 Z").tolist() == [[0, 0], [10, 0], [10, 5]]
    curve = outline("M 0 0 Q 10 0 10 10 Z")
    t = np.linspace(0, 1, BENDS + 1)
    np.testing.assert_allclose(curve, np.stack([10 * (1 - (1 - t) ** 2), 10 * t**2], axis=1), atol=1e-12)
    cubic = outline("M 0 0 C 0 10 10 10 10 0")
    np.testing.assert_allclose(cubic[:, 1], 30 * t * (1 - t), atol=1e-12)


def test_a_pen_reaches_pixels_in_proportion_to_their_place(package: Path) -> None:
    stroke = read_strokes(package / "一.json")[0]
    found = arrivals(stroke, 128)
    rows, columns = np.nonzero(np.isfinite(found))
    expected = ((columns + 0.5) * 8 - 100) / 800
    np.testing.assert_allclose(found[rows, columns], expected.clip(0, 1), atol=1e-9)
    assert np.isfinite(found).sum() * 64 == pytest.approx(800 * 100, rel=0.1)


def test_a_part_that_passes_close_by_appears_in_its_own_turn() -> None:
    hairpin = np.array([[100, 700], [900, 700], [900, 500], [100, 500]], float)  # there and back, 200 units apart
    corners = np.array([[100, 800], [1000, 800], [1000, 400], [100, 400], [100, 600], [800, 600], [100, 600]], float)
    found = arrivals(Stroke(corners, hairpin), 128)
    row_there, row_back, column = round((900 - 700) / 8), round((900 - 460) / 8), 20
    assert found[row_there, column] < 0.1
    assert found[row_back, column] > 0.9


@pytest.mark.parametrize(("lengths", "frames", "expected"), [([1, 1, 1], 15, [5, 5, 5]), ([1, 3], 8, [2, 6]), ([0.01, 1, 1], 9, [1, 4, 4])])
def test_frames_follow_lengths(lengths: list[float], frames: int, expected: list[int]) -> None:
    assert allotted(lengths, frames) == expected
    with pytest.raises(ValueError, match="need as many frames"):
        allotted(lengths, len(lengths) - 1)


def test_a_clip_begins_blank_only_gains_ink_and_ends_whole(package: Path) -> None:
    strokes = read_strokes(package / "三.json")
    clip = written([arrivals(stroke, 256) for stroke in strokes], [5, 5, 5], 17)
    assert clip.shape == (17, 64, 64)
    assert (clip[0] == PAPER).all()
    assert (np.diff(clip.astype(int), axis=0) <= 0).all()
    assert [int((clip[frame] < 128).any(1).nonzero()[0].max()) for frame in (5, 10, 15)] == sorted(
        int((clip[frame] < 128).any(1).nonzero()[0].max()) for frame in (5, 10, 15)
    )
    assert (clip[15] == clip[16]).all()
    assert (clip[15] != clip[14]).any()


def test_the_same_package_gives_the_same_bytes(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "common_characters", lambda: list(SQUARES))
    tables: list[list[JSON]] = [list(dataset.rows(package, 2)) for _ in range(2)]
    for number, table in enumerate(tables):
        dataset.write_strokes(tmp_path / f"{number}.parquet", table)
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()
    assert [(row["character"], row["pace"]) for row in tables[0]] == [("一", "even"), ("一", "quick"), ("二", "even"), ("二", "quick")]
    quick = next(row for row in tables[0] if row["name"] == "二-quick")
    assert (quick["caption"], quick["caption_zh"]) == ("write 二 quickly", "快写二")
    frames = frames_of(quick["video"])
    assert len(frames) == 17
    assert (frames[9:] == frames[9]).all()
    assert quick["ends"][-1] == 9 / 8


def test_what_is_missing_is_named(package: Path) -> None:
    with pytest.raises(BuildError, match=r"hanzi-writer-data@2\.0\.1 is needed"):
        list(dataset.rows(package, 7))
    with pytest.raises(BuildError, match="at most 15 strokes"):
        dataset.build_strokes(package, None, dataset.Strokes(16))


def test_gb_2312_has_3755_frequent_characters() -> None:
    found = dataset.common_characters()
    assert len(set(found)) == 3755
    assert {"永", "我", "写"} <= set(found)


@pytest.fixture(scope="module")
def rows() -> list[JSON]:
    found: list[JSON] = pq.read_table(
        DATA / "strokes.parquet", columns=["character", "pace", "held_out", "split", "caption", "ends"]
    ).to_pylist()
    return found


def test_held_out_characters_and_paces_are_not_in_training(rows: list[JSON]) -> None:
    trained = {(row["character"], row["pace"]) for row in rows if row["split"] == "train"}
    characters = {character for character, _ in trained}
    kinds = Counter(row["held_out"] for row in rows)
    assert len(rows) == len({row["caption"] for row in rows}) == 1956
    assert {row["split"] for row in rows if not row["held_out"]} == {"train"}
    assert 60 <= kinds["character"] <= 140
    assert 30 <= kinds["pace"] <= 70
    for row in rows:
        if row["held_out"]:
            assert row["split"] == "heldout"
            assert (row["character"] in characters) == (row["held_out"] == "pace")
            assert (row["character"], row["pace"]) not in trained


def test_it_is_below_three_megabytes_and_its_licence_is_beside_it() -> None:
    assert (DATA / "strokes.parquet").stat().st_size < 3_000_000
    assert "ARPHIC PUBLIC LICENSE" in (DATA / "ARPHICPL.TXT").read_text("utf-8")
    found = terms("strokes")
    assert {each.licence for each in found} == {"Arphic Public License"}
    assert licence_of_weights(found) == "Arphic Public License"


@pytest.fixture(scope="module")
def heldout() -> MediaSet:
    return open_data("strokes", "heldout")


def test_real_clips_are_right_and_reversed_ones_wrong(heldout: MediaSet) -> None:
    assert str(heldout.medium) == "video of 1 x 17 x 64 x 64 at 8 Hz"
    indices = list(range(0, len(heldout), 8))
    real = heldout.media(indices)
    items = JudgedItems(real, real, rows_of(heldout, indices), heldout.medium)
    figures = {name: each.value for name, each in judge_called("strokes").figures(items).items()}
    assert figures == {"stroke_order": 1.0, "character_right": 1.0, "stroke_direction": 1.0, "character_overlap": 1.0}
    turned = JudgedItems(1 - (real.flip(2) - real[:, :, -1:]).abs(), real, items.rows, heldout.medium)  # what is drawn last comes first
    assert judge_called("strokes").figures(turned)["stroke_order"].value == 0
    shuffled = JudgedItems(real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))], real, items.rows, heldout.medium)
    found = {name: each.value for name, each in judge_called("strokes").figures(shuffled).items()}
    assert found["character_overlap"] < 0.3
    assert found["character_right"] < 0.3
