"""``jielong train``: train a recipe, or resume a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from jielong.apps.commands.devices import Device, chosen_device
from jielong.apps.commands.schedules import print_schedule
from jielong.apps.commands.screen import say
from jielong.apps.commands.showing import Data, Name, Overrides, prepared, print_settings, print_sizes, source_of
from jielong.config.hub_address import is_address, parse_address
from jielong.config.recipe import load
from jielong.config.runs import default_out, seconds_of, with_samples


def budget_of(text: str | None) -> float | None:
    """``--budget`` in seconds.

    Raises:
        typer.BadParameter: if it is not a duration.
    """
    try:
        return None if text is None else seconds_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--budget") from None


def train(
    recipe: Name,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE by default. An existing run is resumed.")] = None,
    budget: Annotated[str | None, typer.Option(help="Wall time, such as 90s, 10m, 1h; all schedules follow it.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Training samples; all schedules scale with them.")] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings, schedule and derived sizes without training.")] = False,
    tokens: Annotated[Path | None, typer.Option(help="Token file from `jielong tokenize`.")] = None,
    tracker: Annotated[list[str] | None, typer.Option(help="Also log to a tracker: tensorboard, wandb, ...; repeatable.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="The same as --tracker tensorboard.")] = False,
    device: Device = "auto",
) -> None:
    """Train a recipe, or resume a run that was stopped, by the same command."""
    seconds, trackers = budget_of(budget), [*(tracker or ()), *(["tensorboard"] if tensorboard else [])]
    changes = with_samples(overrides or (), samples)
    source = source_of(recipe)
    settings = load(source, changes)
    if dry_run:
        print_settings(settings, source, changes, data)
        print_schedule(settings, seconds)
        print_sizes(prepared(settings, data))
        return
    from jielong.core.device import device_words, is_main_process, launched_processes
    from jielong.core.interrupts import exit_code
    from jielong.training.experiment import run
    from jielong.training.trackers import check_trackers
    from jielong.training.trainer import TrainOptions

    check_trackers(trackers)
    chosen = chosen_device(device, parallel=True)
    folder = out or default_out(parse_address(recipe).name if is_address(recipe) else recipe, settings, data, changes)

    def announce() -> None:
        shared = f" in {launched_processes()} processes" if launched_processes() > 1 else ""
        say(f"training {recipe} in {folder} on {device_words(chosen)}{shared}; Ctrl-C saves and stops, the same command resumes")

    options: TrainOptions = {"budget": seconds, "trackers": trackers, "command": shlex.join(["jielong", *sys.argv[1:]])}
    summary = run(settings, folder, data, tokens, announce, device=chosen, **options)
    if summary.signal is not None:
        raise typer.Exit(exit_code(summary.signal))
    if not is_main_process():
        return
    figures = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in summary.evaluation.items() if isinstance(value, float))
    say(f"done: {summary.samples:,} samples in {summary.seconds:,.0f} s{figures}")
    if settings.trains_generator or summary.evaluation:  # there are held-out items to evaluate on
        command = "generate" if settings.trains_generator else "evaluate"
        say(f"next: jielong {command} {f'{settings.train.init_from} --adapter {folder}' if settings.adapts else folder}")
    typer.echo(folder)
