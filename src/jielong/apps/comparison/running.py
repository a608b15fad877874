"""Train and measure the entries of a comparison, resuming one that was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jielong.apps.comparison.checking import Log, check_untrained, common_medium
from jielong.apps.comparison.contestants import Budget, Entry, at, entries_of
from jielong.apps.comparison.measuring import measure, originals, shown_rows, write_sheet
from jielong.core.files import write_bytes
from jielong.core.locks import one_run
from jielong.data.sets import MediaSet
from jielong.evaluation.context import names_of
from jielong.evaluation.evaluate import heldout_items
from jielong.evaluation.provenance import machine, versions
from jielong.media.images import write_image
from jielong.system import System, load
from jielong.training import experiment
from jielong.training.checkpoint import fingerprint
from jielong.training.trainer import Summary

SETTINGS, FIGURES, SHEETS, RUNS = "settings.json", "figures", "sheets", "runs"
ORIGINAL, NEAREST = "original", ".nearest"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        label: Name.
        kind: ``tokenizer`` or ``generator``.
        origin: Training budget, or the checkpoint.
        figures: Values by name.
        omitted: Reasons of omitted figures.
        notes: Caveats.
        training: Summary of the run; empty for a checkpoint.
        provenance: Provenance of the figures.
        failed: Error message, if it failed.
    """

    label: str
    kind: str
    origin: str
    figures: dict[str, float] = field(default_factory=dict)
    omitted: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A comparison.

    Attributes:
        rows: Rows in the order of the names.
        settings: Common settings.
        folder: Folder of runs, figures and sample grids.
        shown: Captions, classes or names of the items of the sample grids.
        medium: Of the items, in words.
        complete: Whether every entry was trained and measured.
        signal: Number of the signal that interrupted a training.
    """

    rows: Sequence[Row]
    settings: dict[str, Any]
    folder: Path
    complete: bool
    signal: int | None = None
    shown: Sequence[str] = ()
    medium: str = ""

    def __repr__(self) -> str:
        """The tables as text."""
        from jielong.apps.comparison.table import text  # imports this module

        return text(self.rows)

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {
            "settings": self.settings,
            "complete": self.complete,
            "rows": [asdict(row) for row in self.rows],
            "versions": versions(),
            "machine": machine(),
        }


def compare(
    names: Sequence[str],
    out: Path,
    budget: Budget,
    *,
    data: str | None = None,
    overrides: Sequence[str] = (),
    count: int | None = None,
    seed: int = 0,
    device: str = "auto",
    log: Log | None = None,
    progress: bool = False,
) -> Comparison:
    """Train each recipe at an equal budget and evaluate all on the same held-out data.

    Runs are in ``out/runs``, figures in ``out/figures`` and sample grids in ``out/sheets``; an existing comparison is resumed.

    Args:
        names: Recipes, shipped models and checkpoint folders.
        out: Folder of the comparison.
        budget: Training budget of each recipe; checkpoints are not trained.
        data: Name or path of a data set for all entries; the recipes' by default.
        overrides: ``a.b=c`` changes to every recipe.
        count: Held-out items; all by default.
        seed: Seed of training and sampling.
        device: Device of training; evaluation runs on the CPU.
        log: Receives progress messages.
        progress: Show progress bars of training.

    Raises:
        InUseError: if another process compares in ``out``.
        ValueError: before training, if a name is unknown, ``out`` holds another comparison, data sets or media differ, no item is held
            out, or a recipe cannot be built or its untrained model not measured.
    """
    log = log or (lambda text: None)
    entries = entries_of(names, overrides)
    chosen = data or _shared(entries)
    heldout = {each.label: heldout_items(each.recipe, chosen, count=count) for each in entries}
    settings = {
        "budget": str(budget),
        "data": chosen,
        **common_medium(heldout),
        "count": count,
        "seed": seed,
        "overrides": list(overrides),
    }
    rows, signal = [], None
    with one_run(out):
        _keep_settings(out, settings)
        for entry in entries:
            if entry.checkpoint is None and not (out / RUNS / entry.label).exists():
                check_untrained(entry, at(budget, entry.recipe, seed), chosen, log)
        for entry in entries:
            try:
                row = _row(entry, out, budget, data, count, seed, device, log, progress)
            except (ValueError, RuntimeError, ImportError, ArithmeticError) as error:
                reason = f"{error or type(error).__name__}"
                log(f"{entry.label} failed: {reason}")
                row = Row(entry.label, entry.kind, _origin(entry, budget), failed=reason)
            if isinstance(row, Summary):
                signal = row.signal
                break
            rows.append(row)
        shown = _original(heldout[entries[0].label], out, count)
    return Comparison(
        rows,
        settings,
        out,
        len(rows) == len(entries) and all(row.failed is None for row in rows),
        signal,
        shown,
        str(heldout[entries[0].label].medium),
    )


def _shared(entries: Sequence[Entry]) -> str:
    """The common data set."""
    sets = {each.label: each.recipe.data.set for each in entries}
    if len(set(sets.values())) > 1:
        listed = ", ".join(f"{label}: {name}" for label, name in sets.items())
        raise ValueError(f"different data sets ({listed}), so figures are not comparable: set one for all with --data")
    return next(iter(sets.values()))


def _keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or compare them with those of an existing comparison; entries may change."""
    file = out / SETTINGS
    if file.exists():
        before = json.loads(file.read_text("utf-8"))
        differing = [f"{key} was {before.get(key)} and is now {value}" for key, value in settings.items() if before.get(key) != value]
        if differing:
            raise ValueError(
                f"{out} holds another comparison: {'; '.join(differing)}. Repeat its settings, or choose another folder with --out"
            )
    else:
        write_bytes(file, json.dumps(settings, indent=2).encode())


