"""Data sets of Hugging Face's `datasets`: they equal the same folder, and are read by the decoders of every set."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import jielong
from jielong.config.recipe import load
from jielong.data.hub import GIVEN, name_of
from jielong.data.inspecting import inspect
from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong.media.images import encode
from jielong.media.reading.libraries import MissingLibraryError
from jielong.training.experiment import run

datasets = pytest.importorskip("datasets")
SIZE = 8


@pytest.fixture(autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels))


def folder_of(root: Path, count: int = 40) -> Path:
    """Class sub-folders of different pictures."""
    for number in range(count):
        path = root / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return root


def loaded(root: Path) -> object:
    return datasets.load_dataset("imagefolder", data_dir=str(root))


def assert_equal(found: MediaSet, folder: MediaSet) -> None:
    """The same items with the same words, in the same order and split, bit for bit."""
    assert torch.equal(found.media(range(len(found))), folder.media(range(len(folder))))
    assert found.source.identity(found.indices) == folder.source.identity(folder.indices)
    assert found.classes == folder.classes
    assert found.labels == folder.labels
    assert found.captions_of_items == folder.captions_of_items


@pytest.mark.parametrize("split", [None, "train", "heldout"])
def test_a_data_set_equals_the_same_folder(tmp_path: Path, split: str) -> None:
    root = folder_of(tmp_path / "set")
    data = loaded(root)
    data.save_to_disk(tmp_path / "dict")
    data["train"].save_to_disk(tmp_path / "rows")
    folder = open_data(root, split, size=SIZE)
    for name in (data, data["train"], f"hf:{root}", tmp_path / "dict", tmp_path / "rows", f"hf:{tmp_path / 'rows'}"):
        assert_equal(jielong.open_data(name, split, size=SIZE), folder)


def test_captions_splits_and_columns_have_the_roles_that_they_have_in_tables(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "mask": datasets.Image(),
            "caption": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["b", "a"]),
            "licence": datasets.Value("string"),
        }
    )

    def rows(first: int, count: int) -> object:
        numbers = range(first, first + count)
        bytes_of = [{"bytes": picture(number), "path": None} for number in numbers]
        words = [[f"one {number}", f"two {number}"] for number in numbers]
        columns = {"photo": bytes_of, "mask": bytes_of, "caption": words, "label": [n % 2 for n in numbers], "licence": ["CC0"] * count}
        return datasets.Dataset.from_dict(columns, features=features)

    data = datasets.DatasetDict({"train": rows(0, 5), "validation": rows(5, 3)})
    train, heldout = (jielong.open_data(data, split, size=SIZE) for split in ("train", "heldout"))
    assert train.keys == [f"train/{row}" for row in range(5)]
    assert heldout.captions_of_items == [(f"one {number}", f"two {number}") for number in range(5, 8)]
    assert [heldout.classes[label or 0] for label in heldout.labels] == ["a", "b", "a"]
    assert list(train.columns) == ["label", "licence"]
    data.save_to_disk(tmp_path / "set")
    assert len(open_data(f"hf:{tmp_path / 'set'}?label=1&split=train", size=SIZE)) == 2
    assert len(open_data(f"hf:{tmp_path / 'set'}?split=validation", size=SIZE)) == 3
    assert len(open_data(f"hf:{tmp_path / 'set'},{folder_of(tmp_path / 'other', 4)}", size=SIZE)) == 12
    shuffled = data["train"].shuffle(seed=1)
    assert jielong.open_data(shuffled, size=SIZE).captions == [words[0] for words in shuffled["caption"]]


def test_sound_equals_the_same_folder(tmp_path: Path) -> None:
    root, rows = tmp_path / "set", []
    root.mkdir()
    for number in range(30):
        buffer = io.BytesIO()
        soundfile.write(buffer, 0.5 * np.sin(np.arange(400 + 10 * number) / (3 + number)), 8000, format="WAV")
        (root / f"{number:02d}.wav").write_bytes(buffer.getvalue())
        (root / f"{number:02d}.txt").write_text(f"word {number}")
        rows.append({"audio": {"bytes": buffer.getvalue(), "path": f"{number}.wav"}, "text": f"word {number}"})
    columns = {name: [row[name] for row in rows] for name in ("audio", "text")}
    data = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
    options = {"sample_rate": 8000, "duration": 0.05}
    for split in ("train", "heldout"):
        assert_equal(jielong.open_data(data, split, **options), open_data(root, split, **options))
    with pytest.raises(DataError, match="is a set of clips of sound, not of pictures"):
        jielong.open_data(data, size=SIZE)


def test_a_broken_item_is_named_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [picture(0), picture(1)[:-40], b"", picture(3)]
    rows = [{"bytes": data, "path": None} for data in wanted] + [{"bytes": None, "path": path} for path in ("/dev/zero", "/nowhere.png")]
    data = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
    report = inspect(name_of(data))
    assert report.count == 2
    assert list(report.broken) == ["row 1", "row 2", "row 4", "row 5"]
    assert "/dev/zero is no file of this machine" in report.broken["row 4"]
    monkeypatch.setenv("JIELONG_DECODED_MB", "0.0001")
    with pytest.raises(DataError, match="row 0 is too large"):
        inspect(name_of(data))


def test_an_object_trains_resumes_and_is_refused_when_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = loaded(folder_of(tmp_path / "set"))
    brief = ["train.samples=8", "train.batch=4", "train.warmup=0", "train.sample_every=8", "train.save_every=8"]
    system = jielong.train("vqgan-tiny", data, out=tmp_path / "run", overrides=brief, device="cpu")
    name = system.recipe.data.set
    assert name.startswith(GIVEN)
    assert name == name_of(loaded(tmp_path / "set")) == name_of(data["train"]) != name_of(loaded(folder_of(tmp_path / "other", 41)))
    jielong.train("vqgan-tiny", loaded(tmp_path / "set"), out=tmp_path / "run", overrides=brief, device="cpu")
    monkeypatch.setattr("jielong.data.hub._given", {})
    with pytest.raises(DataError, match=f"{name} was a data set given as an object of Python"):
        run(load("vqgan-tiny", brief), tmp_path / "again", name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf:nobody/nothing", "hf:nobody/nothing cannot be loaded by the library `datasets`: "),
        ("hf:nobody/nothing?split=train&config=a&config=b", "has several values of config"),
        ("dataset:0123456789ab", "given as an object of Python"),
    ],
)
def test_what_cannot_be_loaded_is_named(name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_data(name)


@pytest.mark.parametrize("data", [7, ["a"], {}])
def test_another_object_is_refused(data: object) -> None:
    with pytest.raises(DataError, match=r"no split|a set is a Dataset or DatasetDict"):
        jielong.open_data(data)  # type: ignore[arg-type]


def test_streams_and_columns_without_media_are_refused() -> None:
    stream = datasets.Dataset.from_dict({"image": [1]}).to_iterable_dataset()
    with pytest.raises(DataError, match=r"holds a IterableDataset; .* without streaming"):
        jielong.open_data(stream)
    with pytest.raises(DataError, match="has no column of pictures"):
        jielong.open_data(datasets.Dataset.from_dict({"image": [1], "text": ["a"]}))


def test_no_code_of_a_data_set_is_run(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "set.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    with pytest.raises(DataError, match="cannot be loaded"):
        open_data(f"hf:{root}")
    assert sorted(os.listdir(tmp_path)) == ["set"]


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "state.json").touch()
    for name in ("hf:a/b", str(tmp_path)):
        with pytest.raises(MissingLibraryError, match=r"pip install 'jielong\[hf\]'"):
            open_data(name)
