"""``jielong demo``: samples of shipped models, a system trained from scratch, and a page of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(min=0, help="Wall time for training from scratch; 0 skips it.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Seed of all samples.")] = 0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a setting of both trained recipes; repeatable.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Open the page in a browser.")] = False,
) -> None:
    """Generate with the shipped models, train a small system from scratch, and write index.html; prints its path."""
    from jielong.apps.demo import run
    from jielong.core.locks import one_run

    with one_run(out):
        run(out, minutes, seed=seed, overrides=overrides or (), show=show)
