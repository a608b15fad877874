"""``jielong verify``: whether a checkpoint is whole."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jielong.apps.commands.screen import results, say, table
from jielong.core.text import readable

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A shipped model's name, a checkpoint folder, a run's, or hf://USER/NAME.")
]


def verify(
    checkpoint: Checkpoint,
    as_json: Annotated[bool, typer.Option("--json", help="Print only one JSON object.")] = False,
) -> None:
    """Check checksums, values and recipes of a checkpoint, and whether it loads; exit 1 if anything is wrong."""
    from jielong.system.verifying import verify as examine

    found = examine(checkpoint)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        rows = []
        for file in found.files:
            counts = ("" if count is None else f"{count:,}" for count in (file.tensors, file.values))
            rows.append((file.path, file.checksum, *counts, "damaged" if file.problem else "ok"))
        results.print(table(found.folder, ("file", "SHA-256", "tensors", "values", "state"), rows))
        for problem in [*(file.problem for file in found.files if file.problem), *found.problems]:
            say(readable(problem))
        state = {True: "the model loads", False: "the model does not load", None: "the run has not finished"}[found.loads]
        say(f"{'nothing is wrong' if found.sound else 'damaged'}: {state}")
    if not found.sound:
        raise typer.Exit(1)
