"""Word and character error rates by automatic speech recognition (Whisper base, arXiv 2212.04356)."""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jielong.data.whisper import NEEDED, assembled, installed
from jielong.evaluation.provenance import Measurement, package_version
from jielong.evaluation.sound.protocol import at_rate, missing, mono, sound_hash

RATE = 16_000
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


class Recogniser:
    """Speech recognition by Whisper base: beam size 5, temperature 0, not conditioned on previous text.

    The weights come in two packages and are assembled once in the user's cache.

    Args:
        language: Language of the speech, ISO 639-1.
        folder: Where the model is assembled, instead of the user's cache.

    Raises:
        MissingError: if packages are not installed.
    """

    def __init__(self, language: str = "en", folder: Path | None = None) -> None:
        if not installed():
            raise missing(f"the recogniser Whisper ({NEEDED})", "speech")
        from faster_whisper import WhisperModel

        model = assembled(folder)
        self.language = language
        self.details = {
            "recogniser": "Whisper base, int8, beams of 5, temperature 0",
            "weights_sha256": (model / "sha256").read_text(),
            "library": f"faster-whisper {package_version('faster-whisper')}",
            "language": language,
        }
        self._model = WhisperModel(str(model), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)

    def for_language(self, language: str) -> Recogniser:
        """A recogniser for another language that shares the model."""
        other = copy.copy(self)
        other.language, other.details = language, self.details | {"language": language}
        return other

    def transcribe(self, clips: Iterable[Tensor], rate: int) -> list[str]:
        """The text of each clip ``(T,)`` or ``(C, T)`` in [-1, 1]."""
        return [self._one(at_rate(clip, rate, RATE).numpy()) for clip in mono(clips)]

    def _one(self, samples: NDArray[np.float32]) -> str:
        segments, _ = self._model.transcribe(
            samples,
            language=self.language,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)


def normalise(text: str, language: str = "en") -> str:
    """Text normalised for comparison: NFKC, lower case, no punctuation; English numbers in words.

    Apostrophes are removed and hyphens separate words; ``don't`` is ``dont`` and ``42`` is ``forty two``.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace("'", "")
    if language == "en":
        text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
        text = re.sub(r"\d+", lambda found: f" {spelt(found[0])} ", text)
    letters = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join(letters.split())


def spelt(digits: str) -> str:
    """An English number in words; one that begins with 0 or has more than six digits is read digit by digit."""
    if len(digits) > 6 or (len(digits) > 1 and digits[0] == "0"):
        return " ".join(_SMALL.split()[int(digit)] for digit in digits)
    return _number(int(digits))


def _number(value: int) -> str:
    if value < 20:
        return _SMALL.split()[value]
    if value < 100:
        return _TENS.split()[value // 10 - 2] + (f" {_number(value % 10)}" if value % 10 else "")
    unit, word = (100, "hundred") if value < 1000 else (1000, "thousand")
    return f"{_number(value // unit)} {word}" + (f" {_number(value % unit)}" if value % unit else "")


def edit_distance(hypothesis: Sequence[object], reference: Sequence[object]) -> int:
    """Levenshtein distance: fewest insertions, deletions and substitutions."""
    row = list(range(len(reference) + 1))
    for index, each in enumerate(hypothesis, 1):
        corner, row[0] = row[0], index
        for column, other in enumerate(reference, 1):
            corner, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, corner + (each != other))
    return row[-1]


def error_rates(hypotheses: Sequence[str], references: Sequence[str], language: str = "en") -> dict[str, Measurement]:
    """Word and character error rates, ``wer`` and ``cer``: total edits over total reference length.

    Args:
        hypotheses: Recognised texts.
        references: Correct texts, one per hypothesis.
        language: Of both; see :func:`normalise`.

    Raises:
        ValueError: if their numbers differ, or all references are empty.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"every recognised text needs a reference, but there are {len(hypotheses)} texts and {len(references)} references")
    normalised = [(normalise(x, language), normalise(y, language)) for x, y in zip(hypotheses, references, strict=True)]
    rates = {}
    for name, units in (("wer", str.split), ("cer", list)):
        pairs = [(units(x), units(y)) for x, y in normalised]
        total = sum(len(y) for _, y in pairs)
        if not total:
            raise ValueError("every reference text is empty once normalised")
        wrong = sum(edit_distance(x, y) for x, y in pairs)
        details = {"edits": wrong, "of": total, "normalisation": "lower case, no punctuation, English numbers in words"}
        rates[name] = Measurement(name, wrong / total, len(hypotheses), details)
    return rates


def intelligibility(
    clips: Sequence[Tensor], texts: Sequence[str], rate: int, recogniser: Recogniser, reference: str = "transcript"
) -> dict[str, Measurement]:
    """``wer`` and ``cer`` of clips by a recogniser.

    Args:
        clips: ``(T,)`` or ``(C, T)`` in [-1, 1].
        texts: Reference texts, one per clip.
        rate: Sample rate in Hz.
        recogniser: For the language of the clips.
        reference: Source of the texts, for the details: ``transcript``, or recognition of the original.
    """
    hypotheses = recogniser.transcribe(clips, rate)
    protocol = recogniser.details | {"rate": rate, "reference": reference, "clips_sha256": sound_hash(mono(clips), rate)}
    rates = error_rates(hypotheses, texts, recogniser.language)
    return {name: Measurement(name, each.value, each.n, each.details | protocol) for name, each in rates.items()}
