"""``jielong adapters``: list adapters, and merge them into a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jielong.apps.commands.adapter_options import ADAPTER
from jielong.apps.commands.screen import results, say, table
from jielong.apps.commands.tokenizing import Checkpoint

app = typer.Typer(help="List adapters of personalised subjects, and merge them into a checkpoint.", no_args_is_help=True)


@app.command("list")
def list_adapters(
    folder: Annotated[Path, typer.Argument(help="Where they are; commands find them by name in ./adapters.")] = Path("adapters"),
) -> None:
    """List the adapters of a folder with their bases."""
    from jielong.core.storage import size_words
    from jielong.system.adapters import listed

    rows = []
    for each in listed(folder):
        record = each.record
        learned = record.method if record.rank is None else f"{record.method}, rank {record.rank}"
        rows.append((record.name, record.base, learned, f"{record.pictures}", size_words(each.size), record.licence, str(each.path)))
    if not rows:
        say(f"{folder} holds no adapters; jielong personalise CHECKPOINT FOLDER --name @me trains one")
        return
    results.print(table("Adapters", ("name", "base", "method", "pictures", "size", "licence of the pictures", "file"), rows))


@app.command("merge")
def merge_adapters(
    checkpoint: Checkpoint,
    adapter: Annotated[list[str], ADAPTER],
    out: Annotated[Path, typer.Option(help="A new folder for the checkpoint.")],
) -> None:
    """Write an ordinary checkpoint whose weights have the adapters in them."""
    from jielong.system.merging import merge

    merge(checkpoint, adapter, out)
    say(f"next: jielong generate {out}")
    typer.echo(out)
