"""Sentences for speech synthesis: number, form, use of every word, coverage of English phonemes."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from jielong.media.espeak import EspeakError, phonemes
from jielong_zoo.builders.phrases import PROMPTS, QUESTIONS, SHORT, STATEMENTS, WORDS
from jielong_zoo.builders.sentences import WRITTEN, filled, sentences


def test_sentences_are_well_formed_and_distinct() -> None:
    texts = sentences()
    assert len(texts) == len(set(texts)) > 6_000
    assert set(WRITTEN.split("\n")) - {""} <= set(texts)
    assert all(text[0].isupper() and text[-1] in ".?!" and text == " ".join(text.split()) and "{" not in text for text in texts)
    assert len({word for text in texts for word in re.findall(r"[a-z'-]+", text.lower())}) > 1_700


def test_every_word_is_used_before_any_is_repeated() -> None:
    kinds = {"x": ["one", "two", "three"], "y": [*"abcdef"]}
    parts = [re.findall(r"\w+", text.lower()) for text in filled("{x}, {y} and {y2}.", 6, kinds)]
    assert Counter(part[0] for part in parts) == dict.fromkeys(kinds["x"], 2)
    assert Counter(part[1] for part in parts) == dict.fromkeys(kinds["y"], 1)
    assert all(part[1] != part[3] for part in parts)


def test_article_before_a_vowel() -> None:
    assert set(filled("A {x} and a {x2}.", 2, {"x": ["owl", "usual owl"]})) == {"An owl and a usual owl.", "A usual owl and an owl."}
    assert filled("{x} and B.", 1, {"x": ["A"]}) == ["A and B."]


def test_slots_and_word_lists_match() -> None:
    slots = {
        kind
        for patterns in (SHORT, PROMPTS, STATEMENTS, QUESTIONS)
        for pattern in patterns
        for kind in re.findall(r"{([a-z]+)\d*}", pattern)
    }
    assert slots == set(WORDS)
    assert {kind: words for kind, words in WORDS.items() if len(set(words)) < len(words) or "" in words} == {}


def test_every_english_phoneme_occurs() -> None:
    try:
        spoken = " ".join(phonemes(text) for text in sentences()[:1000])
    except EspeakError:
        pytest.skip("needs eSpeak NG")
    sounds = ("iː ɪ eɪ ɛ æ ɑː ɔ oʊ ʊ uː ʌ ə ɜː ɚ aɪ aʊ ɔɪ", "p b t d k ɡ tʃ dʒ f v θ ð s z ʃ ʒ h m n ŋ l ɹ j w")  # noqa: RUF001
    assert {sound: spoken.count(sound) for sound in " ".join(sounds).split() if spoken.count(sound) < 10} == {}
