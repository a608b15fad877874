"""Run the corpus of hostile and damaged files.

    python -m tests.hostile.run                      # all 1,300 cases, some minutes on two cores
    python -m tests.hostile.run --only recipes --cases 50 --seed 3

Exits with 1 if a case ends in a traceback, an unexpected error, a signal, or another exit code than 0, 1 or 2, hangs, or takes over 2 GB;
or if a refusal does not name the file.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from .case import Case, Family, Material
from .media_cases import captions, pictures, sounds
from .runner import run_all
from .source_cases import shards, tables
from .system_cases import checkpoints, recipes, states, tokens

FAMILIES: dict[str, Family] = {
    "pictures": pictures,
    "sound": sounds,
    "captions": captions,
    "tables": tables,
    "shards": shards,
    "recipes": recipes,
    "checkpoints": checkpoints,
    "states": states,
    "tokens": tokens,
}
COUNT = 150
FAST = 4


def cases_of(material: Material, families: list[str], count: int, seed: int) -> list[Case]:
    """The cases of some families."""
    return [case for name in families for case in list(FAMILIES[name](material, random.Random(f"{name} {seed}"), count))]


def some_of(cases: list[Case]) -> list[Case]:
    """The first whole file of each family, and some others drawn from a seed."""
    chosen = []
    for family in dict.fromkeys(case.family for case in cases):
        whole = next(case for case in cases if case.family == family and case.whole)
        chosen += [whole, *random.Random(family).sample([case for case in cases if case.family == family and not case.whole], FAST)]
    return chosen


def preload() -> None:
    """Import here what the children would each import."""
    import torch

    torch.set_num_threads(1)
    from jielong.apps.comparison import contestants  # noqa: F401
    from jielong.config.registry import FAMILIES as PARTS
    from jielong.config.registry import parts_of
    from jielong.evaluation import evaluate  # noqa: F401
    from jielong.media.kinds.base import kinds
    from jielong.training import experiment  # noqa: F401

    for family in PARTS:
        parts_of(family)
    kinds()


def made(root: Path) -> Material:
    """The material, made in a child, so that this process starts no thread before it forks."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.environ["JIELONG_CACHE"] = str(root / "cache")
            from .material import make

            make(root)
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the material could not be made")
    return Material(root)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="families; all by default")
    parser.add_argument("--cases", type=int, default=COUNT, help="damaged files of each family, beside those that lie")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fast", action="store_true", help=f"a whole file and {FAST} others of each family")
    parser.add_argument("--name", help="only cases whose name holds this; prints what they wrote")
    arguments = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory(prefix="material-") as root:
        cases = cases_of(made(Path(root)), arguments.only, arguments.cases, arguments.seed)
        if arguments.fast:
            cases = some_of(cases)
        if arguments.name is not None:
            cases = [case for case in cases if arguments.name in case.name]
        report = run_all(cases, arguments.jobs, show=True)
    for outcome in report.outcomes if arguments.name is not None else []:
        print(f"== {outcome.case.name}: {' '.join(outcome.case.command)}: exit {outcome.code}\n{outcome.text}\n{outcome.traceback}")
    print("\n".join(report.lines()))
    return bool(report.failures)


if __name__ == "__main__":
    sys.exit(main())
