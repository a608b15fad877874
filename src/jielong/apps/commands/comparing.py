"""``jielong compare``: train recipes at an equal budget and compare them and checkpoints."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.generating import Seed
from jielong.apps.commands.screen import results, say
from jielong.apps.commands.showing import Data, Overrides
from jielong.apps.commands.training import budget_of

if TYPE_CHECKING:
    from jielong.apps.comparison import Comparison
    from jielong.apps.comparison.table import Cell


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RECIPE-OR-CHECKPOINT...", help="Recipes, shipped models, checkpoint folders.")],
    budget: Annotated[str | None, typer.Option(help="Training time of each recipe, such as 90s or 10m; 3m by default.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Training samples of each recipe, instead of a time.")] = None,
    out: Annotated[Path, typer.Option(help="Output folder; an existing comparison is resumed.")] = Path("comparison"),
    as_json: Annotated[bool, typer.Option("--json", help="Print only one JSON object, with provenance.")] = False,
    count: Annotated[int | None, typer.Option("-n", min=1, help="Held-out items, evenly spread; all by default.")] = None,
    data: Data = None,
    overrides: Overrides = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train recipes at an equal budget, evaluate them and checkpoints, and write one table; the same command resumes."""
    if budget is not None and samples is not None:
        raise typer.BadParameter(
            "an equal budget is a time or a number of samples: pass one of --budget and --samples", param_hint="--samples"
        )
    seconds = None if samples is not None else budget_of(budget or "3m")
    from jielong.apps.comparison import Budget
    from jielong.apps.comparison import compare as run
    from jielong.apps.comparison.report import write
    from jielong.core.interrupts import exit_code
    from jielong.evaluation.frechet import SmallSampleWarning

    warnings.simplefilter("ignore", SmallSampleWarning)  # the notes of the comparison have it
    limit, trainer = Budget(samples, seconds), str(chosen_device(device))
    comparison = run(
        names, out, limit, data=data, overrides=overrides or (), count=count, seed=seed, device=trainer, log=say, progress=True
    )
    command = _command(names, budget, samples, out, count, data, overrides, seed)
    paths = write(comparison, command)
    if as_json:
        typer.echo(json.dumps({"command": command, **comparison.to_json()}, ensure_ascii=False, allow_nan=False))
    else:
        _print(comparison)
        for path in paths:
            typer.echo(path)
    if comparison.signal is not None:
        say("stopped; the same command resumes")
        raise typer.Exit(exit_code(comparison.signal))
    if not comparison.complete:
        raise typer.Exit(1)


def _command(
    names: list[str],
    budget: str | None,
    samples: int | None,
    out: Path,
    count: int | None,
    data: str | None,
    overrides: list[str] | None,
    seed: int,
) -> str:
    """The command line of this comparison."""
    words = ["jielong", "compare", *names, *(("--samples", samples) if samples is not None else ("--budget", budget or "3m"))]
    words += ["-n", count] if count is not None else []
    words += ["--data", data] if data is not None else []
    words += [word for override in overrides or () for word in ("--set", override)]
    return shlex.join(str(word) for word in [*words, "--seed", seed, "--out", out])


def _print(comparison: Comparison) -> None:
    from jielong.apps.comparison.report import kinds
    from jielong.apps.comparison.table import TITLES, grid, remarks

    for kind, rows in kinds(comparison):
        lines = grid(kind, rows)
        if _width(lines) > results.width:  # a narrow screen: one column per entry
            lines = [list(line) for line in zip(*lines, strict=True)]
        for number, block in enumerate(_fitting(lines, results.width)):
            table = Table(
                title=None if number else TITLES[kind], title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
            )
            for column in block:
                table.add_column(escape(lines[0][column].text), justify="right" if column else "left", no_wrap=True)
            for line in lines[1:]:
                cells = [(escape(line[column].text), line[column].best) for column in block]
                table.add_row(*(f"[bold]{cell}[/]" if strong else cell for cell, strong in cells))
            results.print(table)
    for note in remarks(comparison.rows):
        say(note)


def _width(grid: list[list[Cell]]) -> int:
    """Width of a table in characters, with three between columns."""
    return sum(max(len(line[column].text) for line in grid) + 3 for column in range(len(grid[0])))


def _fitting(grid: list[list[Cell]], width: int) -> list[list[int]]:
    """Split columns into tables that fit, each with the first column."""
    blocks: list[list[int]] = [[0]]
    for column in range(1, len(grid[0])):
        wider = [*blocks[-1], column]
        if len(blocks[-1]) > 1 and _width([[line[each] for each in wider] for line in grid]) > width:
            wider = [0, column]
            blocks.append(wider)
        blocks[-1] = wider
    return blocks
