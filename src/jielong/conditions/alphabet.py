# ruff: noqa: RUF001 - look-alikes are what this file is about
"""Alphabets of transcripts, and the replacement of characters outside them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-…&"
"""Characters of English."""
PHONEMES = (
    " .,;:!?…-abcdefghijklmnopqrstuvwxyz1234567æçðøħŋœǀǁǂǃβθχᵊᵻᵝ"
    + "".join(map(chr, range(0x250, 0x2B0)))
    + "ʰʲʷʼˈˌːˑ˞ˠˤ˥˦˧˨˩"
    + "".join(map(chr, (0x303, 0x308, 0x30A, 0x30D, 0x311, 0x318, 0x319, 0x31A, 0x31D, 0x31E, 0x31F, 0x320, 0x324, 0x325, 0x329, 0x32A)))
    + "".join(map(chr, (0x32C, 0x32F, 0x330, 0x33A, 0x33B, 0x33C, 0x33D, 0x35C, 0x361)))
)
"""Symbols of eSpeak NG's output in the International Phonetic Alphabet, and punctuation."""

SOUNDLESS = frozenset(" '\"()ʰʲʷʼˈˌːˑ˞ˠˤ˥˦˧˨˩" + "".join(map(chr, range(0x300, 0x370))))
"""Symbols without a duration: they modify a neighbour, or separate words."""

_PLAIN = {
    "‘": "'", "’": "'", "‚": "'", "ʼ": "'", "`": "'", "´": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
    "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-", "…": "...", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d",
    "ð": "d", "þ": "th", "ı": "i", "[": "(", "]": ")", "¿": "", "¡": "", "\u00ad": "", "\u200b": "", "\ufeff": "",
}  # fmt: skip
"""Replacements of characters that an alphabet lacks."""


class Alphabet:
    """Symbols by number. ``symbols``: one character each, in the order of their numbers.

    Other characters are replaced: by the other case, without their accents, or by the plain form of a typographic mark. Raises
    ``ValueError`` if a symbol is repeated, or there is none.
    """

    def __init__(self, symbols: str) -> None:
        if not symbols:
            raise ValueError("an alphabet needs symbols, such as ' abcdefghijklmnopqrstuvwxyz'")
        if twice := sorted({symbol for symbol in symbols if symbols.count(symbol) > 1}):
            raise ValueError(f"an alphabet holds every symbol once, but this one repeats {', '.join(map(repr, twice))}")
        self.symbols = symbols
        self._numbers = {symbol: number for number, symbol in enumerate(symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def spell(self, text: str) -> str:
        """The text in these symbols, white space as single spaces. Raises ``ValueError`` if empty, or a character has no replacement."""
        words = " ".join(unicodedata.normalize("NFC", text).split())
        spelt = "".join(self._read(character, text) for character in words)
        if not spelt.strip():
            raise ValueError(f"the text {text!r} holds no symbol of the alphabet")
        return spelt

    def numbers(self, text: str) -> list[int]:
        """The numbers of the symbols of a text; see :meth:`spell`."""
        return [self._numbers[symbol] for symbol in self.spell(text)]

    def _read(self, character: str, text: str) -> str:
        for reading in _readings(character):
            if all(symbol in self._numbers for symbol in reading):
                return reading
        name = unicodedata.name(character, "a character without a name")
        raise ValueError(
            f"the text {text!r} holds {character!r} (U+{ord(character):04X}, {name}), which is not in this alphabet: {self.symbols!r}"
        )


def _readings(character: str) -> Iterator[str]:
    """A character and its replacements, nearest first."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    forms = [character, character.lower(), character.upper(), character.casefold()]
    if bare:
        forms += [bare, bare.lower(), bare.upper(), bare.casefold()]
    yield from dict.fromkeys(forms)
    for form in (character, character.lower()):
        if form in _PLAIN:
            yield _PLAIN[form]
            yield _PLAIN[form].upper()
