"""Codecs side by side on held-out recordings: trained tokenizers, Opus at some bitrates, and the original.

    python benchmarks/codec.py runs/encodec --levels 3 12 --opus 6 12 --data prompts
    python benchmarks/codec.py --opus 6 12 24 --data my-recordings --split all --json table.json
    python benchmarks/codec.py --quick                 # a smoke run: a codec trained for two steps

The data are a set of sound or a folder of recordings, with words in a ``.txt`` beside each if there are any. Word errors are those of
Whisper base against these words, or against what it hears in the original. A figure whose package is absent is left out and named below
the table: pip install 'jielong[speech-quality]'. ViSQOL takes seconds a clip; ``--without visqol`` leaves it out. With ``--json`` every row
is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from quick import RATE, tones, trained
from torch import Tensor

import jielong
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.evaluation.provenance import machine, versions
from jielong.evaluation.sound.codecs import Codec, Learned, Opus, Original, Row, compare, table
from jielong.media.images import write_bytes


@dataclass(frozen=True)
class Recordings:
    """Whole clips ``(T,)`` at one rate, and what is said in them, where all of it is known."""

    clips: list[Tensor]
    texts: list[str] | None


def recordings(name: str, split: str, rate: int, language: str, count: int | None) -> Recordings:
    """Clips of a set, evenly spread; of one language, where the set says which is spoken."""
    sounds = open_data(name, sample_rate=rate, split=None if split == "all" else split)
    spoken = sounds.columns.get("language", [language] * len(sounds))
    rows = [row for row, each in enumerate(spoken) if each == language]
    if not rows:
        raise SystemExit(f"{name} holds no clip in {language!r}: it has {', '.join(sorted(set(map(str, spoken))))}")
    rows = [rows[place] for place in spread(len(rows), count)]
    clips, texts = [sounds.whole(row)[0] for row in rows], [sounds.captions[sounds.resolve(row)] for row in rows]
    return Recordings(clips, texts if all(texts) else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="shipped tokenizers of sound, or checkpoint folders")
    parser.add_argument("--opus", type=float, nargs="*", default=[6.0, 12.0], metavar="KBPS", help="bitrates of Opus, 6 to 256")
    parser.add_argument(
        "--levels", type=int, nargs="*", default=[], metavar="N", help="leading levels of codes, a row each; all by default"
    )
    parser.add_argument("--data", default="prompts", help="a set of sound, or a folder of recordings")
    parser.add_argument("--count", type=int, default=50, help="clips, evenly spread; 0 for all")
    parser.add_argument("--split", choices=("heldout", "train", "all"), default="heldout")
    parser.add_argument("--rate", type=int, default=16_000, help="Hz at which clips are compared")
    parser.add_argument("--language", default="en", help="of the speech; clips in others are left out where the set tells")
    parser.add_argument("--without", nargs="*", default=[], metavar="FIGURE", help="figures to leave out, such as visqol")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--json", type=Path, help="write everything to this file, with how each figure was made")
    parser.add_argument("--quick", action="store_true", help="a codec and two recordings made for it: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.checkpoints = arguments.checkpoints or [trained("encodec-tiny", tones())]
        arguments.data, arguments.count, arguments.opus, arguments.levels, arguments.rate = tones(), 2, [12.0], [1, 3], RATE
    systems = {name: jielong.load(name, arguments.device) for name in arguments.checkpoints}
    codecs: list[Codec] = [Original(), *map(Opus, arguments.opus)]
    try:
        for name, system in systems.items():
            codecs += [Learned(f"{name}, {count} levels", system.tokenizer, levels=count) for count in arguments.levels]
            codecs += [] if arguments.levels else [Learned(name, system.tokenizer)]
    except ValueError as error:
        raise SystemExit(str(error)) from None
    heard = recordings(arguments.data, arguments.split, arguments.rate, arguments.language, arguments.count or None)

    seconds = sum(map(len, heard.clips)) / arguments.rate
    provenance = {
        "data": arguments.data,
        "split": arguments.split,
        "clips": len(heard.clips),
        "seconds": seconds,
        "machine": machine(),
        "versions": versions(),
    }

    def write(rows: list[Row]) -> None:
        if arguments.json:
            everything = {"provenance": provenance, "rows": [row.to_json() for row in rows]}
            write_bytes(arguments.json, json.dumps(everything, indent=2).encode())

    def told(name: str, what: str) -> None:
        print(f"{name}: {what}", file=sys.stderr)

    with torch.inference_mode():
        rows = compare(codecs, heard.clips, arguments.rate, heard.texts, arguments.language, arguments.without, told, write)
    print(f"{len(heard.clips)} clips of {arguments.data}, {seconds:.0f} s at {arguments.rate} Hz")
    print(table(rows))
    for name, reason in rows[0].omitted.items():
        print(f"left out: {name}: {reason}")


if __name__ == "__main__":
    main()
