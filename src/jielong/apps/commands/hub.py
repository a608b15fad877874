"""``jielong push`` and ``jielong pull``: checkpoints to and from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jielong.apps.commands.screen import say


def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A checkpoint folder, a run's, a shipped model's name, or an adapter.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository, made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, made if there is none; the main branch by default.")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
) -> None:
    """Upload a checkpoint with its stages, or an adapter, with card and metrics to the Hugging Face Hub, after everything was checked."""
    from jielong.config.hub_address import PREFIX, HubAddressError, parse_address
    from jielong.system import pushing

    try:
        address = parse_address(PREFIX + repository.removeprefix(PREFIX))
    except HubAddressError as error:
        raise typer.BadParameter(str(error), param_hint="USER/NAME") from None
    if address.revision is not None:
        raise typer.BadParameter(f"give the branch by --revision {address.revision}", param_hint="USER/NAME")
    found = pushing.push(folder, address.repository, private=private, revision=revision, message=message or pushing.MESSAGE)
    for note in found.notes:
        say(f"note: {note}")
    say(str(found))
    typer.echo(found.address)


def pull(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="hf://USER/NAME, or hf://USER/NAME@REVISION.")],
    out: Annotated[Path | None, typer.Option(help="A new folder for a copy; without it, the files stay in the Hub's cache.")] = None,
) -> None:
    """Fetch a checkpoint or an adapter from the Hugging Face Hub and verify it; every command takes its address as well."""
    from jielong.config.hub_address import HubAddressError, parse_address
    from jielong.system import hub

    if out is not None and out.exists():
        raise typer.BadParameter(f"{out} exists: choose a new folder", param_hint="--out")
    try:
        parsed = parse_address(address)
    except HubAddressError as error:
        raise typer.BadParameter(str(error), param_hint="ADDRESS") from None
    typer.echo(hub.pull(parsed, out))
