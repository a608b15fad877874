"""eSpeak NG through its shared library: text to phonemes, and text to speech.

The library and its data come with the package ``espeakng-loader``; eSpeak NG is licensed under the GPL, version 3.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import threading
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8, _IPA, _BY_CHARACTER = 2, 0x8000, 1, 2, 1
_PHONEME_EVENTS, _EVENTS_IN_IPA, _LAST_EVENT, _PHONEME = 1, 2, 0, 7
# A mark inside a number or a name (3.5, e.g.) is read by eSpeak; one before a space or the end is punctuation, and kept.
_MARKS = re.compile(r"([.,;:!?…]+)(?=\s|$)")
_USUAL = str.maketrans(
    {chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7E)}  # full-width letters, digits and signs
    | {"，": ", ", "、": ", ", "。": ". ", "！": "! ", "？": "? ", "；": "; ", "：": ": ", "`": "'", "´": "'"}  # noqa: RUF001
)
"""Replacements before eSpeak NG, in all languages."""
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")
_WORD = re.compile(r"[^\W\d_]+")
_UNIT = re.compile("[\U0001f1e6-\U0001f1ff]{2}|.", re.DOTALL)  # two regional letters are a flag
_LETTERS = ("Lu", "Ll", "Lt", "Lo")
_ANGLES = re.compile(r"<(?=\S)([^<>]*)(?<=\S)>")  # brackets in the text, symbols by Unicode
_SIGNS_OF_WORDS = "%‰‱٪&@§¶"
"""Punctuation, by Unicode, that is read as words."""
_READERS = {
    "ARABIC": "ar fa sd ug ur", "ARMENIAN": "hy hyw", "BENGALI": "bn as bpy", "BOPOMOFO": "cmn", "CJK": "cmn yue",
    "CYRILLIC": "ru uk be bg mk sr bs hr ba cv kk ky lfn nog tt uz", "DEVANAGARI": "hi mr ne kok", "ETHIOPIC": "am ti", "GEORGIAN": "ka",
    "GREEK": "el grc", "GUJARATI": "gu", "GURMUKHI": "pa", "HANGUL": "ko", "HEBREW": "he", "HIRAGANA": "ja", "KANNADA": "kn",
    "KATAKANA": "ja", "MALAYALAM": "ml", "MYANMAR": "my shn", "ORIYA": "or", "SINHALA": "si", "TAMIL": "ta", "TELUGU": "te", "THAI": "th",
}  # fmt: skip
"""Languages in which eSpeak NG reads a script, by the first word of Unicode names; Latin letters are read in all."""
_lock = threading.Lock()  # the library has one state per process


class EspeakError(RuntimeError):
    """eSpeak NG is missing or does not work; the message says what to install."""


class _Identifier(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("phoneme", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of its header ``speak_lib.h``; ``milliseconds`` is the place in the sound."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("type", "message", "text_position", "length", "milliseconds", "sample")),
        ("user_data", ctypes.c_void_p),
        ("id", _Identifier),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class SpokenPhoneme:
    """A phoneme of synthetic speech.

    Attributes:
        symbol: Of the International Phonetic Alphabet, with marks of stress; empty for a pause.
        start: Seconds at which it begins.
        end: Seconds at which the next one begins, or the speech ends.
    """

    symbol: str
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Speech:
    """Synthetic speech.

    Attributes:
        waveform: ``(1, T)`` float32 in [-1, 1].
        rate: Samples a second.
        phonemes: In their order; what eSpeak NG says of the times at which it speaks them.
    """

    waveform: Tensor
    rate: int
    phonemes: tuple[SpokenPhoneme, ...]


class _Voice(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("languages", ctypes.c_void_p), ("identifier", ctypes.c_char_p))  # further fields are not used


@functools.cache
def _library() -> tuple[ctypes.CDLL, int]:
    """The initialised library, and the sample rate of its speech."""
    try:
        import espeakng_loader
    except ImportError:
        raise EspeakError("eSpeak NG, which the phonemes need, is not installed: pip install 'jielong[phonemes]'") from None
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
    options = _DO_NOT_EXIT | _PHONEME_EVENTS | _EVENTS_IN_IPA
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), options)
    if rate < 1:
        raise EspeakError("eSpeak NG is installed but cannot read its data: pip install --force-reinstall espeakng-loader")
    return library, rate


@functools.cache
def _files() -> dict[str, str]:
    """Identifiers of the preferred voice of each language tag (``en-gb``, ``fr-fr``)."""
    library, _ = _library()
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
    found: dict[str, tuple[int, str]] = {}
    for voice in library.espeak_ListVoices(None):
        if not voice:
            break
        address, identifier = voice.contents.languages, (voice.contents.identifier or b"").decode()
        while address and (priority := ctypes.string_at(address, 1)[0]):  # a byte of priority, then a tag that ends in zero
            tag = ctypes.string_at(address + 1)
            address += len(tag) + 2
            known = found.get(tag.decode().lower())
            if known is None or priority < known[0]:
                found[tag.decode().lower()] = (priority, identifier)
    return {tag: identifier for tag, (_, identifier) in found.items()}


def _choose(library: ctypes.CDLL, voice: str) -> None:
    tag, plus, variant = voice.partition("+")
    name = _files().get(tag.lower(), tag) + plus + variant
    if library.espeak_SetVoiceByName(name.encode()):
        raise ValueError(f"eSpeak NG has no language or voice called {voice!r}; write one such as en-us, de, fr-fr, cmn or en-us+f3")


def _legible(library: ctypes.CDLL, text: str, voice: str) -> str:
    """A text that the chosen voice can read: composed, with letters and digits that it does not know in plainer form.

    A single Greek letter is allowed where the voice knows its name.

    Raises:
        ValueError: if it holds a letter, number or symbol that the voice would skip, spell by its code, or read in another language; the
            message names it and the languages that read it.
    """
    identifier: bytes = library.espeak_GetCurrentVoice().contents.identifier  # a file, such as zle/ru-LV or gmw/en-US+f3
    file, plainer = identifier.decode().partition("+")[0], dict[int, str]()
    text = _ANGLES.sub(r"(\1)", unicodedata.normalize("NFC", text).translate(_USUAL))
    for unit in dict.fromkeys(_UNIT.findall(text)):
        within = not unit.isascii() and any(unit in word and len(word) > 1 for word in _WORD.findall(text))
        plain = _plain(file, unit, within)
        if plain is None:
            name = unicodedata.name(unit[0], "a character without a name")
            raise ValueError(
                f"the text {text!r} holds {unit!r} (U+{ord(unit[0]):04X}, {name}), which eSpeak NG cannot read in {voice!r}: "
                f"write it in {_others(file, unit)}"
            )
        if plain != unit:
            plainer[ord(unit)] = plain
    return text.translate(plainer)


@functools.cache
def _plain(file: str, unit: str, within: bool) -> str | None:
    """A character or a flag in the form that the chosen voice reads, such as ``e`` for ``ễ``; ``None`` if there is none.

    Args:
        file: Identifier of the voice.
        unit: The character.
        within: Whether it is one of several letters of a word.
    """
    if _reads(file, unit, within):
        return unit
    kind = unicodedata.category(unit[0])
    if kind not in (*_LETTERS, "Nd", "Nl"):
        return None
    digit = unicodedata.decimal(unit, None)
    parts = unicodedata.normalize("NFKD", unit) if digit is None else str(digit)
    plain = "".join(part for part in parts if not unicodedata.combining(part))
    plain = unit.upper().lower() if plain == unit else plain  # a dotless i does not decompose, but has a capital
    return plain if plain != unit and all(_plain(file, part, within) == part for part in plain) else None


def _reads(file: str, unit: str, within: bool) -> bool:
    """Whether the chosen voice reads a character or a flag, or may skip it, as quotes, hyphens and joiners."""
    library, kind, name, script = _library()[0], unicodedata.category(unit[0]), unicodedata.name(unit[0], ""), _script(unit)
    letter = kind in _LETTERS
    if unit.isspace() or (letter and unit < "\u0100"):
        return True
    if kind[0] == "N" or (letter and script == "LATIN"):
        spoken = _spoken(library, unit)
        return bool(spoken.strip()) and not spoken.startswith(_code_prefix(file))
    if letter and _language(file) in _READERS.get(script, "").split():
        return script != "CJK" or not _spoken(library, unit).startswith(_unknown(library))
    if letter:
        return script == "GREEK" and not within and not _LANGUAGE_SWITCH.search(_spoken(library, unit))
    if " LATIN" in name or "BRAILLE" in name:
        return False  # the code is spelt, or the library crashes
    means = kind[0] == "S" or kind in ("Cc", "Cn", "Co") or unit in _SIGNS_OF_WORDS
    return not means or bool(_spoken(library, unit).strip())


@functools.cache
def _code_prefix(file: str) -> str:
    """Phonemes of the chosen voice before the code of an unknown letter: ``letter`` of ``letter two see seven bee``."""
    spoken = [_spoken(_library()[0], letter) for letter in "ⱻẟʘ"]
    return os.path.commonprefix(spoken).rstrip("ˈˌ")  # noqa: RUF071 - of characters


def _language(file: str) -> str:
    """The language of a voice identifier, without its region."""
    return file.rpartition("/")[2].partition("-")[0]


def _script(unit: str) -> str:
    """The first word of a letter's Unicode name, usually its script."""
    return re.split(r"[ -]", unicodedata.name(unit[0], "").removeprefix("HALFWIDTH "))[0]


