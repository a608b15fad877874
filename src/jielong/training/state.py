"""The saved state of a run: everything that resuming needs, in a folder that is written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, TypeAdapter
from torch import Tensor

from jielong.config.registry import RecipeError
from jielong.config.schedule import ScheduledSetting
from jielong.config.yaml_text import read_value
from jielong.core.files import new_folder
from jielong.core.json import JSON
from jielong.core.storage import StorageError
from jielong.core.text import shorten, shown
from jielong.training.checkpoint import (
    ADAPTER,
    RECIPE,
    WEIGHTS,
    CheckpointError,
    bytes_of,
    check_checksum,
    read_tensors,
    write_checksums,
    write_tensors,
)
from jielong.training.optimizers import OptimizerNumbers
from jielong.training.pauses import Pause

FORMAT = 2
STATE = "state.json"
MAX_STATE = 1 << 26
"""Most bytes of :data:`STATE`."""
_FREE = {
    f"train.{key}" for key in ("micro_batch", "gradient_checkpointing", "compile", "log_every", "sample_every", "save_every", "patience")
}
"""Keys of a recipe that may change when a run is resumed: they do not change what is computed, only how far."""


@dataclass
class Counters:
    """Progress of a run, beside its tensors.

    Attributes:
        samples: Samples seen; also the position in the data and the seed of the next step's random numbers.
        steps: Updates of the model.
        skipped: Steps skipped because a loss or a gradient was not finite.
        skipped_in_a_row: How many of the last steps were skipped.
        seconds: Wall time so far, over all parts of the run.
        metrics_bytes: Length of the metrics file when the state was saved; later lines are written again.
        sums: Sums of the figures since the last line of the log, by name.
        weights: Steps in each sum.
        warned: Warnings that were printed.
        heldout: Held-out figures for the next line of the log.
        pause_seconds: The pauses between steps, by kind.
        position: Position of the last step in the schedules, in samples; ``None`` before the first.
        schedule: The settings in samples that the position belongs to.
        best: The best held-out figure so far, and at how many samples; empty before the first.
        since_best: Evaluations since then.
    """

    samples: NonNegativeInt = 0
    steps: NonNegativeInt = 0
    skipped: NonNegativeInt = 0
    skipped_in_a_row: NonNegativeInt = 0
    seconds: NonNegativeFloat = 0.0
    metrics_bytes: NonNegativeInt = 0
    sums: dict[str, float] = field(default_factory=dict)
    weights: dict[str, NonNegativeInt] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    heldout: dict[str, float] = field(default_factory=dict)
    pause_seconds: dict[str, Pause] = field(default_factory=dict)
    position: NonNegativeInt | None = None
    schedule: dict[str, NonNegativeInt] = field(default_factory=dict)
    best: list[float] = field(default_factory=list)
    since_best: NonNegativeInt = 0


_COUNTERS = TypeAdapter(Counters)


@dataclass(frozen=True)
class RunState:
    """A saved state.

    Attributes:
        counters: Progress of the run.
        tensors: ``objective`` (raw weights and buffers), ``ema``, one set per optimizer, and ``best`` where the run keeps those, by name.
        optimizers: Numbers of each optimizer.
    """

    counters: Counters
    tensors: Mapping[str, Mapping[str, Tensor]]
    optimizers: Mapping[str, OptimizerNumbers]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(bytes_of(tensors) for tensors in self.tensors.values())


def write_state(out: Path, state: RunState) -> Path:
    """Save a state as ``state-<samples>`` and remove older ones; an interrupted save leaves the older one intact.

    Raises:
        StorageError: if it cannot be written, for example because the disk is full; nothing half-written is left.
    """
    target = out / f"state-{state.counters.samples:012d}"
    if not target.exists():
        try:
            with new_folder(target) as folder:
                for name, tensors in state.tensors.items():
                    write_tensors(folder / f"{name}.safetensors", tensors)
                text = json.dumps({"format": FORMAT, "counters": asdict(state.counters), "optimizers": state.optimizers}, indent=1)
                with open(folder / STATE, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                write_checksums(folder, [STATE, *(f"{name}.safetensors" for name in state.tensors)])
        except StorageError as error:
            last = latest_state(out)
            rest = f"The last complete state, {last.name}, is intact" if last else "No state was saved before"
            raise StorageError(error, target, state.size, f"{rest}; repeat the command to go on from there") from error
    for older in _states(out):
        if older != target:
            shutil.rmtree(older)
    return target


def latest_state(out: Path) -> Path | None:
    """The folder of the newest complete state, if there is one."""
    return max(_states(out), default=None)


def read_state(folder: Path) -> RunState:
    """Read a saved state.

    Raises:
        CheckpointError: if a file is damaged, or of another format.
    """
    files = sorted(folder.glob("*.safetensors"))
    tensors = {path.stem: read_tensors(path) for path in files}
    for path in (folder / STATE, *files):
        check_checksum(path)
    try:
        with open(folder / STATE, "rb") as file:
            info = json.loads(file.read(MAX_STATE))
        if info["format"] != FORMAT:
            found = f"{folder} has format {shown(info['format'])}, and this version reads {FORMAT}"
            raise CheckpointError(f"{found}; finish the run with the version that began it")
        counters = _COUNTERS.validate_python(info["counters"])
        if counters.samples != int(folder.name.rpartition("-")[2]):
            raise ValueError(f"it is the state of {counters.samples} samples")
        kept = {phase: (dict(each["numbers"]), list(each["groups"])) for phase, each in info["optimizers"].items()}
    except CheckpointError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / STATE} is damaged ({shorten(' '.join(str(error).split()), 200)}); remove {folder} to start again"
        ) from None
    optimizers = {phase: OptimizerNumbers(numbers=numbers, groups=groups) for phase, (numbers, groups) in kept.items()}
    return RunState(counters, tensors, optimizers)


@contextmanager
def fitting_state(out: Path) -> Iterator[None]:
    """While a saved state of a run is given to its parts: what does not fit is a :class:`CheckpointError`."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"the saved state in {out} does not fit the run ({reason}); remove it to start again") from None


