"""The one training loop. A run is a function of its recipe and of the samples seen: stopped anywhere, it goes on as if it had not been.

Nothing random is kept between steps. The data are addressed by position, every sample draws from a stream of its own, and torch's global
generator is reseeded at each step from (seed, process, samples seen); so the saved state is weights, averages, moments and counters, and on
CPU a resumed run equals an uninterrupted one bit for bit. (A budget of wall time makes the learning rate follow the clock: such runs
resume as well, but no two are equal.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console

from jielong.media.images import write_bytes
from jielong.training.checkpoint import RECIPE, WEIGHTS, CheckpointError, begin_from, save_checkpoint
from jielong.training.interrupts import Interrupts
from jielong.training.objective import Objective
from jielong.training.prefetch import Feed, Source
from jielong.training.processes import join_processes
from jielong.training.report import Report
from jielong.training.run import Run, Summary
from jielong.training.settings import TrainSettings
from jielong.training.state import Counters, State, check_run_folder, read_state

__all__ = ["SUMMARY", "Source", "Summary", "train"]

SUMMARY = "summary.json"


def train(
    objective: Objective,
    source: Source,
    settings: TrainSettings,
    out: Path,
    *,
    recipe_yaml: str,
    complete: Callable[[str], str] | None = None,
    budget: float | None = None,
    device: str | torch.device = "auto",
    accelerator: Accelerator | None = None,
    progress: bool = True,
    console: Console | None = None,
    tensorboard: bool = False,
    stop_after: int | None = None,
    evaluate: bool = True,
    init_from: Path | None = None,
    write_inputs: Callable[[], None] | None = None,
) -> Summary:
    """Train, or go on with the run that is in ``out``.

    Args:
        objective: What to minimise; its ``model`` gets the moving average and becomes the checkpoint.
        source: The data.
        settings: The recipe's ``train`` section.
        out: The run's folder: ``state-*`` to go on from, ``metrics.jsonl``, ``sheets/``; in the end ``recipe.yaml``,
            ``model.safetensors`` (averaged weights) and ``summary.json``.
        recipe_yaml: The whole recipe; a run in ``out`` under another one is refused.
        complete: Writes the recipe of a run that an earlier version began with today's settings, before the two are compared.
        budget: Seconds of wall time that the training may take, over all parts of the run; the learning rate then follows samples or
            time, whichever is further. The evaluation at the end is not counted.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
        accelerator: The processes, where they were joined already; ``device`` does not count then.
        progress: Whether to print how it goes.
        console: Where to; standard error if not given.
        tensorboard: Write TensorBoard files to ``out/tensorboard``.
        stop_after: Save and stop once so many samples were seen, as an interruption would.
        evaluate: Whether to measure held-out figures, at every sample sheet and at the end.
        init_from: A checkpoint's folder whose weights a new run begins from where they fit; a run that goes on does not look at it.
        write_inputs: Writes what belongs in ``out`` beside the recipe; called by one process, once nothing is left to refuse.

    Raises:
        DeviceError: if the device is not available, or cannot serve the processes of the launcher.
        RecipeError: if ``out`` holds a run of another recipe.
        CheckpointError: if ``out`` holds a finished model without its state, or the disk is full.
        NonFiniteError: if losses or gradients are not finite several steps in a row.
    """
    accelerator = accelerator or join_processes(device)
    main = accelerator.is_main_process
    screen = (console or Console(stderr=True)) if progress and main else None
    try:
        newest = check_run_folder(out, recipe_yaml, complete)
        state = read_state(newest) if newest is not None else None
        done = _done(out, settings, budget, state)
        if done is not None:
            return done
        counters = state.counters if state is not None else Counters()
        rank, world = accelerator.process_index, accelerator.num_processes
        micro_batch = settings.micro_batch or settings.batch
        feed = Feed(source, settings.batch, micro_batch, rank, world, settings.seed, accelerator.device)
        report = Report(out if main else None, screen, counters.metrics_bytes, counters.samples, tensorboard and main)
        if state is None and init_from is not None:
            taken, new = begin_from(objective.model, init_from)
            parts = ", ".join(sorted({name.split(".")[0] for name in new}))
            report.say(f"initialised {taken} tensors from {init_from.name}, {len(new)} at random" + (f" (of {parts})" if parts else ""))
        run = Run(objective, settings, out, accelerator, budget, state, feed, report, evaluate)
        if main:  # only now, that nothing is left to refuse
            _write_inputs(out, recipe_yaml, write_inputs)
        accelerator.wait_for_everyone()
        with Interrupts() as interrupts, feed, report:
            stopped = run.loop(interrupts, stop_after)
            run.save()
            if stopped in ("interrupted", "stop_after"):
                report.say(f"stopped after {run.counters.samples:,} samples; the same command goes on from there")
                return run.summary(stopped, {})
            run.draw_sheet()
            model = run.ema.model()
            objective.finish(model)
            if main:
                save_checkpoint(out, model, recipe_yaml)
            summary = run.summary(stopped, objective.evaluate(model) if evaluate else {})
            if main:
                write_bytes(out / SUMMARY, json.dumps(asdict(summary), indent=2).encode())
    except OSError as error:
        raise CheckpointError(f"{error.filename or out} could not be written: {error.strerror or error}; repeat the command") from error
    accelerator.wait_for_everyone()
    return summary


def _write_inputs(out: Path, recipe_yaml: str, write_inputs: Callable[[], None] | None) -> None:
    """Write the recipe and what belongs beside it, and remove half-written states."""
    out.mkdir(parents=True, exist_ok=True)
    for half_written in out.glob(".state-*.tmp"):
        shutil.rmtree(half_written)
    if write_inputs is not None:
        write_inputs()
    write_bytes(out / RECIPE, recipe_yaml.encode())


def _done(out: Path, settings: TrainSettings, budget: float | None, state: State | None) -> Summary | None:
    """The summary of a run that has used its whole budget, of samples or of time, already."""
    if state is None or not ((out / SUMMARY).exists() and (out / WEIGHTS).exists()):
        return None
    summary = Summary(**json.loads((out / SUMMARY).read_text(encoding="utf-8")))
    in_time = summary.stopped == "budget" and budget is not None and budget <= (summary.budget or 0.0)
    used = in_time or summary.samples >= settings.samples
    return summary if used and summary.samples == state.counters.samples else None