def _others(file: str, unit: str) -> str:
    """Alternatives to a character that is not read."""
    if unicodedata.category(unit[0]) not in _LETTERS:
        return "words"
    readers = _READERS.get(_script(unit), "").split()
    if _language(file) in readers:
        return "other characters"
    return "Latin letters" + (f", or choose a language with this script ({', '.join(readers)})" if readers else "")


def _unknown(library: ctypes.CDLL) -> str:
    """Phonemes of the chosen voice for an unknown ideograph, before its code if that is read."""
    return _spoken(library, "\u9fff")  # the last of its block, in no dictionary


def phonemes(text: str, language: str = "en-us") -> str:
    """A text as symbols of the International Phonetic Alphabet, with its punctuation.

    Args:
        text: The text.
        language: Name of a language of eSpeak NG.

    Raises:
        EspeakError: if eSpeak NG is not installed.
        ValueError: if there is no such language, or the text holds a letter, a number or a symbol that is not read in it.
    """
    with _lock:
        library, _ = _library()
        _choose(library, language)
        found = ""
        for index, piece in enumerate(_MARKS.split(_legible(library, text, language))):
            if index % 2:
                found += piece
            elif piece.strip():
                found += " " * bool(found) + _clauses(library, piece)
    return found


def _clauses(library: ctypes.CDLL, text: str) -> str:
    return " ".join(_LANGUAGE_SWITCH.sub("", _spoken(library, text)).split())