def _states(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("state-*") if re.fullmatch(r"state-\d{12}", path.name))


def check_run_folder(
    out: Path, recipe_yaml: str, upgrade: Callable[[str], str] | None = None, schedule: Sequence[ScheduledSetting] = ()
) -> Path | None:
    """The newest state of the run in a folder, if that run may be resumed under this recipe; ``None`` where there is no run.

    Args:
        out: The folder.
        recipe_yaml: The recipe.
        upgrade: As of :func:`check_same_recipe`.
        schedule: As of :func:`check_same_recipe`.

    Raises:
        RecipeError: if it is a run of another recipe.
        CheckpointError: if it is a finished model without its state.
    """
    newest = latest_state(out)
    if newest is None and any((out / name).exists() for name in (WEIGHTS, ADAPTER)):
        raise CheckpointError(f"{out} holds a finished model without the state to resume from; choose another folder, or remove it")
    if newest is not None and (out / RECIPE).exists():
        check_same_recipe(_recipe_text(out), recipe_yaml, out, upgrade, schedule)
    return newest


def check_same_inputs(before: Mapping[str, object], now: Mapping[str, object], out: Path) -> None:
    """Refuse to resume a run on other media, classes or data than it began with; what an earlier version did not record is not compared.

    Raises:
        CheckpointError: naming everything that changed.
    """
    differing = [key for key in now if key in before and _differ(key, before[key], now[key])]
    changed = [_change(key.replace("_", " "), before[key], now[key]) for key in differing]
    if changed:
        advice = "Restore what it began with, or begin another run with --out (and --set train.init_from=... for its weights)"
        raise CheckpointError(f"the run in {out} cannot be resumed: {'; '.join(changed)}. {advice}")


