# ruff: noqa: RUF001
"""The set `avatars`: mouths follow phonemes, splits share neither sentence nor face, and the judge finds each fault."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from dataclasses import replace
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
from jielong.data.licences import terms
from jielong.data.sets import MediaSet
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.judges.avatars import EYES, MOUTH, SHAPES
from jielong.evaluation.judges.base import JudgedItems, judge_called, rows_of
from jielong.media.espeak import SpokenPhoneme
from jielong_zoo.builders.avatars import dataset
from jielong_zoo.builders.avatars.drawing import Looks, Speaker, identities
from jielong_zoo.builders.avatars.mouths import DRAWINGS, LETTERS, shapes_of, spoken_shapes

DATA = Path(jielong_zoo.path()) / "data"


def test_every_letter_has_one_shape_and_every_shape_a_drawing() -> None:
    letters = "".join(LETTERS.values())
    assert len(set(letters)) == len(letters)
    assert tuple(DRAWINGS) == SHAPES == (*LETTERS, "smile")
    assert [shapes_of(symbol) for symbol in ("p", "ˈiː", "ˈoʊ", "aɪ", "tʃ", "ˈɔːɹ")] == [
        *(["closed"], ["teeth"], ["round", "pucker"], ["wide", "teeth"], ["teeth", "teeth"], ["round", "round"]),
    ]
    with pytest.raises(BuildError, match="no mouth shape is known of '7'"):
        shapes_of("ˈ7")


def test_a_frame_shows_what_lasts_longest_within_it() -> None:
    spoken = (SpokenPhoneme("m", 0.0, 0.1), SpokenPhoneme("aɪ", 0.1, 0.3), SpokenPhoneme("f", 0.3, 0.45))
    found = spoken_shapes(spoken, 9, 10.0, 0.1)
    wanted = [("closed", ""), ("closed", "m"), ("wide", "aɪ"), ("teeth", "aɪ"), ("bite", "f"), ("bite", "f"), *[("closed", "")] * 3]
    assert found == wanted  # the sixth frame is half "f", half silence: the first of equal ones
    assert spoken_shapes((), 3, 10.0, 0.1) == [("closed", "")] * 3


def test_blinks_last_two_frames_and_do_not_touch() -> None:
    for number in range(200):
        closed, smiles = dataset.cues(f"clip {number}", 20 + number % 6)
        runs = "".join("x" if each else " " for each in closed).split()
        assert all(run == "xx" for run in runs)
        assert len(runs) <= 2
        assert not closed[0]
        assert not (smiles and 20 + number % 6 > 22)


def test_faces_differ_and_have_no_beard() -> None:
    found = identities(64)
    assert len({json.dumps(face.attributes) for face in found}) == 64
    assert {face.attributes["facial_hair"] for face in found} == {"none"}
    assert found[:10] == identities(10)


def look(seed: str) -> Looks:
    """A face of noise, whose mouths and blink differ in their places alone."""
    rng = np.random.default_rng(sum(seed.encode()))
    face = next(each for each in identities(8) if each.seed == seed)
    base = rng.integers(0, 256, (64, 64, 3), np.uint8)

    def changed(box: tuple[int, int, int, int]) -> np.ndarray:
        picture, (top, left, height, width) = base.copy(), box
        picture[top : top + height, left : left + width] = rng.integers(0, 256, (height, width, 3))
        return picture

    return Looks(face, {shape: changed(MOUTH) for shape in SHAPES}, changed(EYES))


def test_a_blink_leaves_the_mouth_as_it_is() -> None:
    assert EYES[0] + EYES[2] <= MOUTH[0]
    each = look(identities(8)[3].seed)
    opened, shut = each.clip(["wide", "wide"], [False, True])
    assert np.array_equal(opened, each.mouths["wide"])
    changed = (opened != shut).any(-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max() + 1) == (EYES[0], EYES[0] + EYES[2])
    assert (columns.min(), columns.max() + 1) == (EYES[1], EYES[1] + EYES[3])


def test_the_same_parts_give_the_same_rows(tmp_path: Path) -> None:
    looks = [look(face.seed) for face in identities(8)]
    shapes, phonemes = ("open",) * 15 + ("closed",) * 10, ("a",) * 15 + ("",) * 10
    said = [dataset.Spoken(f"sentence {n}", "en-us", bytes([n]), shapes, phonemes, 15) for n in range(2)]
    tables: list[list[JSON]] = [list(dataset.rows(said, looks)) for _ in range(2)]
    for number, table in enumerate(tables):
        dataset.write_avatars(tmp_path / f"{number}.parquet", table)
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()
    assert len(tables[0]) == 2 * dataset.FACES_EACH
    for row in tables[0]:
        assert ("smiles" in row["caption"]) == ("smile" in row["shapes"]) == row["smiles"]
        assert ("blinks" in row["caption"]) == any(row["closed"])
        assert f'"{row["text"]}"' in row["caption"]
    opened = open_data(tmp_path / "0.parquet")
    real = opened.media([0])
    figures = judge_called("avatars").figures(JudgedItems(real, real, rows_of(opened, [0]), opened.medium))
    assert {each.value for each in figures.values()} == {1.0}


def test_speech_is_placed_by_its_lead_and_is_as_long_as_the_clip() -> None:
    soundfile = pytest.importorskip("soundfile")
    tone = torch.sin(torch.arange(16_000) * 0.3)[None] * 0.5
    data = dataset.sound(tone, 16_000)
    assert data == dataset.sound(tone, 16_000)
    samples, rate = soundfile.read(io.BytesIO(data))
    assert (rate, len(samples)) == (16_000, 32_000)
    loud = np.abs(samples) > 0.25
    assert np.flatnonzero(loud)[0] == pytest.approx(0.16 * 16_000, abs=80)
    assert np.flatnonzero(loud)[-1] == pytest.approx(1.16 * 16_000, abs=80)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_an_order_replaces_the_mouth_and_shows_the_face() -> None:
    face = identities(1)[0]
    order = json.loads(Speaker(face.style, face.attributes, face.seed, "wide", "humble").order())
    assert order["options"]["eyes"] == ["humble"]
    assert DRAWINGS["wide"] in order["mouth"]
    assert order["view"] == "154 120 460 460"


@pytest.fixture(scope="module")
def rows() -> list[JSON]:
    columns = ["text", "face", "split", "held_out", "shapes", "phonemes", "closed", "voice", "audio"]
    found: list[JSON] = pq.read_table(DATA / "avatars.parquet", columns=columns).to_pylist()
    return found


def test_a_held_out_sentence_or_face_is_not_in_training(rows: list[JSON]) -> None:
    trained = [row for row in rows if row["split"] == "train"]
    sentences, faces = ({row[name] for row in trained} for name in ("text", "face"))
    kinds = Counter(row["held_out"] for row in rows)
    assert len(rows) == 640
    assert set(kinds) == {"", "sentence", "face", "sentence and face"}
    for row in rows:
        assert (row["split"] == "train") == (row["held_out"] == "")
        assert ("sentence" in row["held_out"]) == (row["text"] not in sentences)
        assert ("face" in row["held_out"]) == (row["face"] not in faces)


def test_shapes_are_those_of_the_phonemes(rows: list[JSON]) -> None:
    seen = Counter(shape for row in rows for shape in row["shapes"])
    assert set(seen) == set(SHAPES)
    for row in rows[::16]:
        for shape, phoneme in zip(row["shapes"], row["phonemes"], strict=True):
            assert shape in ([*shapes_of(phoneme), "closed"] if phoneme else ["closed", "smile"]) or shape == "smile"


def test_it_is_below_five_megabytes_and_says_its_terms() -> None:
    assert (DATA / "avatars.parquet").stat().st_size < 5_000_000
    assert "Johan Melin" in (DATA / "LICENSE-avatars.md").read_text("utf-8")
    assert {each.licence for each in terms("avatars")} == {"CC BY 4.0"}


@pytest.fixture(scope="module")
def heldout() -> MediaSet:
    return open_data("avatars", "heldout")


@pytest.fixture(scope="module")
def items(heldout: MediaSet) -> JudgedItems:
    indices = list(range(0, len(heldout), 10))
    real = heldout.media(indices)
    return JudgedItems(real, real, rows_of(heldout, indices), heldout.medium)


def figures(items: JudgedItems, made: torch.Tensor) -> dict[str, float]:
    return {name: each.value for name, each in judge_called("avatars").figures(replace(items, made=made)).items()}


def test_real_clips_are_right(items: JudgedItems) -> None:
    assert str(items.medium) == "video of 3 x 25 x 64 x 64 at 12.5 Hz"
    assert figures(items, items.real) == {"mouth_shape": 1.0, "eyes_closed": 1.0, "eyes_open": 1.0, "face_unchanged": 1.0}


def test_noise_and_blur_of_a_decoder_change_little(items: JudgedItems) -> None:
    rng = torch.Generator().manual_seed(0)
    frames = items.real.transpose(1, 2).flatten(0, 1)
    blurred = torch.nn.functional.avg_pool2d(frames, 3, 1, 1).unflatten(0, (len(items.real), -1)).transpose(1, 2)
    found = figures(items, blurred + 0.1 * torch.randn(blurred.shape, generator=rng))
    assert found["mouth_shape"] > 0.95
    assert found["eyes_open"] > 0.95


def test_each_fault_lowers_its_own_figure(items: JudgedItems) -> None:
    late = items.real.roll(1, 2)
    wanted = [row["shapes"] for row in items.rows]
    same = [one == other for shapes in wanted for one, other in zip([shapes[-1], *shapes[:-1]], shapes, strict=True)]
    assert figures(items, late)["mouth_shape"] == pytest.approx(sum(same) / len(same))
    still = items.real[:, :, :1].expand_as(items.real)
    found = figures(items, still)
    assert found["mouth_shape"] == pytest.approx(sum(shapes[0] == shape for shapes in wanted for shape in shapes) / (25 * len(wanted)))
    assert (found["eyes_closed"], found["eyes_open"], found["face_unchanged"]) == (0.0, 1.0, 1.0)
    painted = items.real.clone()
    painted[:, :, :, :8] = -painted[:, :, :, :8].sign()
    outside = 64 * 64 - MOUTH[2] * MOUTH[3] - EYES[2] * EYES[3]
    assert figures(items, painted)["face_unchanged"] == pytest.approx(1 - 8 * 64 / outside)
    others = figures(items, items.real.roll(1, 0))
    assert others["face_unchanged"] < 0.9


def test_other_sizes_are_refused(items: JudgedItems) -> None:
    with pytest.raises(JudgeError, match=r"64 x 64 pixels at 12\.5 Hz, and these are video of 3 x 25 x 32 x 64"):
        judge_called("avatars").figures(replace(items, medium=items.medium.resized("rows", 32)))
    damaged = [row | {"mouths": b"no picture"} for row in items.rows]
    with pytest.raises(JudgeError, match="templates of a face cannot be read"):
        judge_called("avatars").figures(replace(items, rows=damaged))
    buffer = io.BytesIO()
    Image.new("RGB", (24, 18)).save(buffer, "PNG")
    with pytest.raises(JudgeError, match="9 of 18 x 24 pixels"):
        judge_called("avatars").figures(replace(items, rows=[row | {"mouths": buffer.getvalue()} for row in items.rows]))
