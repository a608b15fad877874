"""The set ``prompts``: studio recordings of telephone prompts with transcripts, one speaker per language, from Debian packages."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jielong.data.built import BuildError
from jielong.data.splits import fraction
from jielong.data.text import lines_of
from jielong.media.audio import encode_audio
from jielong.media.reading.sound import read_audio

HELDOUT_SHARE = 0.05
_NOTE = re.compile(r"\[[^]]*\]|\([^)]*\)")
SOUNDS = Path("usr/share/asterisk/sounds")
"""Folder of the recordings in the packages."""


@dataclass(frozen=True)
class Voice:
    """Speaker of a language.

    Attributes:
        folder: Folder of the recordings below :data:`SOUNDS`.
        speaker: Value of the column ``speaker``.
        licence: Licence of the recordings.
        attribution: Required attribution.
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
"""Speakers by language."""

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
    """Transcripts by name, from lines ``folder/name: words``, without comments and text in brackets (tones, notes)."""
    found = {}
    for line in lines_of(text.removeprefix("\ufeff")):
        name, colon, words = line.partition(":")
        words = " ".join(_NOTE.sub(" ", words).split())
        if colon and words and not line.startswith(";"):
            found[name.strip()] = words
    return found


def prompts(folder: Path, progress: Callable[[int], None] | None = None) -> Iterator[dict[str, Any]]:
    """One row per prompt with a transcript and a recording.

    5 % are held out by a hash of the name, so that a prompt is in the same split in every language.

    Args:
        folder: Folder of the unpacked packages.
        progress: Called with the number of prompts so far.

    Raises:
        BuildError: if recordings or transcripts of a language are missing.
    """
    count = 0
    for language, voice in VOICES.items():
        words = folder / "usr/share/doc" / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
        recordings = folder / SOUNDS / voice.folder
        for required in (words, recordings):
            if not required.exists():
                raise BuildError(f"{required} is missing; the packages {', '.join(PACKAGES)} are needed")
        for name, text in sorted(transcripts(gzip.decompress(words.read_bytes()).decode("utf-8")).items()):
            path = recordings / f"{name}.g722"
            if not path.is_file() or not path.stat().st_size:
                continue
            waveform, rate = read_audio(path)
            count += 1
            if progress is not None:
                progress(count)
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
