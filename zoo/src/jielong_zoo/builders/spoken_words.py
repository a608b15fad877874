"""The set ``spoken-words``: spoken descriptions of Tux Paint stamps by volunteers, in nine languages and more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jielong.data.built import BuildError
from jielong.data.splits import fraction
from jielong.data.text import lines_of
from jielong.media.reading.faults import BrokenAudioError
from jielong.media.reading.sound import read_audio

PACKAGES = ["tuxpaint-stamps-default"]
STAMPS = Path("usr/share/tuxpaint/stamps")
"""Folder of images, descriptions and recordings in the package."""
HELDOUT_SHARE = 0.05
LICENCE_NAME = "GPL-2.0"
ATTRIBUTION = "Tux Paint stamps: Bill Kendrick and the volunteers of tuxpaint.org"
_RECORDING = re.compile(r"(?P<stamp>.+)_desc(?:_(?P<language>[A-Za-z_]+))?\.(?:ogg|wav)")
_TRANSLATION = re.compile(r"(?P<language>[A-Za-z_@]+)\.utf8=(?P<words>.*)")
LICENCE = (
    "# The recordings and words in `spoken-words.parquet`\n\n"
    "Descriptions of the stamps of Tux Paint (https://tuxpaint.org), taken from Debian's package `tuxpaint-stamps-default`:\n"
    "copyright 2002-2022 Bill Kendrick and the volunteers whom its change log names, under the GNU General Public License, version 2\n"
    "(https://www.gnu.org/licenses/old-licenses/gpl-2.0.html).\n\n"
    "What was changed: nothing in the recordings, which are the package's files; those without words were left out.\n"
    "Whoever passes the set on does so under the same licence.\n"
)


def descriptions(text: str) -> dict[str, str]:
    """Descriptions of a stamp by language: the first line is English (``en``), the others are ``LL.utf8=words``."""
    first, *others = lines_of(text.removeprefix("\ufeff")) or [""]
    found = {"en": " ".join(first.split())}
    for line in others:
        match = _TRANSLATION.fullmatch(line)
        if match:
            found[match["language"]] = " ".join(match["words"].split())
    return {language: words for language, words in found.items() if words and "\ufffd" not in words}  # not what was written


def spoken_words(folder: Path, progress: Callable[[int], None] | None = None) -> Iterator[dict[str, Any]]:
    """One row per recording with a description in its language; files that cannot be decoded are left out.

    5 % are held out by a hash of the stamp's name, so that a stamp is in the same split in every language.

    Args:
        folder: Folder of the unpacked package.
        progress: Called with the number of recordings so far.

    Raises:
        BuildError: if there are no recordings.
    """
    root = folder / STAMPS
    recordings = sorted(path for path in root.rglob("*_desc*") if path.is_file())
    if not recordings:
        raise BuildError(f"{root} has no recordings (*_desc_LL.ogg); the package {PACKAGES[0]} is needed")
    count = 0
    for path in recordings:
        match = _RECORDING.fullmatch(path.name)
        text = path.with_name(f"{match['stamp']}.txt") if match else path
        if match is None or not text.is_file():
            continue
        language = match["language"] or "en"
        words = descriptions(text.read_text("utf-8", "replace")).get(language)
        if words is None:
            continue
        try:
            waveform, rate = read_audio(path)
        except BrokenAudioError:
            continue
        count += 1
        if progress is not None:
            progress(count)
        name = text.relative_to(root).with_suffix("").as_posix()
        yield {
            "audio": path.read_bytes(),
            "text": words,
            "language": language,
            "name": name,
            "split": "heldout" if fraction(name) < HELDOUT_SHARE else "train",
            "seconds": waveform.shape[1] / rate,
            "licence": LICENCE_NAME,
            "attribution": ATTRIBUTION,
        }
