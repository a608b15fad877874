"""``jielong demo``: pictures from words by two strategies, a system trained from nothing, and one page that shows it all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(min=0, help="Wall time for training from scratch; 0 leaves it out.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Of all pictures.")] = 0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a setting of both recipes that are trained; repeatable.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Open the page in a browser.")] = False,
) -> None:
    """Generate with the shipped models, train a small system from scratch, and write index.html; prints its path."""
    from jielong.apps.demo import run

    run(out, minutes, seed=seed, overrides=overrides or (), show=show)
