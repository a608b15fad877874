"""Audio generators compared at several numbers of steps: word error rate, speaker similarity, quality, speed.

    python benchmarks/speech.py runs/matcha-tts runs/sled --steps 1 2 4 16 --json speech.json
    python benchmarks/speech.py runs/impact --steps 8 16 --count 20
    python benchmarks/speech.py --quick               # a smoke run: a system trained for two steps

A row is one checkpoint with one number of steps: the NFE per token of an iterative head, or else the steps of an order that reveals
gradually; a checkpoint with neither has one row. Items are the held-out ones of the recipe's set, or of ``--data``; the first lines are the
real recordings and their reconstructions by each tokenizer. Word error rates are by Whisper base; speaker similarity is the cosine with the
mean embedding of the item's speaker. Seconds are of all clips of a row together; times real time and the latency of the first audio when
streamed are medians of single clips. A metric whose package is missing, or that does not apply, is a dash and is named below. With
``--json`` each row is written as soon as it is measured.
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
    # metric: heading, format
    "steps": ("steps", "{:.0f}"),
    "wer": ("WER %", "{:.1f}"),
    "cer": ("CER %", "{:.1f}"),
    "speaker_similarity": ("voice", "{:.3f}"),
    "own_speaker_nearest": ("nearest %", "{:.0f}"),
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
    """Number of steps and sampling parameters of each row of a checkpoint.

    Raises:
        ValueError: if it does not generate audio.
    """
    generator = system.generator
    if generator is None or not system.tokenizer.media.timed:
        raise ValueError(f"{system.name} generates no audio: give generators such as runs/matcha-tts")
    iterative = generator.head.iterative
    if not iterative and system.recipe.order is not None and not hasattr(system.recipe.order, "steps"):
        return [(None, {})]
    return [(count, {"num_inference_steps" if iterative else "steps": count}) for count in steps] or [(None, {})]


def sides(name: str, steps: int | None, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of an evaluation: real recordings and reconstructions, if measured, and generated clips."""
    found: dict[str, dict[str, Any]] = {"_real": {}, "_rebuilt": {}, "": {}}
    for figure, measured in evaluation.figures.items():
        side = next((each for each in ("_real", "_rebuilt") if figure.endswith(each)), "")
        found[side][figure.removesuffix(side)] = measured
    titles = {"_real": f"{name}: real", "_rebuilt": f"{name}: tokenizer", "": name}
    rows = []
    for side, figures in found.items():
        if not figures:
            continue
        row: dict[str, Any] = {"name": titles[side], **{key: each.value for key, each in figures.items()}}
        if side == "":
            count = evaluation.provenance["reference"]["n"]
            draws = evaluation.provenance["draws"]
            row |= {
                "steps": steps or draws.get("num_inference_steps"),
                "seconds": draws["seconds_per_clip"] * count,
                "omitted": evaluation.omitted,
            }
            row["provenance"] = evaluation.provenance
        rows.append(row | {"details": {key: each.to_json() for key, each in figures.items()}})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text; a dash where a metric does not apply."""
    names = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    lines = [["generator", *(COLUMNS[name][0] for name in names)]]
    lines += [[row["name"], *(cell(COLUMNS[name], row.get(name)) for name in names)] for row in rows]
    return aligned(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="audio generators, shipped ones or checkpoint folders")
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[], metavar="N", help="numbers of steps, one row each; the recipe's by default"
    )
    parser.add_argument("--data", default=None, help="an audio set, or a folder of recordings; each recipe's set by default")
    parser.add_argument("--count", type=int, default=0, help="held-out items, evenly spread; all by default")
    parser.add_argument("--length", type=float, default=None, help="requested durations relative to the recordings'")
    parser.add_argument("--guidance", type=float, default=None, help="the recipe's by default")
    parser.add_argument("--temperature", type=float, default=None, help="the recipe's by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--json", type=Path, help="write everything to this file, with the provenance of each metric")
    parser.add_argument("--quick", action="store_true", help="a smoke run: a system of two steps and two items")
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
    measured: set[str] = set()
    for system, steps, draws in plans:
        print(f"{system.name}{'' if steps is None else f', {steps} steps'}", file=sys.stderr)
        given = {"guidance": arguments.guidance, "temperature": arguments.temperature}
        evaluation = evaluate(
            system,
            arguments.data,
            arguments.count or None,
            DrawSettings(arguments.seed, system.default_sampling(bool(system.inputs)).override(**given, **draws), arguments.length),
            ceiling=system.name not in measured,
        )
        measured.add(system.name)
        rows += sides(system.name, steps, evaluation)
        if arguments.json:
            everything = {"machine": machine(), "versions": versions(), "rows": rows}
            write_bytes(arguments.json, json.dumps(everything, indent=2, allow_nan=False).encode())
    print(machine())
    print(table(rows))
    for name, reasons in {row["name"]: row["omitted"] for row in rows if "omitted" in row}.items():
        for figure, reason in reasons.items():
            print(f"omitted of {name}: {figure}: {reason}")


if __name__ == "__main__":
    main()
