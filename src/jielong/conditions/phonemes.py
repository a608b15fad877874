"""Transcripts as phonemes of eSpeak NG, through a trained encoder."""

from __future__ import annotations

from jielong.conditions.alphabet import PHONEMES
from jielong.conditions.base import NO_CONTEXT, BuildContext
from jielong.conditions.characters import SymbolSettings, SymbolText
from jielong.media.espeak import phonemes

CACHED_TEXTS = 100_000
"""Most texts whose phonemes are cached."""


class PhonemeText(SymbolText):
    """A state per phoneme of a text in one language; see :class:`SymbolText`."""

    def __init__(self, settings: Phonemes) -> None:
        super().__init__(settings)
        self.language = settings.language
        self._cache: dict[str, list[int]] = {}

    def symbols(self, text: str) -> list[int]:
        """The numbers of a text's phonemes, cached."""
        if text not in self._cache:
            if len(self._cache) >= CACHED_TEXTS:
                del self._cache[next(iter(self._cache))]
            self._cache[text] = self.alphabet.numbers(phonemes(text, self.language))
        return self._cache[text]

    def describe(self) -> dict[str, object]:
        """The alphabet and the language."""
        return super().describe() | {"language": self.language}


class Phonemes(SymbolSettings, family="condition", name="phonemes"):
    """Settings of the condition on phonemes.

    Attributes:
        language: As eSpeak NG names it (en-us, de, fr, cmn).
    """

    alphabet: str = PHONEMES
    language: str = "en-us"

    @property
    def spoken_language(self) -> str | None:
        """The setting ``language`` without its region."""
        return self.language.split("-")[0]

    def build(self, context: BuildContext = NO_CONTEXT) -> PhonemeText:
        """The condition."""
        return PhonemeText(self)
