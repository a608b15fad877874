"""Generators of sound side by side, each with several numbers of evaluations: what is said, by whom, how well, and how fast.

    python benchmarks/speech.py runs/matcha-tts runs/sled --steps 1 2 4 16 --json speech.json
    python benchmarks/speech.py runs/impact --steps 8 16 --count 20
    python benchmarks/speech.py --quick               # a smoke run: a system trained for two steps

A row is one checkpoint with one number of steps: the evaluations of a head that draws a token in several, or else the steps of an order
that reveals gradually; a checkpoint that has neither takes one row. Held-out items of the recipe's own set, or of ``--data``; the first
lines are the real recordings, and what each tokenizer makes of them. Word errors are Whisper base's, the voice is the cosine with the mean
voice of the item's speaker. Seconds are those of all of a row's clips together; times real time and the first sound (streamed) are medians
of single clips. A figure whose package is absent, or that does not apply, is a dash, and named below. With ``--json`` every row is written
as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quick import tones, trained

from jielong.core.files import write_bytes
from jielong.evaluation.context import DrawSettings
from jielong.evaluation.evaluate import Evaluation, evaluate
from jielong.evaluation.provenance import machine, versions
from jielong.evaluation.sound.codecs import aligned, cell
from jielong.system import System, load

COLUMNS = {
    # figure -> its heading, and how it is printed
    "evaluations": ("steps", "{:.0f}"),
    "wer": ("WER %", "{:.1f}"),
    "cer": ("CER %", "{:.1f}"),
    "speaker_similarity": ("voice", "{:.3f}"),
    "own_speaker_nearest": ("own %", "{:.0f}"),
    "dnsmos": ("DNSMOS", "{:.2f}"),
    "class_at_1": ("class %", "{:.1f}"),
    "kernel": ("kernel", "{:.2f}"),
    "length_error": ("length %", "{:.1f}"),
    "length_ratio": ("length x", "{:.2f}"),
    "seconds": ("seconds", "{:.1f}"),
    "times_real_time": ("x real time", "{:.2f}"),
    "first_sound_ms": ("first ms", "{:.0f}"),
}


def settings(system: System, steps: Sequence[int]) -> list[tuple[int | None, dict[str, int]]]:
    """The rows of a checkpoint: what is told of each, and what its draws are given.

    Raises:
        ValueError: if it generates no sound.
    """
    generator = system.generator
    if generator is None or not system.tokenizer.media.timed:
        raise ValueError(f"{system.name} generates no sound: give generators such as runs/matcha-tts")
    iterative = generator.head.iterative
    if not iterative and system.recipe.order is not None and not hasattr(system.recipe.order, "steps"):
        return [(None, {})]
    return [(count, {"num_inference_steps" if iterative else "steps": count}) for count in steps] or [(None, {})]


def sides(name: str, steps: int | None, told: Evaluation) -> list[dict[str, Any]]:
    """The rows in an evaluation: the real recordings and the tokenizer's, where they were measured, and the generator's."""
    found: dict[str, dict[str, Any]] = {"_real": {}, "_rebuilt": {}, "": {}}
    for figure, measured in told.figures.items():
        side = next((each for each in ("_real", "_rebuilt") if figure.endswith(each)), "")
        found[side][figure.removesuffix(side)] = measured
    titles = {"_real": f"{name}: real", "_rebuilt": f"{name}: tokenizer", "": name}
    rows = []
    for side, figures in found.items():
        if not figures:
            continue
        row: dict[str, Any] = {"name": titles[side], **{key: each.value for key, each in figures.items()}}
        if side == "":
            count = told.provenance["reference"]["n"]
            draws = told.provenance["draws"]
            row |= {
                "evaluations": steps or draws.get("num_inference_steps"),
                "seconds": draws["seconds_per_clip"] * count,
                "omitted": told.omitted,
            }
            row["provenance"] = told.provenance
        rows.append(row | {"details": {key: each.to_json() for key, each in figures.items()}})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text; a dash where a figure does not apply."""
    names = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    lines = [["generator", *(COLUMNS[name][0] for name in names)]]
    lines += [[row["name"], *(cell(COLUMNS[name], row.get(name)) for name in names)] for row in rows]
    return aligned(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="generators of sound, shipped ones or checkpoint folders")
    parser.add_argument("--steps", type=int, nargs="*", default=[], metavar="N", help="a row each; the recipe's own number by default")
    parser.add_argument("--data", default=None, help="a set of sound, or a folder of recordings; each recipe's own by default")
    parser.add_argument("--count", type=int, default=0, help="held-out items, evenly spread; all by default")
    parser.add_argument("--length", type=float, default=None, help="ask for so many times each recording's length")
    parser.add_argument("--guidance", type=float, default=None, help="the recipe's by default")
    parser.add_argument("--temperature", type=float, default=None, help="the recipe's by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--json", type=Path, help="write everything to this file, with how each figure was made")
    parser.add_argument("--quick", action="store_true", help="a system made for it and two items: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.checkpoints = arguments.checkpoints or [trained("impact-tiny", tones(), trained("audio-kl-tiny", tones()))]
        arguments.steps, arguments.count = [2], 2
    if not arguments.checkpoints:
        parser.error("name the generators to measure, such as indextts2-speech sled-speech")
    systems = [load(name, arguments.device) for name in arguments.checkpoints]
    try:
        plans = [(system, *each) for system in systems for each in settings(system, arguments.steps)]
    except ValueError as error:
        raise SystemExit(str(error)) from None
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for system, steps, draws in plans:
        print(f"{system.name}{'' if steps is None else f', {steps} steps'}", file=sys.stderr)
        same = {"guidance": arguments.guidance, "temperature": arguments.temperature}
        told = evaluate(
            system,
            arguments.data,
            arguments.count or None,
            DrawSettings(arguments.seed, system.default_sampling(bool(system.inputs)).override(**same, **draws), arguments.length),
            ceiling=system.name not in seen,
        )
        seen.add(system.name)
        rows += sides(system.name, steps, told)
        if arguments.json:
            everything = {"machine": machine(), "versions": versions(), "rows": rows}
            write_bytes(arguments.json, json.dumps(everything, indent=2, allow_nan=False).encode())
    print(machine())
    print(table(rows))
    for name, reasons in {row["name"]: row["omitted"] for row in rows if "omitted" in row}.items():
        for figure, reason in reasons.items():
            print(f"left out of {name}: {figure}: {reason}")


if __name__ == "__main__":
    main()
