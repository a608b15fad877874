"""The training loop. A run is a function of its recipe and of the samples seen: a resumed run equals an uninterrupted one.

Nothing random is kept between steps. Data are addressed by position, each sample has its own random stream, and torch's global generator is
reseeded at each step from (seed, process, samples seen). So the saved state is weights, EMA weights, optimizer moments and counters, and on
the CPU a resumed run equals an uninterrupted one bit for bit. With a budget of wall time the learning rate follows the clock: such runs
resume as well, but no two are equal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict, TypeVar

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from jielong.config.registry import RecipeError
from jielong.config.schedule import ScheduledSetting
from jielong.config.yaml_text import read_value
from jielong.core.files import write_bytes
from jielong.core.interrupts import Interrupts
from jielong.training.best import kept_words
from jielong.training.checkpoint import RECIPE, init_from_checkpoint
from jielong.training.loss_curve import draw_curve
from jielong.training.objective import Objective
from jielong.training.pauses import left_out_words
from jielong.training.prefetch import BatchPrefetcher, BatchSource
from jielong.training.processes import join_processes
from jielong.training.run import Run
from jielong.training.run_logger import METRICS, RunLogger
from jielong.training.settings import TrainSettings
from jielong.training.state import Counters, RunState, changes_since, check_run_folder, flat, read_state
from jielong.training.step import undivided_norms
from jielong.training.summary import Summary, kept_samples
from jielong.training.trackers import Tracker, Trackers

__all__ = ["SUMMARY", "BatchSource", "Summary", "train"]

SUMMARY = "summary.json"
Model = TypeVar("Model", bound=nn.Module)


class TrainOptions(TypedDict, total=False):
    """Arguments of :func:`train` that do not depend on the recipe."""

    budget: float | None
    progress: bool
    console: Console | None
    trackers: Sequence[Tracker]
    stop_after: int | None
    command: str | None
    evaluate: bool


def train(
    objective: Objective[Model],
    source: BatchSource,
    settings: TrainSettings,
    out: Path,
    *,
    recipe_yaml: str,
    schedule: Sequence[ScheduledSetting] = (),
    upgrade: Callable[[str], str] | None = None,
    budget: float | None = None,
    device: str | torch.device = "auto",
    accelerator: Accelerator | None = None,
    progress: bool = True,
    console: Console | None = None,
    trackers: Sequence[Tracker] = (),
    stop_after: int | None = None,
    command: str | None = None,
    evaluate: bool = True,
    init_from: Path | None = None,
    write_inputs: Callable[[], None] | None = None,
    notes: Sequence[str] = (),
) -> Summary:
    """Train, or resume the run in ``out``.

    Args:
        objective: What is minimised; its ``model`` has the EMA and becomes the checkpoint.
        source: The data.
        settings: The recipe's ``train`` section.
        out: The run's folder: ``state-*`` to resume from, ``metrics.jsonl``, ``samples/``; in the end ``recipe.yaml``,
            ``model.safetensors`` (EMA weights, the last or the best; :meth:`Objective.save`) and ``summary.json``.
        recipe_yaml: The whole recipe; a run of another recipe in ``out`` is refused.
        schedule: The recipe's settings in samples, which scale with the budget.
        upgrade: Completes a recipe of an earlier version with today's settings, before the two are compared.
        budget: Seconds of wall time for the training, over all parts of the run; learning rate and schedules then follow samples or time,
            whichever is further. The final evaluation is not counted.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
        accelerator: The processes, if they were joined already; ``device`` is ignored then.
        progress: Whether to print progress.
        console: Where to; standard error if not given.
        trackers: Experiment trackers, by their names in accelerate, or objects; they get the lines of the log and the sample grids.
        stop_after: Save and stop after so many samples, as an interruption would.
        command: The command line, for the summary.
        evaluate: Whether to measure held-out figures, at every sample grid and at the end.
        init_from: Folder of a checkpoint that initialises a new run where names and shapes fit; a resumed run does not read it.
        notes: Lines to print when a new run begins.
        write_inputs: Writes what belongs in ``out`` beside the recipe; called by one process, after all checks.

    The first SIGINT, SIGTERM or SIGHUP saves and stops after the step, a second SIGINT at once; once all samples are seen and the state is
    saved, any of them ends the program at once, and the same command resumes.

    Raises:
        DeviceError: if the device is not available, or cannot serve the processes of the launcher.
        RecipeError: if ``out`` holds a run of another recipe, or a tracker is unknown or not installed.
        RecipeError: if ``train.keep`` needs held-out figures that are not measured.
        CheckpointError: if ``out`` holds a finished model without its state.
        StorageError: if the disk is full, or ``out`` cannot be written.
        NonFiniteError: if losses or gradients are not finite several steps in a row.
    """
    accelerator = accelerator or join_processes(device)
    main = accelerator.is_main_process
    screen = (console or Console(stderr=True)) if progress and main else None
    newest = check_run_folder(out, recipe_yaml, upgrade, schedule)
    state = read_state(newest) if newest is not None else None
    if (finished := _finished(out, objective.result, settings, budget, state)) is not None:
        return finished
    counters = state.counters if state is not None else Counters()
    rank, world = accelerator.process_index, accelerator.num_processes
    micro_batch = settings.micro_batch or settings.batch
    prefetcher = BatchPrefetcher(source, settings.batch, micro_batch, rank, world, settings.seed, accelerator.device)
    tracking = Trackers(trackers, accelerator, out, flat(read_value(recipe_yaml, str(out / RECIPE)))) if trackers and main else None
    logger = RunLogger(out if main else None, screen, counters.metrics_bytes, counters.samples, tracking)
    if state is None and init_from is not None:
        logger.print(_initialise(objective.model, init_from, objective.frozen))
    for note in notes if state is None else ():
        logger.print(note)
    if state is not None:
        changed = changes_since(out, recipe_yaml, upgrade, schedule)
        logger.print(f"resumed at {counters.samples:,} of {settings.samples:,} samples" + "".join(f"; {change}" for change in changed))
    if settings.ema_lengths and objective.training_stage(0) != objective.training_stage(settings.samples):
        raise RecipeError("train.ema_lengths: this model is trained in two stages, and a power-function EMA would mix both: leave it out")
    run = Run(objective, settings, out, accelerator, budget, state, prefetcher, logger, evaluate, schedule)
    if (line := undivided_norms(objective, min(micro_batch, prefetcher.local_batch), settings.batch)) is not None:
        logger.warn(line)
    if main:  # after everything that may be refused
        run.check_room()
        _write_inputs(out, recipe_yaml, write_inputs)
    accelerator.wait_for_everyone()
    with Interrupts() as interrupts, prefetcher, logger:
        stopped = run.loop(interrupts, stop_after)
        run.save()
        if stopped in ("interrupted", "stop_after"):
            logger.print(f"stopped after {run.counters.samples:,} samples; the same command resumes")
            return run.summary(stopped, {})
        if stopped == "early_stopping":
            logger.print(
                f"stopped early, after {run.counters.samples:,} samples: no better held-out figure in {settings.patience} evaluations"
            )
        interrupts.stop_at_once()
        run.write_samples()
        run.save_snapshots()
        model, figures, kept = run.best.choose(evaluate)
        if kept and main:  # which measured
            logger.print(kept_words(kept))
        summary = run.summary(stopped, figures, kept, command)
        if (line := left_out_words(run.counters.pause_seconds)) is not None:
            logger.print(line)
        for line in summary.unreached:
            logger.warn(line)
        if main:
            objective.save(model, out, recipe_yaml)
            draw_curve(out / METRICS, kept.get("last"), kept_samples(kept))
            write_bytes(out / SUMMARY, json.dumps(asdict(summary), indent=2).encode())
    accelerator.wait_for_everyone()
    return summary


def _initialise(model: nn.Module, folder: Path, frozen: Set[str]) -> str:
    """Initialise a model from a checkpoint, which has all that is frozen; a line for the log."""
    count, others = init_from_checkpoint(model, folder)
    if random := sorted(frozen & {*others}):
        more = f" and {len(random) - 3} more" if len(random) > 3 else ""
        raise RecipeError(
            f"train.freeze: the checkpoint of train.init_from has no {', '.join(random[:3])}{more} of this shape, which would stay "
            "random: train them, or choose another checkpoint"
        )
    parts = ", ".join(sorted({name.split(".")[0] for name in others}))
    return f"initialised {count} tensors from {folder.name}, {len(others)} at random" + (f" (of {parts})" if parts else "")


def _write_inputs(out: Path, recipe_yaml: str, write_inputs: Callable[[], None] | None) -> None:
    """Write the recipe and what belongs beside it."""
    if write_inputs is not None:
        write_inputs()
    write_bytes(out / RECIPE, recipe_yaml.encode())


def _finished(out: Path, result: str, settings: TrainSettings, budget: float | None, state: RunState | None) -> Summary | None:
    """The summary of a run that has used its whole budget, of samples or of time, already."""
    if state is None or not ((out / SUMMARY).exists() and (out / result).exists()):
        return None
    summary = Summary(**json.loads((out / SUMMARY).read_text(encoding="utf-8")))
    in_time = summary.stopped == "budget" and budget is not None and budget <= (summary.budget or 0.0)
    ended = summary.stopped == "early_stopping" and settings.patience is not None and state.counters.since_best >= settings.patience
    used = in_time or ended or summary.samples >= settings.samples
    return summary if used and summary.samples == state.counters.samples else None
