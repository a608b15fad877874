# ruff: noqa: RUF001
from __future__ import annotations

import sys

import pytest
import torch

from jielong.media import espeak


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    if request.node.name != "test_absence_is_reported":
        pytest.importorskip("espeakng_loader")


def test_the_marks_of_a_sentence_stay_and_those_of_numbers_are_read() -> None:
    found = espeak.phonemes("It is 3.5 metres, e.g. here!")
    assert found.count(",") == 1
    assert found.endswith("!")
    assert "pɔɪnt" in found
    assert espeak.phonemes("") == ""
    chinese = espeak.phonemes("你好，世界。", "cmn")
    assert chinese.count(", ") == 1
    assert chinese.endswith(".")


def test_speech_is_as_long_as_its_text() -> None:
    short, rate = espeak.speak("no")
    long, _ = espeak.speak("no, we are not going to say that all over again")
    assert short.shape[0] == 1
    assert long.shape[1] > 3 * short.shape[1]
    assert 0.1 < long.shape[1] / rate < 10
    assert 0.05 < long.abs().max() <= 1
    other, _ = espeak.speak("no", "en-us+f3")
    assert other.shape != short.shape or not torch.equal(other, short)
    assert espeak.speak("no")[0].shape[1] == pytest.approx(short.shape[1], rel=0.05)


def test_phonemes_have_their_times() -> None:
    speech = espeak.speak_timed("Please open the blue door.")
    symbols = [each.symbol.strip("ˈˌ") for each in speech.phonemes if each.symbol]
    assert symbols[:4] == ["p", "l", "iː", "z"]
    assert {"b", "uː", "d"} <= set(symbols)
    times = [time for each in speech.phonemes for time in (each.start, each.end)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(speech.waveform.shape[1] / speech.rate, abs=0.01)
    loud = [speech.waveform[0, int(each.start * speech.rate) : int(each.end * speech.rate)].square().mean() for each in speech.phonemes]
    level = list(zip(loud, (each.symbol.strip("ˈˌ") for each in speech.phonemes), strict=True))
    vowels = [each for each, symbol in level if symbol in ("iː", "oʊ", "uː", "ɔːɹ")]
    quiet = [each for each, symbol in level if symbol in ("p", "")]
    assert min(vowels) > 2 * max(quiet)


def test_a_language_is_known_by_its_tag() -> None:
    assert espeak.phonemes("hôtel", "fr-fr") == espeak.phonemes("hôtel", "fr")
    assert espeak.phonemes("schedule", "en-gb") != espeak.phonemes("schedule", "en-us")


def test_an_unknown_voice_is_refused() -> None:
    with pytest.raises(ValueError, match="no language or voice called 'nobody'"):
        espeak.speak("a", "nobody")


@pytest.mark.parametrize(
    ("text", "language", "named"),
    [
        (
            "Hello, мир",
            "en-us",
            "'м' \\(U\\+043C, CYRILLIC SMALL LETTER EM\\), which eSpeak NG cannot read in 'en-us'.*Latin letters, or.*ru, uk",
        ),
        ("say 你好", "en-us", "'你' \\(U\\+4F60, CJK UNIFIED IDEOGRAPH-4F60\\).*cmn"),
        ("你", "de+m2", "'你'.*'de\\+m2'"),
        ("東京", "ja", "'東'"),
        ("Ελλάδα", "lt", "GREEK CAPITAL LETTER EPSILON.*el"),
        ("π", "es", "GREEK SMALL LETTER PI"),
        ("ក", "en-us", "KHMER LETTER KA.*write it in Latin letters$"),
        ("ⱻ", "en-us", "LATIN LETTER SMALL CAPITAL TURNED E.*write it in Latin letters$"),
        ("ꝭ", "de", "LATIN SMALL LETTER IS"),
        ("好𠀀", "cmn", "'𠀀'.*'cmn': write it in other characters"),
        ("㐍", "yue", "'㐍'"),
        ("200 ₽", "en-us", "'₽' \\(U\\+20BD, RUBLE SIGN\\), which eSpeak NG cannot read in 'en-us': write it in words$"),
        ("⅕ l", "en-us", "VULGAR FRACTION ONE FIFTH"),
        ("① open", "en-us", "CIRCLED DIGIT ONE"),
        ("★", "de", "BLACK STAR"),
        ("$5", "cmn", "DOLLAR SIGN"),
        ("😀", "cmn", "GRINNING FACE"),
        ("🇩🇪", "cmn", "REGIONAL INDICATOR"),
        ("5‰", "en-us", "PER MILLE SIGN"),
        ("a < b", "en-us", "LESS-THAN SIGN"),
        ("〇", "en-us", "IDEOGRAPHIC NUMBER ZERO"),
        ("ⓜ", "bn", "CIRCLED LATIN SMALL LETTER M"),
        ("⣿", "ar", "BRAILLE"),
        ("a\ue000", "en-us", "U\\+E000, a character without a name"),
        ("a\0b", "en-us", "U\\+0000"),
    ],
)
def test_a_letter_or_a_symbol_that_is_not_read_is_refused_by_name(text: str, language: str, named: str) -> None:
    for say in (espeak.phonemes, espeak.speak):
        with pytest.raises(ValueError, match=named):
            say(text, language)


@pytest.mark.parametrize(
    ("text", "language", "plain"),
    [
        ("Nguyễn Phở", "en-us", "Nguyen Pho"),
        ("Diyarbakır", "de", "Diyarbakir"),
        ("cafe\u0301", "en-us", "café"),
        ("𝐇ello Ａ", "en-us", "Hello A"),
        ("３５％", "cmn", "35%"),
        ("٣", "en-us", "3"),
        ("Ⅳ", "en-us", "IV"),
        ("it`s it´s", "en-us", "it's it's"),
    ],
)
def test_letters_and_digits_are_read_as_plainer_ones(text: str, language: str, plain: str) -> None:
    assert espeak.phonemes(text, language) == espeak.phonemes(plain, language)
    assert espeak.phonemes(plain, language)


@pytest.mark.parametrize("language", ["en-us", "de", "fr", "ru", "cmn", "ja"])
def test_signs_that_are_rightly_silent_may_stand(language: str) -> None:
    signs = "“so” ‘so’ «so» (so) [so] {so} <so> so-so so – so — so… so? • so · so_so ¡so! so\u00a0so\u2009so\u202fso"
    assert espeak.phonemes(signs + "so\u00adso\u200dso\u200bso\ufe0f", language)


def test_a_voice_reads_its_own_letters_and_pairs() -> None:
    assert espeak.phonemes("Phở", "vi") != espeak.phonemes("Pho", "vi")
    assert espeak.phonemes("٣", "ar") == espeak.phonemes("3", "ar")
    assert espeak.phonemes("〇", "cmn")
    assert espeak.phonemes("🇩🇪", "en-us") == espeak.phonemes("Germany", "en-us")


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Привет мир", "ru", "prʲivʲˈet mʲˈir"),
        ("Привет", "Russian", "prʲivʲˈet"),
        ("你好", "cmn", "ni2χˈɑu2"),
        ("コーヒー", "ja", None),
        ("naïve café Łódź ß 3.5 €5 £3 $2 50% 20 °C ½ 1ª 5 µm #1 & “so” - it’s…", "en-us", None),
        ("α", "en-us", "ˈælfə"),
        ("Hello мир", "ru", None),
    ],
)
def test_what_a_voice_knows_is_read(text: str, language: str, expected: str | None) -> None:
    found = espeak.phonemes(text, language)
    assert found
    assert expected is None or found == expected


