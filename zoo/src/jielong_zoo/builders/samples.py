"""The set ``sounds``: public-domain samples of a live-coding synthesizer, captioned by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jielong.data.built import BuildError
from jielong.data.splits import fraction
from jielong.media.audio import encode_audio, resample, to_channels
from jielong.media.reading.sound import read_audio

RATE = 16_000
"""Sample rate in Hz."""
PACKAGE = "supersonic-scsynth-samples@0.84.2"
LONGEST = 6.0
"""Maximum duration in seconds; longer samples (loops, soundscapes) are cut."""
HELDOUT_SHARE = 0.1
KINDS = {
    "ambi": "ambient",
    "arovane": "beat",
    "bass": "bass",
    "bd": "bass drum",
    "drum": "drum",
    "elec": "electronic",
    "glitch": "glitch",
    "guit": "guitar",
    "hat": "hi-hat",
    "loop": "loop",
    "mehackit": "phrase",
    "misc": "noise",
    "perc": "percussion",
    "ride": "ride cymbal",
    "sn": "snare drum",
    "tabla": "tabla",
    "tbd": "beat",
    "vinyl": "vinyl",
}
"""Kind of a sample by the first word of its name."""
LICENCE = f"""# The samples in `sounds.parquet`

Collected by the Sonic Pi project and dedicated to the public domain by their makers under CC0 1.0
(https://creativecommons.org/publicdomain/zero/1.0/); taken from npm `{PACKAGE}`.

What was changed: samples were mixed to mono, resampled to {RATE:,} Hz, cut after {LONGEST:g} s and stored as 16-bit FLAC; the column
`caption` is the name in words. `jielong data build sounds` remakes the file.
"""


def caption_of(name: str) -> str:
    """``bd_tek`` as ``bass drum, tek``."""
    first, _, rest = name.partition("_")
    return ", ".join(part for part in (KINDS.get(first, first), rest.replace("_", " ")) if part)


def samples(folder: Path, progress: Callable[[int], None] | None = None) -> Iterator[dict[str, Any]]:
    """One row per sample of the unpacked package.

    Raises:
        BuildError: if there are no samples.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".flac", ".wav", ".aif", ".aiff"))
    if not paths:
        raise BuildError(f"{folder} has no samples; the unpacked npm package {PACKAGE} is needed")
    for count, path in enumerate(paths, 1):
        waveform, rate = read_audio(path)
        clip = resample(to_channels(waveform, 1), rate, RATE)[:, : round(LONGEST * RATE)]
        if progress is not None:
            progress(count)
        yield {
            "audio": encode_audio(clip, RATE, ".flac"),
            "caption": caption_of(path.stem),
            "kind": KINDS.get(path.stem.partition("_")[0], "other"),
            "name": path.stem,
            "split": "heldout" if fraction(path.stem) < HELDOUT_SHARE else "train",
            "seconds": clip.shape[1] / RATE,
        }
