"""``jielong doctor``: check the installation."""

from __future__ import annotations

import typer
from rich.markup import escape

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.screen import results

_MARKS = {"ok": "[green]ok    [/]", "note": "[yellow]note  [/]", "broken": "[bold red]broken[/]"}


def doctor(
    device: Device = "auto",
) -> None:
    """Check versions, device, extras, models, data and numerics; exit 1 if an essential check fails."""
    from jielong.apps.doctor import examine

    broken = 0
    for check in examine(chosen_device(device)):
        results.print(f"{_MARKS[check.state]} [bold]{escape(check.name)}[/]  {escape(check.finding)}", highlight=False, soft_wrap=True)
        if check.advice:
            results.print(f"       -> {escape(check.advice)}", highlight=False, soft_wrap=True)
        broken += check.state == "broken"
    if broken:
        results.print(f"{broken} essential {'check' if broken == 1 else 'checks'} failed", style="bold red")
        raise typer.Exit(1)
