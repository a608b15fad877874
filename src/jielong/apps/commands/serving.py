"""``jielong serve``: models behind an address."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jielong.apps.commands.adapter_options import Adapters
from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.screen import say

if TYPE_CHECKING:
    import torch

    from jielong.apps.serving.models import Limits, ServedModel

LOCAL = ("127.0.0.1", "::1", "localhost")

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help="Shipped models' names, or checkpoint folders; the first is the default.")
]


def serve(
    models: Models,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every network of this computer.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 8000,
    max_count: Annotated[int, typer.Option(min=1, help="Most items of one request.")] = 16,
    max_queue: Annotated[int, typer.Option(min=0, help="Most requests that wait while one is answered; others are refused.")] = 8,
    adapter: Adapters = None,
    device: Device = "auto",
) -> None:
    """Serve generators over HTTP: a page at /, and POST /generate. Needs the extra `serve`."""
    from jielong.media.reading.libraries import library

    for name in ("fastapi", "uvicorn"):
        library(name, "serve", "jielong serve")
    from jielong.apps.serving.app import create_app, run
    from jielong.apps.serving.models import Limits

    limits, folders = Limits(max_count, max_queue), _folders(models)
    if adapter and len(folders) > 1:
        raise typer.BadParameter("adapters belong to one model, and several are named: serve that model alone", param_hint="--adapter")
    with _listening(host, port) as listening:
        app = create_app(_served(folders, chosen_device(device), limits, adapter or ()), limits)
        address, actual = listening.getsockname()[:2]
        say(f"{', '.join(folders)} at http://{f'[{address}]' if ':' in address else address}:{actual}; Ctrl-C ends")
        if host not in LOCAL:
            say("whoever reaches this address can generate: there are no accounts and no encryption")
        with suppress(KeyboardInterrupt):
            run(app, listening)
    say("stopped")


def _folders(models: Sequence[str]) -> dict[str, tuple[str, Path]]:
    """The name in requests of each model, with the name it is loaded by and its folder."""
    from jielong.config.hub_address import is_address, parse_address
    from jielong.system import find

    found = dict[str, tuple[str, Path]]()
    for given in dict.fromkeys(models):
        folder = find(given)
        name = parse_address(given).name if is_address(given) else folder.name
        if name in found:
            raise typer.BadParameter(f"two models are called {name}: rename a folder", param_hint="MODEL")
        found[name] = given, folder
    return found


def _served(
    folders: Mapping[str, tuple[str, Path]], device: torch.device, limits: Limits, adapters: Sequence[str] = ()
) -> dict[str, ServedModel]:
    """The models, loaded; raises ``typer.BadParameter`` for a tokenizer."""
    from jielong.apps.serving.models import ServedModel
    from jielong.config.zoo import card_line
    from jielong.system import load

    served = {
        name: ServedModel(name, load(given, device, adapters=adapters), card_line(folder), limits)
        for name, (given, folder) in folders.items()
    }
    for name, model in served.items():
        if model.system.generator is None:
            raise typer.BadParameter(f"{name} is a tokenizer, which generates nothing: name generators", param_hint="MODEL")
    return served


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, before models are loaded."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on {host}, port {port}: {error.strerror or error}", param_hint="--port") from None
