"""Text as it is pronounced: eSpeak NG turns words to phonemes, which go through an encoder that is trained along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jielong.conditions.alphabet import PHONEMES, Alphabet
from jielong.conditions.characters import SymbolSettings, SymbolText
from jielong.media.espeak import phonemes

REMEMBERED = 100_000
"""Most texts whose phonemes stay in memory."""


class PhonemeText(SymbolText):
    """A state for every phoneme of a text in one language; see :class:`SymbolText`."""

    def __init__(self, language: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.language = language
        self._memory: dict[str, list[int]] = {}

    def symbols(self, text: str) -> list[int]:
        """The numbers of a text's phonemes; a text is pronounced once."""
        if text not in self._memory:
            if len(self._memory) >= REMEMBERED:
                del self._memory[next(iter(self._memory))]
            self._memory[text] = self.alphabet.numbers(phonemes(text, self.language))
        return self._memory[text]

    def describe(self) -> dict[str, Any]:
        """The alphabet and the language."""
        return super().describe() | {"language": self.language}


class Phonemes(SymbolSettings, family="condition", name="phonemes"):
    """Settings of :class:`SymbolSettings`, and the ``language`` as eSpeak NG names it (en-us, de, fr, cmn)."""

    alphabet: str = PHONEMES
    language: str = "en-us"

    def build(self, classes: Sequence[str] = ()) -> PhonemeText:
        """The condition; classes are not used."""
        return PhonemeText(
            self.language,
            alphabet=Alphabet(self.alphabet),
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            length=self.length,
            cfg_dropout=self.cfg_dropout,
            aligned=self.aligned,
        )
