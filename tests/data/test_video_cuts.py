"""Long videos as several items."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.data import inspect, open_data
from jielong.data.ledger import Cause
from jielong.data.source import DataError
from jielong.media.video import encode_video, write_frames

RATE, SIDE = 8.0, 8


def film(seed: int, frames: int) -> Tensor:
    return torch.randint(0, 256, (3, frames, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A film of 23 frames, one of 9 as a folder of frames, and one of 3."""
    (tmp_path / "long.mkv").write_bytes(encode_video(film(0, 23), RATE, ".mkv"))
    write_frames(tmp_path / "middle", film(1, 9), RATE)
    (tmp_path / "short.webp").write_bytes(encode_video(film(2, 3), RATE))
    (tmp_path / "long.txt").write_text("a long film")
    return tmp_path


def test_parts_begin_every_stride_and_are_whole(films: Path) -> None:
    parts = open_data(films, frames=4, frame_rate=RATE, size=SIDE, stride=3)
    assert parts.keys == [*(f"long.mkv#{number}" for number in range(7)), "middle#0", "middle#1"]
    assert parts.captions[:2] == ["a long film"] * 2
    for index in (0, 6, 8):
        seed, frames, first = (0, 23, 3 * index) if index < 7 else (1, 9, 3 * (index - 7))
        assert torch.equal(((parts.media([index])[0] + 1) * 127.5).round().to(torch.uint8), film(seed, frames)[:, first : first + 4])
    assert len(set(parts.source.content_hashes)) == 9
    assert parts.unused.reasons(Cause.SHORT) == {"short.webp": "short.webp is shorter than a part of 4 frames, and data.stride is set"}


def test_parts_of_one_film_are_in_one_split(tmp_path: Path) -> None:
    for seed in range(30):
        (tmp_path / f"{seed:02d}.webp").write_bytes(encode_video(film(seed, 8), RATE))
    options = {"frames": 4, "frame_rate": RATE, "size": SIDE, "stride": 2, "kind": "video"}
    train, heldout = ({key.partition("#")[0] for key in open_data(tmp_path, split, **options).keys} for split in ("train", "heldout"))
    assert heldout
    assert not train & heldout
    assert len(train | heldout) == 30


def test_at_a_lower_rate_parts_are_longer(films: Path) -> None:
    parts = open_data(films, frames=4, frame_rate=RATE / 2, size=SIDE, stride=4)
    assert parts.keys == ["long.mkv#0", "long.mkv#1", "long.mkv#2", "middle#0"]
    assert torch.equal(((parts.media([1])[0] + 1) * 127.5).round().to(torch.uint8), film(0, 23)[:, 8:16:2])


def test_nothing_long_enough_is_an_error(films: Path) -> None:
    with pytest.raises(DataError, match=r"holds no usable video.*too short"):
        open_data(films, frames=40, frame_rate=RATE, size=SIDE, stride=3)


def test_inspection_counts_parts_and_each_file_once(films: Path) -> None:
    report = inspect(films, frames=4, frame_rate=RATE, size=SIDE, stride=3)
    assert (report.count, report.facts["parts"]) == (9, 9)
    assert report.facts["formats"] == {"matroska ffv1": 1, "folder": 1}
    assert report.facts["hours"] == pytest.approx((23 + 9) / RATE / 3600, rel=1e-3)
    assert report.unused.reasons(Cause.SHORT)
