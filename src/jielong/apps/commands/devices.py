"""The option ``--device`` of all commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jielong.apps.commands.screen import say

if TYPE_CHECKING:
    import torch

Device = Annotated[str, typer.Option(help="Device: auto (a GPU if available), cpu, cuda, cuda:1, mps.")]


def chosen_device(name: str, parallel: bool = False) -> torch.device:
    """Resolve ``--device`` and print it on standard error, unless ``parallel``.

    Args:
        name: Value of the option.
        parallel: Whether the command supports several processes.

    Raises:
        typer.BadParameter: if the device is not available, or a launcher started several processes of a single-process command.
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
