"""Several sets as one: each keeps its items, words and splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from jielong.config.recipe import parse
from jielong.data.inspecting import inspect
from jielong.data.joined import joined_name, listed
from jielong.data.opening import open_data, open_source
from jielong.data.source import DataError
from jielong.data.table import write_table
from jielong.media.audio import encode_audio
from jielong.media.images import encode, to_bytes

RATE = 4_000


def clips(path: Path, first: int, **columns: str) -> Path:
    """Four clips whose levels tell their numbers, counted from ``first``; the second is held out."""
    rows = [
        {
            "audio": encode_audio(torch.full((1, 400), (first + n) / 16), RATE, ".wav"),
            "text": f"clip {first + n}",
            "split": "heldout" if n == 1 else "train",
            "name": str(n),
            **columns,
        }
        for n in range(4)
    ]
    write_table(path, rows, item="audio", caption="text", label=next(iter(columns)), key=("name",))
    return path


@pytest.fixture
def spoken(tmp_path: Path) -> str:
    told = clips(tmp_path / "told.parquet", 1, speaker="Ann", language="en")
    made = clips(tmp_path / "made.parquet", 5, voice="machine")
    return f"{told},{made}"


def test_items_keep_their_sound_words_and_splits(spoken: str) -> None:
    train, heldout = (open_data(spoken, sample_rate=RATE, duration=0.1, split=split) for split in ("train", "heldout"))
    assert train.captions == [f"clip {n}" for n in (1, 3, 4, 5, 7, 8)]
    assert heldout.captions == ["clip 2", "clip 6"]
    levels = train.batch(range(6)).media.mean((1, 2)) * 16
    torch.testing.assert_close(levels, torch.tensor([1.0, 3, 4, 5, 7, 8]), rtol=0, atol=1e-2)
    assert len(set(train.keys + heldout.keys)) == 8
    assert train.classes == ["Ann", "machine"]
    assert train.labels == [0, 0, 0, 1, 1, 1]


def test_columns_come_together_and_speakers_are_one(spoken: str) -> None:
    columns = open_data(spoken, sample_rate=RATE, split="heldout").columns
    assert columns["speaker"] == ["Ann", "machine"]
    assert columns["voice"] == [None, "machine"]
    assert columns["language"] == ["en", None]
    assert columns["set"] == spoken.split(",")


def test_each_may_be_chosen_from_and_a_list_means_the_same(spoken: str) -> None:
    told, made = spoken.split(",")
    several = [f"{told}?name=1&name=2", f"{made}?voice=machine"]
    sounds = open_data(several, sample_rate=RATE, split="train")
    assert sounds.captions == ["clip 3", "clip 5", "clip 7", "clip 8"]
    recipe = parse(f"extends: encodec-tiny\ndata: {{set: {json.dumps(several)}}}")
    assert recipe.data.set == ",".join(several)
    assert open_data(recipe.data.set, sample_rate=RATE, split="train").fingerprint == sounds.fingerprint


def test_what_each_holds_out_alone_is_held_out_together(tmp_path: Path) -> None:
    for folder, grey in (("a", 100), ("b", 200)):
        (tmp_path / folder).mkdir()
        for n in range(30):
            (tmp_path / folder / f"{n}.png").write_bytes(encode(Image.new("RGB", (8, 8), (grey + n,) * 3)))
            (tmp_path / folder / f"{n}.txt").write_text(f"{folder} {n}")
    names = [str(tmp_path / folder) for folder in "ab"]
    for split in ("train", "heldout"):
        alone = [open_data(name, size=8, split=split) for name in names]
        both = open_data(names, size=8, split=split)
        assert both.captions == [caption for images in alone for caption in images.captions]
        grey = to_bytes(both.media(range(len(both))))[:, 0, 4, 4]
        assert grey.tolist() == [100 * (1 + (caption[0] == "b")) + int(caption[2:]) for caption in both.captions]
    report = inspect(",".join(names))
    assert (report.count, report.captions) == (60, 60)


def test_the_fingerprint_knows_the_content_of_each_and_the_order(spoken: str) -> None:
    told, made = spoken.split(",")
    prints = [open_data(name, sample_rate=RATE).fingerprint for name in (spoken, f"{made},{told}", spoken)]
    clips(Path(made), 6, voice="machine")
    prints.append(open_data(spoken, sample_rate=RATE).fingerprint)
    assert prints[0] == prints[2]
    assert len(set(prints)) == 3


def test_they_are_inspected_together(spoken: str, tmp_path: Path) -> None:
    report = inspect(spoken)
    assert (report.count, report.splits, report.classes) == (8, {"train": 6, "heldout": 2}, {"Ann": 4, "machine": 4})
    assert report.write_sheet(tmp_path / "sheet.png").is_file()


def test_commas_of_patterns_and_paths_are_their_own(tmp_path: Path) -> None:
    assert listed("shards/{a,b}.tar, other?x=1&x=2") == ["shards/{a,b}.tar", "other?x=1&x=2"]
    odd = clips(tmp_path / "one,two.parquet", 0, speaker="Ann")
    assert len(open_source(odd).items) == len(open_source(f"{odd}?speaker=Ann").items) == 4


def test_what_cannot_be_joined_is_refused(spoken: str, tmp_path: Path) -> None:
    told = spoken.split(",")[0]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(encode(Image.new("RGB", (8, 8))))
    with pytest.raises(DataError, match=r"one kind of media can be joined, not .*told.parquet \(audio\), .* \(image\)"):
        open_source([told, str(pictures)])
    with pytest.raises(DataError, match="is given twice"):
        open_source(f"{told},{told}")
    with pytest.raises(DataError, match="both hold '0': take the set once"):
        open_source([told, f"{told}?speaker=Ann"])
    with pytest.raises(DataError, match="needs a name or a path in every place"):
        open_source([])
    with pytest.raises(DataError, match="an empty name beside a comma"):
        open_source(f"{told},")
    with pytest.raises(DataError, match="has a comma, which separates sets"):
        joined_name([spoken, "emoji"])
    with pytest.raises(ValueError, match="needs a name or a path in every place"):
        parse("extends: encodec-tiny\ndata: {set: []}")
