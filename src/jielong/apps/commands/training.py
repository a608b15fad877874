"""``jielong train``: train a recipe, or go on with a run; the same command does both."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.screen import say
from jielong.apps.commands.showing import Data, Name, Overrides, prepared, print_settings, print_sizes
from jielong.config.recipe import load
from jielong.config.schema import Recipe

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str | None) -> float | None:
    """A span of time such as ``90s``, ``10m``, ``1.5h`` or ``1h30m`` in seconds.

    Raises:
        typer.BadParameter: if it is written in another way.
    """
    if text is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise typer.BadParameter(f"a time is written 90s, 10m, 1h or 1h30m, not {text!r}", param_hint="--budget")
    return seconds


def default_out(name: str, recipe: Recipe, data: str | None, overrides: Sequence[str]) -> Path:
    """``runs/RECIPE``; with changed settings or data, a short hash of them behind it, so that the same command finds its run again."""
    path = Path(name)
    stem = path.stem if path.suffix in (".yaml", ".yml") else path.resolve().name if path.is_dir() else name
    if not overrides and data is None:
        return Path("runs") / stem
    changes = hashlib.sha256(f"{data}\n{recipe.to_yaml()}".encode()).hexdigest()[:8]
    return Path("runs") / f"{stem}-{changes}"


def train(
    recipe: Name,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE by default. A run that is there goes on.")] = None,
    budget: Annotated[str | None, typer.Option(help="Wall time to train for, such as 90s, 10m, 1h; else the recipe's samples.")] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every setting and derived size; train nothing.")] = False,
    tokens: Annotated[Path | None, typer.Option(help="A token file of `jielong tokenize` to train a generator on.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files too.")] = False,
    device: Device = "auto",
) -> None:
    """Train a recipe, or go on with a run that was stopped: the same command resumes."""
    seconds = seconds_of(budget)
    settings = load(recipe, overrides or ())
    if dry_run:
        print_settings(settings, recipe, overrides or (), data)
        print_sizes(prepared(settings, data))
        return
    from jielong.core.device import device_words, is_main_process, launched_processes
    from jielong.training.experiment import run

    chosen = chosen_device(device, parallel=True)
    folder = out or default_out(recipe, settings, data, overrides or ())

    def begun() -> None:
        shared = f" in {launched_processes()} processes" if launched_processes() > 1 else ""
        say(f"training {recipe} in {folder} on {device_words(chosen)}{shared}; Ctrl-C saves and stops, the same command goes on")

    summary = run(settings, folder, data, tokens, begun, budget=seconds, device=chosen, tensorboard=tensorboard)
    if summary.stopped in ("interrupted", "stop_after"):
        raise typer.Exit(130)
    if not is_main_process():
        return
    figures = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in summary.evaluation.items() if isinstance(value, float))
    say(f"done: {summary.samples:,} samples in {summary.seconds:,.0f} s{figures}")
    say(f"next: jielong {'generate' if settings.trains_generator else 'evaluate'} {folder}")
    typer.echo(folder)
