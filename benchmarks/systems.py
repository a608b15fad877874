"""Seconds per image of trained systems, relative to the first one.

    python benchmarks/systems.py llamagen-emoji maskgit-emoji
    python benchmarks/systems.py runs/mine runs/other --batches 1 --rounds 3
    python benchmarks/systems.py --quick                                       # a smoke run: two systems trained for two steps

From texts to tokens, of all stages of a cascade, with each recipe's guidance; decoding is not included. Numbers of positions and layers,
which determine the time, are printed too. Rounds of all systems alternate, so that load of the machine affects all; medians are reported.
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import torch
from quick import trained
from timing import interleaved, machine

import jielong
from jielong.config.schema import Recipe
from jielong.core.tokens import Tokens
from jielong.system import System
from jielong.system.inputs import gather

CAPTIONS = ("cat face, Noto style", "red heart, Noto style", "flag: Denmark, Noto style", "pizza, Noto style")


def draw(system: System, count: int) -> Tokens:
    """Tokens of ``count`` images, of texts or of a class where the system takes one of these alone; all stages of a cascade run."""
    given: dict[str, object] = {}
    if system.inputs == ("text",):
        given = {"text": [CAPTIONS[i % len(CAPTIONS)] for i in range(count)]}
    elif system.inputs == ("class",):
        given = {"classes": [0] * count}
    return system.generate_tokens(gather(system, given, None if given else count, 0).conditions, count, seed=0)


def sizes(recipe: Recipe) -> str:
    """Size of the backbone, by its settings."""
    return ", ".join(f"{key} {value}" for key, value in dict(recipe.backbone or {}).items() if key in ("layers", "width", "encoder_layers"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help="shipped models or checkpoint folders; the first is the reference")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch; all by default")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two systems of two steps and one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batches, arguments.rounds = [1], 1
        arguments.systems = arguments.systems or [trained("maskgit-tiny"), trained("llamagen-tiny")]
    if not arguments.systems:
        parser.error("name the systems to compare, such as llamagen-emoji maskgit-emoji")
    measured_on = machine(arguments.threads)
    loaded = {name: jielong.load(name, "cpu") for name in arguments.systems}
    if none := [name for name, system in loaded.items() if system.generator is None]:
        raise SystemExit(f"{', '.join(none)}: tokenizers do not generate; name generators such as llamagen-emoji")
    rows = []
    first = arguments.systems[0]
    for batch in arguments.batches:
        seconds = interleaved({name: partial(draw, system, batch) for name, system in loaded.items()}, arguments.rounds)
        for name, system in loaded.items():
            rows.append({"system": name, "batch": batch, "seconds": seconds[name] / batch, "times": seconds[first] / seconds[name]})
            size = f"{system.generator.layout.positions} positions, {sizes(system.recipe)}"
            print(
                f"{name:24} batch {batch:3}: {1000 * seconds[name] / batch:8.1f} ms per image, {rows[-1]['times']:5.2f} x {first} ({size})"
            )
    print(json.dumps({"machine": measured_on, "rows": rows}))


if __name__ == "__main__":
    main()
