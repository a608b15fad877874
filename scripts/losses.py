"""Record the losses of the first steps of every ``-tiny`` recipe, or compare them with a recording, bit for bit.

A refactoring must not change what is learned. Record before it and compare after it, on one machine:

    python scripts/losses.py record losses.json
    python scripts/losses.py compare losses.json
    python scripts/losses.py compare losses.json --recipes maskgit-tiny mar-tiny
    python scripts/losses.py record losses.json --quick    # a smoke run: two steps of one recipe

Each recipe is trained by its command line in a child process with one thread, in fp32, with an empty cache and home folder.
What a recipe builds on comes first: its tokenizer, and the stages of a cascade. The exit code is 1 if any number differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

from recording import Recording

STEPS = 20
COMPARED = ("loss", "grad_norm", "lr")


def built_on(name: str) -> list[str]:
    """The ``-tiny`` recipes whose checkpoints in ``runs`` a recipe builds on: its tokenizer, and the stages of a cascade."""
    from jielong.config.recipe import load

    return [Path(each).name for each in load(name).requires.values() if re.fullmatch(r"runs/[\w-]+-tiny", each)]


def in_order(names: list[str]) -> list[str]:
    """The recipes and everything that they build on, each behind what it builds on."""
    done: list[str] = []
    for name in names:
        done += [each for each in (*in_order(built_on(name)), name) if each not in done]
    return done


def losses_of(name: str, batch: int, schedule: dict[str, int], work: Path, steps: int = STEPS) -> list[dict[str, float]]:
    """Train for some steps in ``work/runs/NAME``, losses and stages starting at ``schedule``; one dictionary of numbers a step.

    Raises:
        RuntimeError: if the command fails, with the end of what it printed.
    """
    settings = {"samples": steps * batch, "log_every": batch, "sample_every": steps * batch, "save_every": steps * batch, "warmup": batch}
    words = [sys.executable, "-m", "jielong", "train", name, "--out", f"runs/{name}", "--device", "cpu"]
    for key, value in {**{f"train.{key}": value for key, value in settings.items()}, "train.precision": "fp32", **schedule}.items():
        words += ["--set", f"{key}={value}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(work), "JIELONG_CACHE": str(work / "cache")}
    done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-3000:])
    lines = (work / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [{key: line[key] for key in COMPARED if key in line} for line in map(json.loads, lines)]


def first_difference(new: list[dict[str, float]], old: list[dict[str, float]]) -> str | None:
    """The first step, from 1, whose numbers differ."""
    if new == old:
        return None
    differing = (step for step, (a, b) in enumerate(zip_longest(new, old), 1) if a != b)
    return f"DIFFERS from step {next(differing)}"


def main() -> None:
    """Record, or compare and exit with 1 if numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--recipes", nargs="*", help="names of recipes; all that end in -tiny by default")
    parser.add_argument("--quick", action="store_true", help="two steps of maskgit-tiny: whether it runs")
    arguments = parser.parse_args()
    steps = 2 if arguments.quick else STEPS
    if arguments.quick:
        arguments.recipes = arguments.recipes or ["maskgit-tiny"]
    from jielong.config.recipe import load
    from jielong.config.schedule import scheduled

    def compute(name: str, scratch: str) -> list[dict[str, float]]:
        recipe = load(name)
        # As in the recipe, and not at the same share of fewer samples.
        schedule = {each.name: each.samples for each in scheduled(recipe) if each.path[0] != "train" and each.samples}
        return losses_of(name, recipe.train.batch, schedule, Path(scratch), steps)

    folder = Path(sys.modules["jielong"].__path__[0]) / "recipes"
    names = in_order(arguments.recipes or sorted(path.stem for path in folder.glob("*-tiny.yaml")))
    with tempfile.TemporaryDirectory() as scratch:
        Recording(
            "recipes",
            compute=lambda name: compute(name, scratch),
            difference=first_difference,
            summary=lambda found: f"loss {found[0]['loss']:.6g} to {found[-1]['loss']:.6g}",
        ).run(arguments, names)


if __name__ == "__main__":
    main()
