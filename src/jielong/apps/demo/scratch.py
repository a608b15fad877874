"""Train a tokenizer and a masked generator from scratch within a few minutes of wall time."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jielong.config import recipe
from jielong.core.files import write_bytes
from jielong.system import System, load
from jielong.training import experiment
from jielong.training import token_cache as cache
from jielong.training.run_logger import METRICS
from jielong.training.trainer import Summary

TOKENIZER_SHARE = 0.36
"""Tokenizer's share of the total time; the rest is for encoding the data set and for the generator."""
MEASURING_SHARE = 0.06
"""Share of the total time reserved for the final evaluation and sample grids, which a run's budget excludes."""


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: Checkpoint, metrics and sample grids.
        command: Command that repeats the training.
        summary: The run's summary.
        log: Records of the log, each with ``samples``, ``seconds`` and losses.
        grids: Sample grids, ordered by the number of samples seen.
    """

    folder: Path
    command: str
    summary: Summary
    log: list[dict[str, float]]
    grids: list[tuple[int, Path]]


@dataclass(frozen=True)
class Scratch:
    """Both runs, the trained system and the total seconds."""

    tokenizer: Run
    generator: Run
    system: System
    seconds: float


def train_from_scratch(out: Path, minutes: float, console: Console, overrides: Sequence[str] = ()) -> Scratch:
    """Train both into ``out`` (emptied first).

    Args:
        out: Output folder.
        minutes: Wall-time limit for both runs, encoding the data set and evaluation.
        console: Console of the progress display.
        overrides: ``a.b=c`` changes to both recipes.
    """
    started = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    total, files = 60.0 * minutes, importlib.resources.files("jielong.apps.demo")

    def left() -> float:
        return total * (1 - MEASURING_SHARE) - (time.perf_counter() - started)

    console.print("[bold]training a tokenizer[/bold]", highlight=False)
    folder = out / "tokenizer"
    first = recipe.parse((files / "tokenizer.yaml").read_text(), "the demo's tokenizer", overrides)
    tokenizer_run = _train(first, folder, TOKENIZER_SHARE * total, console)

    console.print("[bold]encoding the data set[/bold]", highlight=False)
    data, tokenizer = experiment.prepare(first).data, load(str(folder), "cpu").tokenizer
    tokens = out / "tokens.safetensors"
    cache.write(tokens, cache.tokenize(tokenizer, data), cache.identity(tokenizer, data))

    console.print("[bold]training a masked generator[/bold]", highlight=False)
    second = recipe.parse((files / "generator.yaml").read_text(), "the demo's generator", [f"tokenizer.checkpoint={folder}", *overrides])
    generator_run = _train(second, out / "generator", max(left(), 0.1 * total), console, tokens)
    return Scratch(tokenizer_run, generator_run, load(str(out / "generator"), "cpu"), time.perf_counter() - started)


def _train(chosen: recipe.Recipe, folder: Path, budget: float, console: Console, tokens: Path | None = None) -> Run:
    recipe_file = folder.with_suffix(".yaml")
    write_bytes(recipe_file, chosen.to_yaml().encode())
    command = f"jielong train {recipe_file} --budget {budget:.0f}s --out {folder}-again"
    summary = experiment.run(chosen, folder, tokens=tokens, budget=budget, console=console)
    summary.raise_if_interrupted()
    log = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    grids = sorted((int(path.stem.rpartition("-")[2]), path) for path in (folder / "samples").glob("samples-*.png"))
    return Run(folder, command, summary, log, grids)
