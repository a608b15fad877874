"""The option of commands that load a generator: adapters of it."""

from __future__ import annotations

from typing import Annotated

import typer

ADAPTER = typer.Option(
    "--adapter",
    metavar="NAME[:WEIGHT]",
    help="An adapter by name, path or hf://USER/NAME, such as @me:0.8, from jielong personalise; repeatable: several are summed.",
)
Adapters = Annotated[list[str] | None, ADAPTER]