def test_the_table_of_scripts_is_what_espeak_does() -> None:
    """A letter alone, said in a language that reads it, makes eSpeak change to no other."""
    library, _ = espeak._library()
    letters = {
        "ARABIC": "ب",
        "ARMENIAN": "բ",
        "BENGALI": "ক",
        "BOPOMOFO": "ㄅ",
        "CJK": "人",
        "CYRILLIC": "б",
        "DEVANAGARI": "क",
        "ETHIOPIC": "ሰ",
    }
    letters |= {
        "GEORGIAN": "ბ",
        "GREEK": "β",
        "GUJARATI": "ક",
        "GURMUKHI": "ਕ",
        "HANGUL": "가",
        "HEBREW": "ב",
        "HIRAGANA": "か",
        "KANNADA": "ಕ",
    }
    letters |= {"KATAKANA": "カ", "MALAYALAM": "ക", "MYANMAR": "င", "ORIYA": "କ", "SINHALA": "ක", "TAMIL": "க", "TELUGU": "క", "THAI": "ก"}
    assert letters.keys() == espeak._READERS.keys()
    for script, languages in espeak._READERS.items():
        for language in languages.split():
            espeak._choose(library, language)
            found = espeak._spoken(library, letters[script])
            assert found, (script, language)
            assert not espeak._LANGUAGE_SWITCH.search(found), (script, language)
            assert espeak.phonemes(letters[script] * 2, language)


def test_absence_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak._library.cache_clear()
    with pytest.raises(espeak.EspeakError, match=r"pip install 'jielong\[phonemes\]'"):
        espeak.phonemes("a")