def _origin(entry: Entry, budget: Budget) -> str:
    return f"trained, {budget}" if entry.checkpoint is None else f"checkpoint {entry.checkpoint}"


def _row(
    entry: Entry,
    out: Path,
    budget: Budget,
    data: str | None,
    count: int | None,
    seed: int,
    device: str,
    log: Log,
    progress: bool,
) -> Row | Summary:
    """Train and measure one entry; the summary of its training if that was interrupted."""
    training: dict[str, Any] = {}
    notes: list[str] = []
    if entry.checkpoint is None:
        chosen, folder = at(budget, entry.recipe, seed), out / RUNS / entry.label
        log(f"{entry.label}: training, {budget}")
        measured = chosen.train.keep == "best" or chosen.train.patience is not None  # it takes a part of the budget
        summary = experiment.run(chosen, folder, data, budget=budget.seconds, device=device, progress=progress, evaluate=measured)
        if not summary.finished:
            return summary
        training = _training(summary, folder)
        notes += summary.unreached
        system = load(str(folder), "cpu")
    else:
        system = load(entry.checkpoint, "cpu")
        notes.append(f"checkpoint, trained with a budget of {entry.recipe.train.samples:,} samples")
    kept = _measured(entry.label, system, out, data, count, seed, log)
    advice = training.pop("advice", None)
    return Row(
        entry.label,
        entry.kind,
        _origin(entry, budget),
        kept["figures"] | {name: training[name] for name in ("samples", "seconds") if name in training},
        kept["omitted"],
        [*notes, *([advice] if advice else [])],
        training,
        kept["provenance"],
    )


def _training(summary: Summary, folder: Path) -> dict[str, Any]:
    return {
        "samples": summary.samples,
        "seconds": summary.seconds,
        "steps": summary.steps,
        "skipped": summary.skipped,
        "processes": summary.processes,
        "stopped": summary.stopped,
        "folder": str(folder),
        "advice": summary.metrics.get("advice"),
    }


def _measured(label: str, system: System, out: Path, data: str | None, count: int | None, seed: int, log: Log) -> dict[str, Any]:
    """Figures, omissions and provenance, read from file if weights, data, count and seed are the same."""
    file, strip = out / FIGURES / f"{label}.json", out / SHEETS / f"{label}.png"
    key = {
        "weights_sha256": fingerprint(system.generator or system.tokenizer),
        "tokenizer_sha256": fingerprint(system.tokenizer),
        "data_sha256": heldout_items(system.recipe, data or system.recipe.data.set, system.tokenizer.media, count).fingerprint,
        "count": count,
        "seed": seed,
    }
    if file.exists() and strip.exists():
        kept: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if kept["of"] == key:
            return kept
    log(f"{label}: measuring")
    measured = measure(system, data, count, seed)
    write_sheet(strip, measured.shown)
    if measured.pairs is not None:
        write_image(out / SHEETS / f"{label}{NEAREST}.png", measured.pairs.sheet(columns=len(measured.pairs) // 2))
    kept = {"of": key, "figures": measured.figures, "omitted": measured.omitted, "provenance": measured.provenance}
    write_bytes(file, json.dumps(kept, indent=2, ensure_ascii=False, allow_nan=False).encode())
    return kept


def _original(items: MediaSet, out: Path, count: int | None) -> list[str]:
    """Write the grid of original items; returns their captions, classes or names."""
    rows, path = shown_rows(items, count), out / SHEETS / f"{ORIGINAL}.png"
    if not path.exists():
        write_sheet(path, originals(items, rows))
    return names_of(items, rows)
