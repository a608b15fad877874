"""The option ``--device`` of all commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jielong.apps.commands.screen import say

if TYPE_CHECKING:
    import torch

Device = Annotated[str, typer.Option(help="Where to compute: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")]


def chosen_device(name: str, parallel: bool = False) -> torch.device:
    """The device that ``--device`` names; printed on standard error, unless the command is ``parallel`` and prints it itself.

    Args:
        name: The option's value.
        parallel: Whether the command shares its work among the processes of a launcher.

    Raises:
        typer.BadParameter: if it is not available, or a launcher started several processes of a command that runs in one.
    """
    from jielong.core.device import DeviceError, check_launch, device_words, launched_processes, resolve_device

    processes = launched_processes()
    try:
        device = resolve_device(name)
        check_launch(device, processes)
    except DeviceError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None
    if processes > 1 and not parallel:
        raise typer.BadParameter(f"this command runs in one process, and a launcher started {processes}; only train runs in several")
    if not parallel:
        say(f"computing on {device_words(device)}")
    return device