def _differ(key: str, before: object, now: object) -> bool:
    if key == "data" and isinstance(before, Mapping) and isinstance(now, Mapping):  # earlier versions recorded another hash of the content
        return any(before[key] != now[key] for key in now if key in before)
    return before != now


def _change(name: str, before: Any, now: Any) -> str:
    """How an input of a run changed, in words."""
    if name == "classes":
        new, gone = [item for item in now if item not in before], [item for item in before if item not in now]
        parts = [f"{words}: {', '.join(items[:5])}{', ...' * (len(items) > 5)}" for words, items in (("new", new), ("gone", gone)) if items]
        return f"the classes changed from {len(before)} to {len(now)} ({'; '.join(parts) or 'in another order'})"
    if name in ("tokenizer sha256", "stages sha256"):
        return f"the weights of the {name.split()[0]} changed"
    if name == "data" and before.get("items") == now.get("items"):
        return f"the data changed: still {now.get('items')} items, with other content"
    if name == "data":
        return f"the data changed from {before.get('items')} to {now.get('items')} items"
    return f"the {name} changed from {before} to {now}"


def check_same_recipe(
    old: str, new: str, out: Path, upgrade: Callable[[str], str] | None = None, schedule: Sequence[ScheduledSetting] = ()
) -> None:
    """Refuse to resume a run under another recipe; a larger budget and other intervals of logging and saving are accepted.

    Args:
        old: The recipe that the run began with.
        new: The recipe that it is resumed with.
        out: The run's folder.
        upgrade: Completes a recipe of an earlier version with today's settings: new ones at their defaults.
        schedule: The new recipe's settings in samples, which may move with a larger budget.

    Raises:
        RecipeError: naming every key that differs, with both values.
    """
    changes, _ = _changes(old, new, out, upgrade, schedule)
    if changes:
        advice = "Use the recipe that began it, or another folder for this one (--out)"
        raise RecipeError(f"{out} holds a run of another recipe: {'; '.join(changes)}. {advice}")


def changes_since(
    out: Path, recipe_yaml: str, upgrade: Callable[[str], str] | None = None, schedule: Sequence[ScheduledSetting] = ()
) -> list[str]:
    """Settings of the run in a folder that are accepted although they changed, with both values."""
    if not (out / RECIPE).exists():
        return []
    return _changes(_recipe_text(out), recipe_yaml, out, upgrade, schedule)[1]


def _recipe_text(out: Path) -> str:
    try:
        return (out / RECIPE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{out / RECIPE} is damaged ({error}); restore it, or begin another run") from None


def _changes(
    old: str, new: str, out: Path, upgrade: Callable[[str], str] | None, schedule: Sequence[ScheduledSetting]
) -> tuple[list[str], list[str]]:
    """Changed settings in words: those that make another run, and those that do not."""
    origin = str(out / RECIPE)
    stored, after = flat(read_value(old, origin)), flat(read_value(new, "the recipe"))
    before = stored if upgrade is None else flat(read_value(upgrade(old), origin))
    accepted = set(_FREE)
    started, target = before.get("train.samples", 0), after.get("train.samples", 0)
    if isinstance(started, int | float) and isinstance(target, int | float) and started < target:
        accepted.add("train.samples")
        ratio = target / started
        earlier = {each: before.get(each.name) for each in schedule}
        accepted.update(each.name for each, was in earlier.items() if isinstance(was, int) and abs(each.samples - was * ratio) <= 1 + ratio)
    lines: tuple[list[str], list[str]] = ([], [])
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            line = f"{key} was {before.get(key, 'not given')} and is now {after.get(key, 'not given')}"
            lines[key in accepted].append(line)
    removed = {key for key in stored.keys() - before.keys() - _FREE if stored[key] != {}}  # {} is a part without settings
    lines[0].extend(f"{key} was {stored[key]} and is no setting any more" for key in sorted(removed))
    return lines


def flat(value: object, path: str = "") -> JSON:
    """Settings by their keys with dots: ``{a: {b: 1}}`` to ``{a.b: 1}``."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{path}.{name}" if path else str(name)).items()}
