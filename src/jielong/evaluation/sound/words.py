"""What is said: words and characters that a recogniser (Whisper base, arXiv 2212.04356) hears wrong."""

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
    """Speech to words by Whisper base: beams of 5, no temperature, no memory of what was said before.

    The weights come in two packages and are put together in the user's cache once.

    Args:
        language: Of the speech, as ISO 639-1 has it.
        folder: Where the model is put together, instead of the user's cache.

    Raises:
        MissingError: if packages are not installed.
    """

    def __init__(self, language: str = "en", folder: Path | None = None) -> None:
        if not installed():
            raise missing(f"the recogniser Whisper ({NEEDED})", "speech")
        from faster_whisper import WhisperModel

        where = assembled(folder)
        self.language = language
        self.details = {
            "recogniser": "Whisper base, int8, beams of 5, temperature 0",
            "weights_sha256": (where / "sha256").read_text(),
            "library": f"faster-whisper {package_version('faster-whisper')}",
            "language": language,
        }
        self._model = WhisperModel(str(where), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)

    def of(self, language: str) -> Recogniser:
        """The same one for another language; the model is shared."""
        other = copy.copy(self)
        other.language, other.details = language, self.details | {"language": language}
        return other

    def transcribe(self, clips: Iterable[Tensor], rate: int) -> list[str]:
        """What is said in each clip ``(T,)`` or ``(C, T)`` in [-1, 1]."""
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
    """Words as they are compared: lower case, no punctuation, no accents' variants; English numbers written out.

    Apostrophes vanish, hyphens separate; ``don't`` is ``dont`` and ``42`` is ``forty two``.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").replace("'", "")
    if language == "en":
        text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
        text = re.sub(r"\d+", lambda found: f" {spelt(found[0])} ", text)
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join(kept.split())


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


def edits(said: Sequence[object], meant: Sequence[object]) -> int:
    """Fewest insertions, deletions and substitutions from one sequence to the other (Levenshtein)."""
    row = list(range(len(meant) + 1))
    for index, each in enumerate(said, 1):
        corner, row[0] = row[0], index
        for column, other in enumerate(meant, 1):
            corner, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, corner + (each != other))
    return row[-1]


def error_rates(said: Sequence[str], meant: Sequence[str], language: str = "en") -> dict[str, Measurement]:
    """Word and character error rates, ``wer`` and ``cer``: all edits over all that was meant, so long texts weigh more.

    Args:
        said: What was heard.
        meant: What should have been.
        language: Of both; see :func:`normalise`.

    Raises:
        ValueError: if they are not as many, or nothing was meant.
    """
    if len(said) != len(meant):
        raise ValueError(f"every text heard needs the one that was meant, but there are {len(said)} and {len(meant)}")
    ours, theirs = [normalise(text, language) for text in said], [normalise(text, language) for text in meant]
    made = {}
    for name, cut in (("wer", str.split), ("cer", list)):
        pieces = [(cut(x), cut(y)) for x, y in zip(ours, theirs, strict=True)]
        total = sum(len(y) for _, y in pieces)
        if not total:
            raise ValueError("nothing was meant: every reference text is empty")
        wrong = sum(edits(x, y) for x, y in pieces)
        details = {"edits": wrong, "of": total, "normalisation": "lower case, no punctuation, English numbers in words"}
        made[name] = Measurement(name, wrong / total, len(said), details)
    return made


def intelligibility(
    clips: Sequence[Tensor], texts: Sequence[str], rate: int, recogniser: Recogniser, reference: str = "transcript"
) -> dict[str, Measurement]:
    """``wer`` and ``cer`` of clips, as a recogniser hears them.

    Args:
        clips: ``(T,)`` or ``(C, T)`` in [-1, 1].
        texts: What they should say.
        rate: Hz.
        recogniser: Who listens.
        reference: Where the texts come from: ``transcript``, or what the recogniser itself heard in the original.
    """
    heard = recogniser.transcribe(clips, rate)
    protocol = recogniser.details | {"rate": rate, "reference": reference, "clips_sha256": sound_hash(mono(clips), rate)}
    rates = error_rates(heard, texts, recogniser.language)
    return {name: Measurement(name, each.value, each.n, each.details | protocol) for name, each in rates.items()}
