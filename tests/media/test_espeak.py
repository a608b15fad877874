# ruff: noqa: RUF001
from __future__ import annotations

import sys

import pytest
import torch

from jielong.media import espeak


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    if request.node.name != "test_absence_is_told":
        pytest.importorskip("espeakng_loader")


def test_the_marks_of_a_sentence_stay_and_those_of_numbers_are_read() -> None:
    said = espeak.phonemes("It is 3.5 metres, e.g. here!")
    assert said.count(",") == 1
    assert said.endswith("!")
    assert "pɔɪnt" in said
    assert espeak.phonemes("") == ""
    chinese = espeak.phonemes("你好，世界。", "cmn")
    assert chinese.count(", ") == 1
    assert chinese.endswith(".")


def test_speech_is_as_long_as_what_is_said() -> None:
    short, rate = espeak.speak("no")
    long, _ = espeak.speak("no, we are not going to say that all over again")
    assert short.shape[0] == 1
    assert long.shape[1] > 3 * short.shape[1]
    assert 0.1 < long.shape[1] / rate < 10
    assert 0.05 < long.abs().max() <= 1
    other, _ = espeak.speak("no", "en-us+f3")
    assert other.shape != short.shape or not torch.equal(other, short)
    assert espeak.speak("no")[0].shape[1] == pytest.approx(short.shape[1], rel=0.05)


def test_a_language_is_known_by_its_tag() -> None:
    assert espeak.phonemes("hôtel", "fr-fr") == espeak.phonemes("hôtel", "fr")
    assert espeak.phonemes("schedule", "en-gb") != espeak.phonemes("schedule", "en-us")


def test_an_unknown_voice_is_refused() -> None:
    with pytest.raises(ValueError, match="no language or voice called 'nobody'"):
        espeak.speak("a", "nobody")


def test_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak._library.cache_clear()
    with pytest.raises(espeak.EspeakError, match=r"pip install 'jielong\[phonemes\]'"):
        espeak.phonemes("a")
