"""The kind of media comes from the recipe; classes are names, whatever they look like."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.data.inspecting import inspect
from jielong.data.opening import open_quietly, open_source
from jielong.media.audio import encode_audio
from jielong.media.images import encode

PNG = encode(Image.new("RGB", (8, 8), (9, 9, 9)))
WAV = encode_audio(torch.full((1, 400), 0.5), 1_000)


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.mark.parametrize(("pictures", "clips", "most"), [(1, 2, "audio"), (2, 1, "image"), (1, 1, "image")])
def test_the_recipe_says_the_kind_and_otherwise_the_most_files(tmp_path, pictures, clips, most):
    members = {f"p{n}.png": PNG for n in range(pictures)} | {f"s{n}.wav": WAV for n in range(clips)}
    put(tmp_path / "folder", members)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for path in (tmp_path / "folder", tmp_path / "set.tar"):
        assert open_source(path).kind == most
        assert len(open_quietly(path, size=8)) == pictures
        assert len(open_quietly(path, sample_rate=1_000)) == clips
        assert open_quietly(path, kind="audio").kind.name == "audio"


def test_a_table_with_two_columns_of_media_is_read_as_the_recipe_says(tmp_path):
    pq.write_table(pa.table({"image": [PNG], "audio": [WAV]}), tmp_path / "t.parquet")
    assert open_quietly(tmp_path / "t.parquet", sample_rate=1_000).full_length(0) == 400
    assert open_quietly(tmp_path / "t.parquet", size=8).media([0]).shape == (1, 3, 8, 8)


def test_inspection_counts_all_kinds_and_says_how_to_choose(tmp_path):
    put(tmp_path, {"a.png": PNG, "b.png": PNG, "c.wav": WAV})
    assert dict(inspect(tmp_path)._table())["kinds"] == "pictures are read; there are also audio: 1; choose by --kind audio"
    result = CliRunner().invoke(app, ["data", "inspect", str(tmp_path), "--kind", "audio", "--duration", "0.3", "--json"])
    report = json.loads(result.stdout)
    assert (report["count"], report["longer"], report["shorter"]) == (1, 1, 0)


def test_longer_and_shorter_clips_are_named(tmp_path):
    put(tmp_path, {f"{n}.wav": encode_audio(torch.full((1, 100 * n), 0.5), 1_000) for n in range(1, 8)})
    rows = dict(inspect(tmp_path, sample_rate=1_000, duration=0.2).rows)
    assert rows["longer"].startswith("5 (3.wav, 4.wav, 5.wav, ...) than the 0.2 s read: a generator leaves them out")
    assert rows["shorter"].startswith("1 (1.wav) than")


def test_numbers_are_names_of_classes(tmp_path):
    put(tmp_path / "folders", {f"{n}/a.png": PNG for n in (10, 9, 0, 1)})
    images = open_quietly(tmp_path / "folders", size=8)
    assert images.classes == ["0", "1", "9", "10"]
    assert images.labels == [0, 1, 3, 2]  # files are in the order of names
    put(tmp_path / "csv", {"a.png": PNG, "b.png": PNG, "metadata.csv": b"file_name,label\na.png,007\nb.png,7\n"})
    assert open_quietly(tmp_path / "csv", size=8).classes == ["007", "7"]
    for number, values in enumerate(([10, 2, None], [10.0, 2.0, float("nan")])):
        pq.write_table(pa.table({"image": [PNG] * 3, "label": values}), tmp_path / f"{number}.parquet")
        table = open_quietly(tmp_path / f"{number}.parquet", size=8)
        assert table.classes == ["2", "10"]
        assert table.labels == [1, 0, None]


def test_a_class_that_is_a_number_is_found_by_name():
    condition = Class(width=4).build(BuildContext(["1", "2", "10"]))
    assert condition.prepare(["10", "1"]).tolist() == [2, 0]
    assert condition.prepare([2, 0]).tolist() == [2, 0]  # numbers count from 0
    with pytest.raises(ValueError, match="no class '3'; classes are 1, 2, 10"):
        condition.prepare(["3"])


def test_one_sub_folder_is_one_class_and_a_loose_item_has_none(tmp_path):
    put(tmp_path, {"cat/a.png": PNG})
    assert open_quietly(tmp_path, size=8).classes == ["cat"]
    put(tmp_path, {"loose.png": PNG})
    images = open_quietly(tmp_path, size=8)
    assert images.classes == ["cat"]
    assert images.labels == [0, None]


def test_a_split_may_lack_a_class(tmp_path):
    put(tmp_path, {"train/cat/a.png": PNG, "train/dog/b.png": PNG, "test/dog/c.png": PNG})
    heldout = open_quietly(tmp_path, "heldout", size=8)
    assert heldout.classes == ["cat", "dog"]
    assert heldout.labels == [1]
