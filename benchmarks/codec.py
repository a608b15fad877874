"""Codecs compared on held-out recordings: trained tokenizers, Opus at some bitrates, and the original.

    python benchmarks/codec.py runs/encodec --num-codebooks 3 12 --opus 6 12 --data prompts
    python benchmarks/codec.py --opus 6 12 24 --data my-recordings --split all --json table.json
    python benchmarks/codec.py --quick                 # a smoke run: a codec trained for two steps

The data are an audio set or a folder of recordings, with transcripts in a ``.txt`` file beside each if there are any. Word error rates are
those of Whisper base against these transcripts, or against its own transcripts of the originals. A metric whose package is missing is
omitted and named below the table: pip install 'jielong[speech-quality]'. ViSQOL takes seconds per clip; ``--skip-metric visqol`` omits it.
With ``--json`` each row is written as soon as it is measured.
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
from jielong.core.files import write_bytes
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.evaluation.provenance import machine, versions
from jielong.evaluation.sound.codecs import Codec, Opus, Original, Row, TokenizerCodec, compare, table


@dataclass(frozen=True)
class Recordings:
    """Clips ``(T,)`` at one sample rate, and their transcripts if all are known."""

    clips: list[Tensor]
    texts: list[str] | None


def recordings(name: str, split: str, rate: int, language: str, count: int | None) -> Recordings:
    """Clips of a set, evenly spread; of one language if the set has a column ``language``."""
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
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="shipped audio tokenizers, or checkpoint folders")
    parser.add_argument("--opus", type=float, nargs="*", default=[6.0, 12.0], metavar="KBPS", help="bitrates of Opus, 6 to 256")
    parser.add_argument(
        "--num-codebooks", type=int, nargs="*", default=[], metavar="N", help="leading codebooks to decode, one row each; all by default"
    )
    parser.add_argument("--data", default="prompts", help="an audio set, or a folder of recordings")
    parser.add_argument("--count", type=int, default=50, help="clips, evenly spread; 0 for all")
    parser.add_argument("--split", choices=("heldout", "train", "all"), default="heldout")
    parser.add_argument("--rate", type=int, default=16_000, help="sample rate in Hz at which clips are compared")
    parser.add_argument(
        "--language",
        default="en",
        help="of the speech, ISO 639-1; clips in other languages are left out if the set has a column `language`",
    )
    parser.add_argument(
        "--skip-metric", action="append", default=[], metavar="NAME", help="do not compute a metric, such as visqol; repeatable"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--json", type=Path, help="write everything to this file, with the provenance of each metric")
    parser.add_argument("--quick", action="store_true", help="a smoke run: a codec of two steps and two recordings")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.checkpoints = arguments.checkpoints or [trained("encodec-tiny", tones())]
        arguments.data, arguments.count, arguments.opus, arguments.num_codebooks, arguments.rate = tones(), 2, [12.0], [1, 3], RATE
    systems = {name: jielong.load(name, arguments.device) for name in arguments.checkpoints}
    codecs: list[Codec] = [Original(), *map(Opus, arguments.opus)]
    try:
        for name, system in systems.items():
            codecs += [
                TokenizerCodec(f"{name}, num_codebooks {count}", system.tokenizer, num_codebooks=count) for count in arguments.num_codebooks
            ]
            codecs += [] if arguments.num_codebooks else [TokenizerCodec(name, system.tokenizer)]
    except ValueError as error:
        raise SystemExit(str(error)) from None
    audio = recordings(arguments.data, arguments.split, arguments.rate, arguments.language, arguments.count or None)

    seconds = sum(map(len, audio.clips)) / arguments.rate
    provenance = {
        "data": arguments.data,
        "split": arguments.split,
        "clips": len(audio.clips),
        "seconds": seconds,
        "machine": machine(),
        "versions": versions(),
    }

    def write(rows: list[Row]) -> None:
        if arguments.json:
            everything = {"provenance": provenance, "rows": [row.to_json() for row in rows]}
            write_bytes(arguments.json, json.dumps(everything, indent=2).encode())

    def progress(name: str, stage: str) -> None:
        print(f"{name}: {stage}", file=sys.stderr)

    with torch.inference_mode():
        rows = compare(codecs, audio.clips, arguments.rate, audio.texts, arguments.language, arguments.skip_metric, progress, write)
    print(f"{len(audio.clips)} clips of {arguments.data}, {seconds:.0f} s at {arguments.rate} Hz")
    print(table(rows))
    for name, reason in rows[0].omitted.items():
        print(f"omitted: {name}: {reason}")


if __name__ == "__main__":
    main()