def _spoken(library: ctypes.CDLL, text: str) -> str:
    """Phonemes of eSpeak NG, with its marks of language switches, such as ``(en)``."""
    buffer = ctypes.create_string_buffer(text.encode())
    rest = ctypes.c_void_p(ctypes.addressof(buffer))
    parts = []
    while rest.value:
        part = library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA)
        parts.append((part or b"").decode())
    return " ".join(parts)


def speak(text: str, voice: str = "en-us") -> tuple[Tensor, int]:
    """Speech of a text: ``(1, T)`` float32 in [-1, 1], and its sample rate; as :func:`speak_timed`."""
    speech = speak_timed(text, voice)
    return speech.waveform, speech.rate


def speak_timed(text: str, voice: str = "en-us") -> Speech:
    """Speech of a text, and when each phoneme is spoken.

    Args:
        text: The text.
        voice: A language, optionally with a variant of the voice: ``en-us``, ``en-us+f3``, ``de+m2``.

    Raises:
        EspeakError: if eSpeak NG is not installed.
        ValueError: if there is no such voice, or the text holds a letter, a number or a symbol that is not read in its language.
    """
    spoken: list[int] = []
    begun: list[tuple[float, str]] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short] | None, count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples:
            spoken.extend(samples[:count])
        place = 0
        while events and (event := events[place]).type != _LAST_EVENT:
            if event.type == _PHONEME:
                begun.append((event.milliseconds / 1000, event.id.phoneme.decode("utf-8", errors="ignore")))
            place += 1
        return 0

    with _lock:
        library, rate = _library()
        _choose(library, voice)
        data = _legible(library, text, voice).encode()
        callback = _CALLBACK(collect)
        library.espeak_SetSynthCallback(callback)
        failed = library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, _BY_CHARACTER, 0, _UTF8, None, None)
        library.espeak_Synchronize()
    if failed:
        raise EspeakError(f"eSpeak NG failed on {text!r}")
    ends = [*begun, (len(spoken) / rate, "")]
    timed = tuple(SpokenPhoneme(symbol, start, end) for (start, symbol), (end, _) in pairwise(ends) if end > start)
    return Speech(torch.tensor(spoken, dtype=torch.float32)[None] / 32768, rate, timed)
