"""Sets of sound: folders and tables, one rate and length, crops by position, broken clips, and the built sets."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.data.built import BuildError, built_path
from jielong.data.inspecting import inspect
from jielong.data.ledger import Cause
from jielong.data.opening import open_data
from jielong.data.source import DataError
from jielong.media.audio import level, write_audio
from jielong_zoo.builders.building import build_set
from jielong_zoo.builders.prompts import VOICES, transcripts
from jielong_zoo.builders.samples import caption_of
from jielong_zoo.builders.spoken_words import STAMPS

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("av")
pytest.importorskip("soxr")


def ramp(samples: int) -> Tensor:
    """Every sample tells its own place."""
    return torch.arange(samples)[None] / 32_768


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for name, samples, rate in (("dog/long", 3_000, 1_000), ("dog/short", 400, 1_000), ("cat/slow", 500, 500)):
        write_audio(root / f"{name}.wav", ramp(samples), rate)
    (root / "dog" / "short.txt").write_text("a short bark\n")
    return root


def test_a_folder_gives_items_of_one_rate_and_length(folder: Path) -> None:
    sounds = open_data(folder, sample_rate=1_000, duration=1.0)
    assert sounds.classes == ["cat", "dog"]
    assert sounds.keys == ["cat/slow.wav", "dog/long.wav", "dog/short.wav"]
    batch = sounds.batch([1, 2, 0])
    assert batch.media.shape == (3, 1, 1_000)
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [1_000, 400, 1_000]
    assert torch.equal(batch.media[0], ramp(1_000))
    assert torch.equal(batch.media[1, :, :400], ramp(400))
    assert not batch.media[1, :, 400:].any()
    assert batch.captions == ["", "a short bark", ""]
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 1, 0]
    assert torch.equal(sounds.whole(1), ramp(3_000))
    tokens = torch.zeros(2, 5, 1)
    told = sounds.tokenised([2, 1], tokens)
    assert told.lengths is not None
    assert told.lengths.tolist() == [400, 1_000]


def test_crops_are_drawn_from_seed_and_position(folder: Path) -> None:
    sounds = open_data(folder, sample_rate=1_000, duration=1.0)
    starts = [round(float(sounds.crops([1], [position], seed=0).media[0, 0, 0]) * 32_768) for position in range(200)]
    assert min(starts) < 100
    assert max(starts) > 1_900
    assert max(starts) <= 2_000
    again = sounds.crops([2, 1], [7, 8], seed=0)
    assert round(float(again.media[1, 0, 0]) * 32_768) == starts[8]
    assert torch.equal(again.media[0, :, :400], ramp(400))
    other = sounds.crops([1], [8], seed=1).media
    assert not torch.equal(other[0], again.media[1])


def test_the_preprocessing_is_part_of_the_fingerprint(folder: Path) -> None:
    plain = open_data(folder, sample_rate=1_000, duration=1.0)
    assert plain.fingerprint == open_data(folder, sample_rate=1_000, duration=1.0).fingerprint
    others = [
        open_data(folder, sample_rate=2_000),
        open_data(folder, sample_rate=1_000, duration=2.0),
        open_data(folder, sample_rate=1_000, level=-30.0),
    ]
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert level(others[2].whole(1)) == pytest.approx(-30.0, abs=0.05)


def test_metadata_brings_speakers(folder: Path) -> None:
    (folder / "metadata.csv").write_text("path,text,speaker\ndog/long.wav,one two,Ann\ncat/slow.wav,three,Bob\n")
    sounds = open_data(folder, sample_rate=1_000)
    assert sounds.captions == ["one two", "three"]
    assert sounds.columns["speaker"] == ["Ann", "Bob"]


def test_a_broken_clip_is_named_and_replaced(folder: Path) -> None:
    path = folder / "dog" / "long.wav"
    path.write_bytes(path.read_bytes()[:1_000])  # known at opening, by its header
    samples = torch.full((500,), 0.1)
    samples[100] = math.nan  # known when it is decoded
    soundfile.write(folder / "dog" / "noise.wav", samples.numpy(), 1_000, subtype="FLOAT")
    sounds = open_data(folder, sample_rate=1_000)
    assert "cut off" in sounds.broken["dog/long.wav"]
    where = sounds.keys.index("dog/noise.wav")
    with pytest.warns(UserWarning, match="the next good clip takes its place"):
        batch = sounds.batch([where])
    assert batch.keys == ["dog/short.wav"]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [400]
    assert sounds.resolve(where) == sounds.keys.index("dog/short.wav")


def test_pictures_and_sound_are_not_confused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"is a set of clips of sound, not of pictures; .* sample_rate: 16000, duration: 1.0}"):
        open_data(folder, size=8)
    pytest.importorskip("jielong_zoo")
    with pytest.raises(DataError, match=r"is a set of pictures, not of clips of sound; .* size: 64}"):
        open_data("emoji", duration=1.0)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unpacked packages of two prompts and a tone a language."""
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "unpacked"
    for language, voice in VOICES.items():
        words = root / "usr/share/doc" / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
        words.parent.mkdir(parents=True)
        text = f"\ufeff; a comment: of theirs\n\nhello: Hello: {language}.\ndigits/1:  one \nbeep: [a tone]\nlost: never recorded\n"
        words.write_bytes(gzip.compress(text.encode()))
        sounds = root / "usr/share/asterisk/sounds" / voice.folder
        tone = 0.3 * torch.sin(torch.arange(8_000) * 2 * math.pi * 440 / 16_000)[None]
        for name in ("hello", "digits/1", "beep"):
            write_audio(sounds / f"{name}.g722", tone, 16_000)
    return root


