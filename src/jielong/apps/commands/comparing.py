"""``jielong compare``: recipes at an equal budget, and checkpoints, in one table."""

from __future__ import annotations

import json
import shlex
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


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RECIPE-OR-CHECKPOINT...", help="Recipes, shipped models, checkpoint folders.")],
    budget: Annotated[str | None, typer.Option(help="Wall time that each recipe trains, such as 90s or 10m; 3m by default.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples that each recipe trains on, instead of a time.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of runs, figures and pages; what is there goes on.")] = Path("comparison"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with provenance, and nothing else.")] = False,
    count: Annotated[int | None, typer.Option("-n", min=1, help="Only so many held-out items, evenly spread.")] = None,
    data: Data = None,
    overrides: Overrides = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train recipes at an equal budget, measure them and checkpoints alike, and write one table; the same command resumes."""
    if budget is not None and samples is not None:
        raise typer.BadParameter(
            "an equal budget is a time or a number of samples: give one of --budget and --samples", param_hint="--samples"
        )
    seconds = None if samples is not None else budget_of(budget or "3m")
    from jielong.apps.comparison import Budget
    from jielong.apps.comparison import compare as run
    from jielong.apps.comparison.report import write

    spent, trainer = Budget(samples, seconds), str(chosen_device(device))
    made = run(names, out, spent, data=data, overrides=overrides or (), count=count, seed=seed, device=trainer, tell=say, progress=True)
    command = _again(names, budget, samples, out, count, data, overrides, seed)
    paths = write(made, command)
    if as_json:
        typer.echo(json.dumps({"command": command, **made.to_json()}, ensure_ascii=False, allow_nan=False))
    else:
        _print(made)
        for path in paths:
            typer.echo(path)
    if len(made.rows) < len(names):
        say("stopped; the same command goes on from there")
        raise typer.Exit(130)
    if not made.complete:
        raise typer.Exit(1)


def _again(
    names: list[str],
    budget: str | None,
    samples: int | None,
    out: Path,
    count: int | None,
    data: str | None,
    overrides: list[str] | None,
    seed: int,
) -> str:
    """The command line that makes this comparison."""
    words = ["jielong", "compare", *names, *(("--samples", samples) if samples is not None else ("--budget", budget or "3m"))]
    words += ["-n", count] if count is not None else []
    words += ["--data", data] if data is not None else []
    words += [word for override in overrides or () for word in ("--set", override)]
    return shlex.join(str(word) for word in [*words, "--seed", seed, "--out", out])


def _print(made: Comparison) -> None:
    from jielong.apps.comparison.report import kinds
    from jielong.apps.comparison.table import TITLES, best, columns, remarks

    for kind, rows in kinds(made):
        shown = columns(kind, rows)
        grid = [["", *(column.title for column in shown)], *([row.label, *(column.cell(row) for column in shown)] for row in rows)]
        bold = {(line, place) for place, c in enumerate(shown, 1) for line, row in enumerate(rows, 1) if row.label in best(c, rows)}
        if _width(grid) > results.width:  # a narrow screen: figures downwards, one column a contestant
            grid, bold = [list(line) for line in zip(*grid, strict=True)], {(place, line) for line, place in bold}
        for number, columns_here in enumerate(_fitting(grid, results.width)):
            table = Table(
                title=None if number else TITLES[kind], title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
            )
            for place in columns_here:
                table.add_column(escape(grid[0][place]), justify="right" if place else "left", no_wrap=True)
            for line in range(1, len(grid)):
                cells = [(escape(grid[line][place]), (line, place) in bold) for place in columns_here]
                table.add_row(*(f"[bold]{cell}[/]" if strong else cell for cell, strong in cells))
            results.print(table)
    for note in remarks(made.rows):
        say(note)


def _width(grid: list[list[str]]) -> int:
    """Characters that a table takes, three between columns."""
    return sum(max(len(line[place]) for line in grid) + 3 for place in range(len(grid[0])))


def _fitting(grid: list[list[str]], width: int) -> list[list[int]]:
    """The columns of one table below the other, each with the first column and as many others as fit."""
    blocks: list[list[int]] = [[0]]
    for place in range(1, len(grid[0])):
        wider = [*blocks[-1], place]
        if len(blocks[-1]) > 1 and _width([[line[each] for each in wider] for line in grid]) > width:
            wider = [0, place]
            blocks.append(wider)
        blocks[-1] = wider
    return blocks
