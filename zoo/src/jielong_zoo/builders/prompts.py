"""The set ``prompts``: what telephones say, read in studios by one voice a language, with its words; out of Debian's packages."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jielong.data.built import BuildError
from jielong.data.source import fraction
from jielong.media.audio import encode_audio, read_audio

HELDOUT_SHARE = 0.05
_NOTE = re.compile(r"\[[^]]*\]|\([^)]*\)")
SOUNDS = Path("usr/share/asterisk/sounds")
"""Where the packages keep recordings."""


@dataclass(frozen=True)
class Voice:
    """Who reads a language: the folder of the recordings, a name, and the terms.

    Attributes:
        folder: Below Debian's folder of sounds.
        speaker: As in the set's column.
        licence: Of the recordings.
        attribution: Whom to name.
    """

    folder: str
    speaker: str
    licence: str
    attribution: str


VOICES = {
    "en": Voice("en_US_f_Allison", "Allison (en)", "CC BY-SA 3.0", "Allison Smith, theivrvoice.com; Digium, Inc."),
    "es": Voice("es_MX_f_Allison", "Allison (es)", "CC BY-SA 3.0", "Allison Smith, theivrvoice.com; Digium, Inc."),
    "fr": Voice("fr_CA_f_June", "June", "CC BY-SA 3.0", "June Wallack, junewallack.com; Digium, Inc.; Unlimitel; BGM Informatique"),
    "it": Voice("it_IT_m_Carlo", "Carlo", "CC BY 3.0", "Carlo Flora, carloflora.com; translated by Silvia Petrin"),
    "ru": Voice("ru_RU_f_IvrvoiceRU", "Ivrvoice", "CC BY 3.0", "Maxim Topal, ivrvoice.ru"),
}
"""By language."""

PACKAGES = [f"asterisk-core-sounds-{language}{kind}" for language in VOICES for kind in ("", "-g722")]
LICENCE = (
    "# The recordings and words in `prompts.parquet`\n\n"
    "Prompts of the Asterisk project, taken from Debian's packages `asterisk-core-sounds-*`, which hold their full licences.\n\n"
    "| language | by | licence |\n|---|---|---|\n"
    + "".join(f"| {language} | {voice.attribution} | {voice.licence} |\n" for language, voice in VOICES.items())
    + "\nWhat was changed: G.722 was decoded and stored as 16-bit FLAC at 16 kHz; prompts without words (tones, silence) were left out.\n"
    "The recordings under CC BY-SA are share-alike: whoever passes them on, changed or not, does so under the same licence.\n"
)


def transcripts(text: str) -> dict[str, str]:
    """Words by prompt out of lines ``folder/name: words``; comments, and what stands in brackets (tones, notes), are left out."""
    found = {}
    for line in text.lstrip("\ufeff").splitlines():
        name, colon, words = line.partition(":")
        words = " ".join(_NOTE.sub(" ", words).split())
        if colon and words and not line.startswith(";"):
            found[name.strip()] = words
    return found


def prompts(folder: Path, progress: Callable[[int], None] | None = None) -> Iterator[dict[str, Any]]:
    """A row a prompt that has words and a recording.

    Held out is 5 % by a hash of the prompt's name, so what is held out is so in every language.

    Args:
        folder: Where the packages are unpacked.
        progress: Called with the number of prompts so far.

    Raises:
        BuildError: if a language's recordings or words are missing.
    """
    done = 0
    for language, voice in VOICES.items():
        words = folder / "usr/share/doc" / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
        recordings = folder / SOUNDS / voice.folder
        for needed in (words, recordings):
            if not needed.exists():
                raise BuildError(f"{needed} is missing; the packages {', '.join(PACKAGES)} are needed")
        for name, text in sorted(transcripts(gzip.decompress(words.read_bytes()).decode("utf-8")).items()):
            path = recordings / f"{name}.g722"
            if not path.is_file() or not path.stat().st_size:
                continue
            waveform, rate = read_audio(path)
            done += 1
            if progress is not None:
                progress(done)
            yield {
                "audio": encode_audio(waveform, rate, ".flac"),
                "text": text,
                "language": language,
                "speaker": voice.speaker,
                "name": name,
                "split": "heldout" if fraction(name) < HELDOUT_SHARE else "train",
                "seconds": waveform.shape[1] / rate,
                "licence": voice.licence,
                "attribution": voice.attribution,
            }
