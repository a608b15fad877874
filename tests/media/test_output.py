"""Where results are written, and what becomes of those of the last run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from jielong.core.storage import StorageError
from jielong.media import audio, images
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.base import kinds
from jielong.media.kinds.image import image_medium
from jielong.media.kinds.video import video_medium
from jielong.media.output import Output, OutputError
from jielong.media.pictures import Pictures
from jielong.media.players import Sounds
from jielong.media.reading.libraries import MissingLibraryError
from jielong.media.reading.sound import read_audio

PICTURES, SOUND = image_medium(3, (8, 8)), audio_medium(1, 800, 16_000)


def pictures(count: int, seed: int = 0) -> Pictures:
    return Pictures(torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1)


def sounds(count: int) -> Sounds:
    return Sounds(torch.linspace(-0.5, 0.5, 800).sin().expand(count, 1, -1), 16_000)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("ending", list(images.WRITTEN))
def test_pictures_come_back_from_every_ending(ending: str, tmp_path: Path) -> None:
    items = pictures(1)
    Output.of(tmp_path / f"one{ending}", PICTURES).write(items, {})
    assert names(tmp_path) == {f"one{ending}"}
    with Image.open(tmp_path / f"one{ending}") as image:
        found = images.to_tensor(image)
    exact = images.to_float(images.to_bytes(items[0].tensor))
    assert torch.equal(found, exact) if image.format != "JPEG" else float((found - exact).abs().mean()) < 0.06


@pytest.mark.parametrize("ending", audio.WRITTEN)
def test_sound_comes_back_from_every_ending(ending: str, tmp_path: Path) -> None:
    Output.of(tmp_path / f"one{ending}", SOUND).write(sounds(1), {})
    found, rate = read_audio(tmp_path / f"one{ending}")
    assert rate == 16_000 or ending == ".opus"
    assert found.shape[1] >= 800


def test_every_kind_writes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    media = {"image": PICTURES, "audio": SOUND, "video": video_medium(3, 4, (16, 16), 8)}
    for kind in (kinds()[name] for name in media):
        for ending in {*kind.written, *(other for each in kinds().values() for other in each.suffixes), ".xyz"}:
            path = tmp_path / f"a{ending}"
            if ending in kind.written:
                kind.check_written(path, media[kind.name])
            else:
                with pytest.raises(OutputError, match=f"not written as {ending}: use {kind.written[0]}, "):
                    Output.of(path, media[kind.name])
    assert names(tmp_path) == set()


def test_formats_that_cannot_hold_the_sound_and_missing_libraries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ending, rate in ((".mp3", 96_000), (".opus", 44_100), (".g722", 24_000)):
        with pytest.raises(OutputError, match=f"at {rate:,}"):
            Output.of(tmp_path / f"a{ending}", audio_medium(1, 800, rate))

    def missing(name: str) -> None:
        raise MissingLibraryError(f"sound needs {name}: pip install 'jielong[sound]'")

    monkeypatch.setattr(audio, "library", missing)
    Output.of(tmp_path / "a.wav", SOUND)
    with pytest.raises(MissingLibraryError, match=r"jielong\[sound\]"):
        Output.of(tmp_path / "a.flac", SOUND)


def test_a_name_without_an_ending_or_of_a_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "set.png").mkdir()
    for name in ("plain", "v1.0", "set.png"):
        Output.of(tmp_path / name, PICTURES).write(pictures(1), {})
        assert names(tmp_path / name) == {"0000.png", "provenance.json"}
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, and a folder is needed"):
        Output.of(tmp_path / "file", PICTURES)


@pytest.mark.parametrize("name", ["out", "out.png"])
def test_fewer_results_leave_none_of_the_last_run(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Output.of(path, PICTURES).write(pictures(5), {})
    assert "removed 3 files of the last run" in Output.of(path, PICTURES).write(pictures(2, 1), {"seed": 1})
    output = Output.of(path, PICTURES)
    record = json.loads(output.record.read_text())
    assert record["seed"] == 1
    assert set(record["files"]) | {output.record.name} == names(output.folder)
    assert len(output.former()) == 4  # two items, the sheet or the file of all, the record
    assert "removed" in Output.of(path, PICTURES).write(pictures(1), {})


@pytest.mark.parametrize("name", ["out", "out.png"])
def test_what_the_last_run_did_not_write_is_never_removed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    output = Output.of(path, PICTURES)
    output.write(pictures(3), {})
    second = output.folder / (output.name_of(1) if output.single else "0001.png")
    (output.folder / "mine.png").write_text("mine")
    written = second.read_bytes()
    for change in (second, output.folder / second.name.replace("0001", "0009")):
        change.write_bytes(b"painted over")
        with pytest.raises(OutputError, match=f"were changed since: {change.name};"):
            Output.of(path, PICTURES)
        second.write_bytes(written)
    change.unlink()
    begun = Output.of(path, PICTURES)
    second.write_bytes(b"painted over while that run worked")
    with pytest.warns(UserWarning, match="Nothing of it is removed"):
        begun.write(pictures(1), {})
    assert second.read_bytes() == b"painted over while that run worked"
    assert (output.folder / "mine.png").read_text() == "mine"


def test_a_record_names_no_files_elsewhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"")
    (tmp_path / "out").mkdir()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "out" / "provenance.json").write_text(json.dumps({"files": {"../victim.png": empty, str(victim): empty}}))
    Output.of(tmp_path / "out", PICTURES).write(pictures(1), {})
    assert victim.exists()


def test_a_foreign_record_is_kept(tmp_path: Path) -> None:
    for text in ("{}", "[]", "not JSON", '{"files": 3}'):
        (tmp_path / "provenance.json").write_text(text)
        with pytest.raises(OutputError, match=r"provenance\.json"):
            Output.of(tmp_path, PICTURES)
        assert (tmp_path / "provenance.json").read_text() == text
