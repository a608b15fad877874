"""``jielong import``: released weights of others as a checkpoint of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jielong.apps.commands.screen import columns, results, say, show_lines, table


def import_system(
    system: Annotated[str | None, typer.Argument(metavar="SYSTEM", help="Which system; without, all are listed.")] = None,
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Its released files or folders.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the checkpoint.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Print shapes and what was changed, load the checkpoint, and hash an output for a fixed input.")
    ] = False,
) -> None:
    """Turn released weights into a checkpoint: safetensors, a recipe that describes it, and a card."""
    from jielong.interop.systems import RELEASES

    if system is None:
        rows = [(name, each.files, f"{each.about} ({each.licence})") for name, each in RELEASES.items()]
        show_lines(line for lines in columns(rows) for line in lines)
        return
    if not files:
        needed = f": {RELEASES[system].files}" if system in RELEASES else ""
        raise typer.BadParameter(f"name its released files{needed}", param_hint="FILE...")
    if out is None or out.exists():
        raise typer.BadParameter(
            f"{out} exists: choose a new folder" if out else "name a new folder for the checkpoint", param_hint="--out"
        )
    from jielong.interop.checkpoints import import_weights

    report = import_weights(system, files, out, check)
    if check:
        results.print(table(str(out), ("tensor", "shape"), [(name, " x ".join(map(str, size))) for name, size in report.tensors.items()]))
        for line in report.changes:
            say(line)
    for note in report.notes:
        say(note)
    if report.output is not None:
        say(f"SHA-256 of an output: {report.output}")
    typer.echo(out)
