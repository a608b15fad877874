"""``jielong weights``: the weights that a finished run has, and which of them its checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.screen import say


def weights(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    which: Annotated[list[str] | None, typer.Argument(help="Weights to measure: last, best, or lengths of EMAs such as 0.08.")] = None,
    use: Annotated[str | None, typer.Option(help="The weights that the checkpoint is to hold.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for a checkpoint with the weights of --use; the run stays as it is.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure weights of a finished run on held-out items, and choose those of its checkpoint."""
    from jielong.training.weights import available, measure_weights

    if out is not None and (use is None or out.exists()):
        fault = (
            f"{out} exists: choose a new folder"
            if use
            else "say which weights it is to hold: add --use last, best, or a length such as 0.08"
        )
        raise typer.BadParameter(fault, param_hint="--out")
    if not which and use is None:
        say(f"{run} has the weights {', '.join(available(run))}; LENGTH is a number such as 0.08, if snapshots of EMAs were written")
        which = [each for each in available(run) if each != "LENGTH"]
    for choice, figures in measure_weights(run, which or (), use, str(chosen_device(device)), out).items():
        words = [f"{name} {value:.6g}" for name, value in figures.items() if isinstance(value, float)]
        typer.echo("  ".join([f"{choice:>6}", *(words or ["no held-out figures"])]))
    if use is not None:
        say(f"{out or run} holds the weights {use} now")
