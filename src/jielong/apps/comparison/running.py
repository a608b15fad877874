"""Train and measure whoever is compared, each in a folder of its own, so that a comparison that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jielong.apps.comparison.contestants import Budget, Contestant, at, contestants, unreached
from jielong.apps.comparison.measuring import heldout, measure
from jielong.evaluation.provenance import machine, versions
from jielong.media.images import sheet, write_bytes, write_image
from jielong.media.kinds.image import ImageData
from jielong.system import System, load
from jielong.training import experiment
from jielong.training.checkpoint import fingerprint
from jielong.training.trainer import Summary

SETTINGS, FIGURES, SHEETS, RUNS = "settings.json", "figures", "sheets", "runs"
ORIGINAL = "original"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One contestant's line of the table.

    Attributes:
        label: Its name.
        kind: ``tokenizer`` or ``generator``.
        made_by: The recipe's budget, or the checkpoint as it was found.
        figures: Numbers by name.
        omitted: Figures that do not apply, and why.
        notes: What a reader must know of this row.
        training: How the run ended; empty for a checkpoint.
        provenance: How each figure was made.
        failed: Why there are no figures.
    """

    label: str
    kind: str
    made_by: str
    figures: dict[str, float] = field(default_factory=dict)
    omitted: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What was compared.

    Attributes:
        rows: In the order they were named.
        settings: What all rows share.
        folder: Of the runs, figures and sheets.
        complete: Whether every contestant was trained and measured; otherwise the same command goes on.
    """

    rows: Sequence[Row]
    settings: dict[str, Any]
    folder: Path
    complete: bool

    def __repr__(self) -> str:
        """The tables as text."""
        from jielong.apps.comparison.table import text  # which describes the rows of this file

        return text(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
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
    tell: Tell | None = None,
    progress: bool = False,
) -> Comparison:
    """Train each recipe at an equal budget, and measure all on the same held-out pictures.

    Runs lie in ``out/runs``, figures in ``out/figures`` and strips of pictures in ``out/sheets``. What is there already is not made again.

    Args:
        names: Recipes, shipped models and checkpoint folders.
        out: The comparison's folder.
        budget: Of each recipe; checkpoints are measured as they are.
        data: A set's name or a path for all, instead of their own.
        overrides: ``a.b=c`` changes to every recipe.
        count: Held-out items; all by default.
        seed: Of every training and of what generators draw.
        device: Of training; measuring always runs on the CPU.
        tell: Told what is being done.
        progress: Whether trainings show theirs.

    Raises:
        ValueError: if a name leads to nothing, ``out`` holds another comparison, or the pictures are not alike; before training.
    """
    tell = tell or (lambda text: None)
    found = contestants(names, overrides)
    settings = {
        "budget": str(budget),
        "data": data or _shared(found),
        "size": _size(found),
        "count": count,
        "seed": seed,
        "overrides": list(overrides),
    }
    _keep_settings(out, settings)
    rows, complete = [], True
    for contestant in found:
        try:
            row = _row(contestant, out, budget, data, count, seed, device, tell, progress)
        except (ValueError, RuntimeError, ImportError, ArithmeticError) as error:
            reason = f"{error or type(error).__name__}"
            tell(f"{contestant.label} failed: {reason}")
            row = Row(contestant.label, contestant.kind, _made_by(contestant, budget), failed=reason)
        if row is None:
            complete = False
            break
        rows.append(row)
    _original(found[0], out, data)
    return Comparison(rows, settings, out, complete and all(row.failed is None for row in rows))


def _shared(found: Sequence[Contestant]) -> str:
    """The set that all are about."""
    sets = {each.label: each.recipe.data.set for each in found}
    if len(set(sets.values())) > 1:
        told = ", ".join(f"{label}: {name}" for label, name in sets.items())
        raise ValueError(f"these are about different pictures ({told}), so their figures do not compare: give one set for all with --data")
    return next(iter(sets.values()))


def _side(contestant: Contestant) -> int | None:
    settings = contestant.recipe.data
    return settings.size if isinstance(settings, ImageData) else None


def _size(found: Sequence[Contestant]) -> int | None:
    sizes = {each.label: _side(each) for each in found}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{label}: {size}" for label, size in sizes.items())
        raise ValueError(
            f"these make pictures of different sizes ({told}), so their figures do not compare: set data.size alike with --set"
        )
    return next(iter(sizes.values()))


def _keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Remember what this comparison is, and refuse to mix it with another; who takes part may change."""
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


def _made_by(contestant: Contestant, budget: Budget) -> str:
    return f"trained here, {budget}" if contestant.checkpoint is None else f"checkpoint {contestant.checkpoint}, as it is"


def _row(
    contestant: Contestant,
    out: Path,
    budget: Budget,
    data: str | None,
    count: int | None,
    seed: int,
    device: str,
    tell: Tell,
    progress: bool,
) -> Row | None:
    """Train and measure one; ``None`` if the training was interrupted."""
    training: dict[str, Any] = {}
    notes: list[str] = []
    if contestant.checkpoint is None:
        chosen, folder = at(budget, contestant.recipe, seed), out / RUNS / contestant.label
        tell(f"{contestant.label}: training, {budget}")
        summary = experiment.run(chosen, folder, data, budget=budget.seconds, device=device, progress=progress, evaluate=False)
        if not summary.finished:
            return None
        training = _training(summary, folder)
        notes += unreached(chosen, summary.samples)
        system = load(str(folder), "cpu")
    else:
        system = load(contestant.checkpoint, "cpu")
        notes.append(f"not trained here: its own recipe's budget was {contestant.recipe.train.samples:,} samples")
    kept = _measured(contestant.label, system, out, data, count, seed, tell)
    advice = training.pop("advice", None)
    return Row(
        contestant.label,
        contestant.kind,
        _made_by(contestant, budget),
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


def _measured(label: str, system: System, out: Path, data: str | None, count: int | None, seed: int, tell: Tell) -> dict[str, Any]:
    """Figures, omissions and provenance of one system: from its file if they are of these weights and these pictures, else measured now."""
    file, strip = out / FIGURES / f"{label}.json", out / SHEETS / f"{label}.png"
    key = {
        "weights_sha256": fingerprint(system.generator or system.tokenizer),
        "tokenizer_sha256": fingerprint(system.tokenizer),
        "data_sha256": heldout(system, data).fingerprint,
        "count": count,
        "seed": seed,
    }
    if file.exists() and strip.exists():
        kept: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if kept["of"] == key:
            return kept
    tell(f"{label}: measuring")
    measured = measure(system, data, count, seed)
    write_image(strip, sheet(measured.strip, columns=len(measured.strip), padding=1))
    kept = {"of": key, "figures": measured.figures, "omitted": measured.omitted, "provenance": measured.provenance}
    write_bytes(file, json.dumps(kept, indent=2, ensure_ascii=False, allow_nan=False).encode())
    return kept


def _original(contestant: Contestant, out: Path, data: str | None) -> None:
    """The real pictures that every strip is about."""
    from jielong.apps.comparison.measuring import SHOWN
    from jielong.data.opening import open_data
    from jielong.data.order import spread

    path = out / SHEETS / f"{ORIGINAL}.png"
    if not path.exists():
        images = open_data(data or contestant.recipe.data.set, "heldout", settings=contestant.recipe.data)
        write_image(path, sheet(images.media(spread(len(images), SHOWN)), columns=SHOWN, padding=1))
