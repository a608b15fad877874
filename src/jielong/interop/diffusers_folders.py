"""Folders of ``diffusers``: a model with ``config.json`` and weights, or a pipeline of several such folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jielong.core.json import JSON
from jielong.interop.files import CONFIG, Source, read, read_json
from jielong.training.checkpoint import CheckpointError

INDEX = "model_index.json"
CLASS = "_class_name"
SCHEDULER = "scheduler_config.json"


@dataclass(frozen=True)
class Folders:
    """What some paths hold.

    Attributes:
        models: Folders of models by their class.
        scheduler: The configuration of a scheduler and its file, if there is one.
        index: What ``model_index.json`` of a pipeline says; empty without one.
    """

    models: dict[str, Path]
    scheduler: tuple[JSON, Path] | None
    index: JSON

    def model(self, *classes: str) -> Path | None:
        """The folder of a model of one of these classes; ``None`` if there is none."""
        return next((self.models[name] for name in classes if name in self.models), None)


def find(paths: Sequence[Path]) -> Folders:
    """Models and schedulers in folders of either kind.

    Raises:
        CheckpointError: if a path is none of them, or two hold models of one class.
    """
    models: dict[str, Path] = {}
    schedulers: list[tuple[JSON, Path]] = []
    index: JSON = {}
    for path in paths:
        if not path.is_dir():
            raise CheckpointError(f"{path} is no folder: models of diffusers are folders with {CONFIG}, or pipelines of them")
        pipeline = read_json(path / INDEX) if (path / INDEX).is_file() else None
        index = pipeline or index
        inside = [path] if pipeline is None else sorted(each for each in path.iterdir() if each.is_dir())
        found = 0
        for folder in inside:
            if (folder / SCHEDULER).is_file():
                schedulers.append((read_json(folder / SCHEDULER), folder / SCHEDULER))
                found += 1
            if not (folder / CONFIG).is_file():
                continue
            name = read_json(folder / CONFIG).get(CLASS)
            if not isinstance(name, str):
                continue  # an encoder of transformers
            if name in models:
                raise CheckpointError(f"{models[name]} and {folder} both hold a {name}: give one")
            models[name], found = folder, found + 1
        if not found:
            raise CheckpointError(f"{path} has neither a {CONFIG} with {CLASS!r}, as models of diffusers have, nor a {INDEX}")
    if len(schedulers) > 1:
        raise CheckpointError(f"{schedulers[0][1]} and {schedulers[1][1]} are both schedulers: give one")
    return Folders(models, schedulers[0] if schedulers else None, index)


def one(paths: Sequence[Path], *classes: str) -> Source:
    """The weights and configuration of a model of one of these classes.

    Raises:
        CheckpointError: if no path holds one, or it has no weights.
    """
    folders = find(paths)
    folder = folders.model(*classes)
    if folder is None:
        there = ", ".join(sorted(folders.models)) or "none"
        raise CheckpointError(f"{' and '.join(map(str, paths))}: expected a model of the class {' or '.join(classes)}, found {there}")
    return read(folder)
