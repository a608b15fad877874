"""Videos of folders, shards and tables, with captions and classes, as every other kind of media."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.config.data import DataSection
from jielong.data import inspect, open_data
from jielong.data.source import DataError
from jielong.data.table import write_table
from jielong.media.images import encode, from_tensor
from jielong.media.kinds.video import VideoData, video_medium
from jielong.media.video import encode_video, write_frames

RATE, FRAMES, SIDE = 8.0, 4, 8
READ = {"frames": FRAMES, "frame_rate": RATE, "size": SIDE}


def clip(seed: int, frames: int = FRAMES) -> Tensor:
    return torch.randint(0, 256, (3, frames, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def put(path: Path, seed: int, frames: int = FRAMES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_video(clip(seed, frames), RATE, path.suffix))


def bytes_of(media: Tensor) -> Tensor:
    return ((media + 1) * 127.5).round().to(torch.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Videos of several formats in two classes, with captions, and frames of one in a folder."""
    put(tmp_path / "jump" / "a.mkv", 0)
    put(tmp_path / "jump" / "b.webp", 1)
    put(tmp_path / "run" / "c.apng", 2, frames=2)
    write_frames(tmp_path / "run" / "d", clip(3, frames=7), RATE)
    (tmp_path / "jump" / "a.txt").write_text("jump once")
    (tmp_path / "run" / "d.json").write_text(json.dumps({"caption": ["run far", "run"]}))
    return tmp_path


def test_a_folder_opens_with_captions_and_classes(folder: Path) -> None:
    videos = open_data(folder, **READ)
    assert videos.medium == video_medium(3, FRAMES, (SIDE, SIDE), RATE)
    assert videos.keys == ["jump/a.mkv", "jump/b.webp", "run/c.apng", "run/d"]
    assert videos.captions_of_items == [("jump once",), (), (), ("run far", "run")]
    assert videos.classes == ["jump", "run"]
    assert not videos.unused
    batch = videos.batch(range(4))
    assert batch.media.shape == (4, 3, FRAMES, SIDE, SIDE)
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [FRAMES] * 4
    for index, seed in ((0, 0), (1, 1)):
        assert torch.equal(bytes_of(batch.media[index]), clip(seed))
    assert torch.equal(bytes_of(batch.media[2]), clip(2, 2)[:, [0, 1, 1, 1]])
    assert torch.equal(bytes_of(batch.media[3]), clip(3, 7)[:, :FRAMES])
    assert len(set(videos.source.content_hashes)) == 4


def test_the_kind_follows_from_files_and_keys(tmp_path: Path) -> None:
    put(tmp_path / "clips" / "a.mkv", 0)
    assert open_data(tmp_path / "clips").medium.kind == "video"
    put(tmp_path / "animations" / "a.webp", 0)
    assert open_data(tmp_path / "animations").medium.kind == "image"
    assert open_data(tmp_path / "animations", kind="video").medium.kind == "video"
    assert DataSection().read({"set": "x", "frames": 4}) == VideoData(set="x", frames=4)
    with pytest.raises(DataError, match=r"is a set of videos, not of pictures; .* data: \{set: .*, size: 64, frames: 16, frame_rate: 8\}"):
        open_data(tmp_path / "clips", size=8, augment={"flip": True})


def test_a_metadata_file_names_videos_and_folders(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,caption,split\njump/a.mkv,one,train\nrun/d,two,test\nrun/none.mp4,three,train\n")
    videos = open_data(folder, **READ)
    assert videos.keys == ["jump/a.mkv", "run/d"]
    assert videos.captions == ["one", "two"]
    assert len(open_data(folder, "heldout", **READ)) == 1
    assert {entry.name for entry in videos.unused} == {"run/none.mp4", "jump/b.webp", "run/c.apng", "jump/a.txt", "run/d.json"}


def test_shards_hold_videos(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for seed in range(3):
            for suffix, data in ((".mkv", encode_video(clip(seed), RATE, ".mkv")), (".txt", f"clip {seed}".encode())):
                member = tarfile.TarInfo(f"{seed}{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    videos = open_data(tmp_path / "a.tar", **READ)
    assert videos.captions == ["clip 0", "clip 1", "clip 2"]
    assert torch.equal(bytes_of(videos.media([2]))[0], clip(2))


def test_tables_hold_videos_and_say_how_they_are_read(tmp_path: Path) -> None:
    rows = [{"video": encode_video(clip(seed), RATE), "caption": f"clip {seed}", "class": "a", "key": str(seed)} for seed in range(3)]
    write_table(
        tmp_path / "clips.parquet",
        rows,
        item="video",
        caption="caption",
        label="class",
        key=["key"],
        size=SIDE,
        frames=FRAMES,
        frame_rate=RATE,
    )
    videos = open_data(tmp_path / "clips.parquet")
    assert videos.medium == video_medium(3, FRAMES, (SIDE, SIDE), RATE)
    assert torch.equal(bytes_of(videos.media([1]))[0], clip(1))
    assert open_data(tmp_path / "clips.parquet", frames=2).medium == video_medium(3, 2, (SIDE, SIDE), RATE)


def test_pictures_and_sound_beside_videos_are_named(folder: Path) -> None:
    (folder / "note.wav").write_bytes(b"RIFF")
    (folder / "cover.png").write_bytes(encode(from_tensor(clip(0)[:, 0])))
    videos = open_data(folder, **READ)
    assert {entry.reason.partition(" is a ")[2] for entry in videos.unused} == {
        "picture, and videos are read; set data.kind to image to read it",
        "clip, and videos are read; set data.kind to audio to read it",
    }


def test_inspection_reports_sizes_rates_and_lengths(folder: Path, tmp_path: Path) -> None:
    report = inspect(folder, **READ)
    assert (report.count, report.classes, report.captions) == (4, {"jump": 2, "run": 2}, 2)
    assert (report.facts["shorter"], report.facts["longer"], report.facts["with sound"]) == (1, 1, 0)
    assert report.facts["formats"] == {"matroska ffv1": 1, "WEBP": 1, "PNG": 1, "folder": 1}
    rows = dict(report.rows)
    assert rows["shorter"] == "1 (run/c.apng) than the 4 frames read at 8 a second: the last frame is repeated"
    assert rows["longer"] == "1 (run/d) than the 4 frames read at 8 a second: the rest is not used"
    assert report.write_sheet(tmp_path / "sheet.png", columns=1).is_file()
