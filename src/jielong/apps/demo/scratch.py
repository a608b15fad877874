"""A tokenizer and a masked generator from nothing, within a few minutes of wall time."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jielong.config import recipe
from jielong.media.images import write_bytes
from jielong.system import System, load
from jielong.training import experiment
from jielong.training import token_cache as cache
from jielong.training.run_logger import METRICS
from jielong.training.trainer import Summary

TOKENIZER_SHARE = 0.36
"""Of the whole time; the rest is the generator's, less what tokenising the set takes."""
MEASURING_SHARE = 0.06
"""Of the whole time, kept for the held-out figures and the last sheets, which a run's budget does not count."""


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: Its checkpoint, metrics and sample sheets.
        command: What trains it again.
        summary: How it ended.
        log: Lines of the log, each with ``samples``, ``seconds`` and losses.
        sheets: Sample sheets by samples seen, in order.
    """

    folder: Path
    command: str
    summary: Summary
    log: list[dict[str, Any]]
    sheets: list[tuple[int, Path]]


@dataclass(frozen=True)
class Scratch:
    """Both runs, the trained system, and the seconds that all of it took."""

    tokenizer: Run
    generator: Run
    system: System
    seconds: float


def train_from_scratch(out: Path, minutes: float, console: Console, overrides: Sequence[str] = ()) -> Scratch:
    """Train both into ``out`` (emptied first), in at most ``minutes``.

    Args:
        out: A folder of the demo's own.
        minutes: Wall time for everything: both runs, tokenising the set, and measuring.
        console: Where the live progress goes.
        overrides: ``a.b=c`` changes to both recipes.
    """
    begun = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    total, files = 60.0 * minutes, importlib.resources.files("jielong.apps.demo")

    def left() -> float:
        return total * (1 - MEASURING_SHARE) - (time.perf_counter() - begun)

    console.print("[bold]training a tokenizer[/bold]: pictures to tokens and back", highlight=False)
    folder = out / "tokenizer"
    first = recipe.parse((files / "tokenizer.yaml").read_text(), "the demo's tokenizer", overrides)
    tokenizer_run = _train(first, folder, TOKENIZER_SHARE * total, console)

    console.print("[bold]cutting the whole set into tokens[/bold]", highlight=False)
    data, tokenizer = experiment.prepare(first).data, load(str(folder), "cpu").tokenizer
    tokens = out / "tokens.safetensors"
    cache.write(tokens, cache.tokenize(tokenizer, data), cache.identity(tokenizer, data))

    console.print("[bold]training a masked generator[/bold] on them: tokens from nothing", highlight=False)
    second = recipe.parse((files / "generator.yaml").read_text(), "the demo's generator", [f"tokenizer.checkpoint={folder}", *overrides])
    generator_run = _train(second, out / "generator", max(left(), 0.1 * total), console, tokens)
    return Scratch(tokenizer_run, generator_run, load(str(out / "generator"), "cpu"), time.perf_counter() - begun)


def _train(chosen: recipe.Recipe, folder: Path, budget: float, console: Console, tokens: Path | None = None) -> Run:
    page = folder.with_suffix(".yaml")
    write_bytes(page, chosen.to_yaml().encode())
    command = f"jielong train {page} --budget {budget:.0f}s --out {folder}-again"
    summary = experiment.run(chosen, folder, tokens=tokens, budget=budget, console=console)
    log = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    sheets = sorted((int(path.stem.rpartition("-")[2]), path) for path in (folder / "samples").glob("samples-*.png"))
    return Run(folder, command, summary, log, sheets)