def test_prompts_are_built_from_packages(packages: Path) -> None:
    with pytest.raises(DataError, match="jielong data build prompts"):
        open_data("prompts")
    assert build_set("prompts", packages) == built_path("prompts")
    sounds = open_data("prompts", duration=0.5)
    assert len(sounds) == 10
    assert sounds.keys[:2] == ["en/digits/1", "en/hello"]
    assert sounds.captions[:2] == ["one", "Hello: en."]
    assert sounds.classes == sorted(voice.speaker for voice in VOICES.values())
    assert set(sounds.columns["licence"]) == {"CC BY-SA 3.0", "CC BY 3.0"}
    assert level(sounds.media([0])[0]) == pytest.approx(20 * math.log10(0.3 / math.sqrt(2)), abs=0.3)
    assert "June Wallack" in (built_path("prompts").parent / "LICENSE-prompts.md").read_text()
    with pytest.raises(BuildError, match=r"neither \.deb files"):
        build_set("prompts", packages.parent / "cache")


def test_words_are_read_line_by_line() -> None:
    assert transcripts("; c: d\na/b: x  y\nt: [beep]\nnothing\nempty:\nc: one (date) two\n") == {"a/b": "x y", "c": "one two"}
    assert caption_of("bd_tek") == "bass drum, tek"
    assert caption_of("tabla_ke3") == "tabla, ke3"


@pytest.fixture
def stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stamps, said in three languages; a recording without words, one without a stamp, one that is broken."""
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "unpacked" / STAMPS / "animals"
    tone = 0.3 * torch.sin(torch.arange(4_410) * 2 * math.pi * 440 / 44_100).expand(2, -1)
    for name in ("frog_desc", "frog_desc_fr", "frog_desc_pt_BR", "frog_desc_lt", "owl_desc_fr", "lost_desc_fr"):
        write_audio(root / f"{name}.ogg", tone, 44_100)
    (root / "frog.txt").write_text("A  frog.\nfr.utf8=Une grenouille. \npt_BR.utf8=Um sapo.\nlt.utf8=\nca@valencia.utf8=Una granota.\n")
    (root / "owl.txt").write_text("An owl.\nfr.utf8=Un hibou.\nbe.utf8=Сава.\n")
    (root / "owl_desc_be.ogg").write_bytes(b"no sound")
    return tmp_path / "unpacked"


def test_spoken_words_are_recordings_with_words_in_their_language(stamps: Path) -> None:
    with pytest.raises(DataError, match="jielong data build spoken-words"):
        open_data("spoken-words")
    assert build_set("spoken-words", stamps) == built_path("spoken-words")
    sounds = open_data("spoken-words", duration=0.5)
    assert dict(zip(sounds.keys, sounds.captions, strict=True)) == {
        "en/animals/frog": "A frog.",
        "fr/animals/frog": "Une grenouille.",
        "fr/animals/owl": "Un hibou.",
        "pt_BR/animals/frog": "Um sapo.",
    }
    assert sounds.classes == ["en", "fr", "pt_BR"]
    assert sounds.length(0) == 1_600
    original = stamps / STAMPS / "animals" / "frog_desc.ogg"
    assert sounds.source.blob(sounds.keys.index("en/animals/frog")) == original.read_bytes()
    split = {item.key.partition("/")[2]: item.split for item in sounds.source.items}
    assert all(item.split == split[item.key.partition("/")[2]] for item in sounds.source.items)  # the same in every language
    assert "version 2" in (built_path("spoken-words").parent / "LICENSE-spoken-words.md").read_text()
    with pytest.raises(BuildError, match=r"neither \.deb files of tuxpaint-stamps-default"):
        build_set("spoken-words", stamps.parent / "cache")


def test_a_clip_whose_words_are_not_text_is_named(folder: Path) -> None:
    (folder / "dog" / "long.txt").write_bytes(b"caf\xe9")
    unused = inspect(folder).unused.reasons(Cause.WORDS)
    assert list(unused) == ["dog/long.wav"]
    assert "dog/long.txt is not UTF-8 text: line 1 has the byte 0xe9" in unused["dog/long.wav"]


def test_a_folder_of_nothing_lacks_what_it_was_meant_to_hold(tmp_path):
    with pytest.raises(DataError, match=r"holds no clips of sound; expected .*\.wav"):
        open_data(tmp_path, duration=2.0)
