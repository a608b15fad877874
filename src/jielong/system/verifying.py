"""Whether a checkpoint is whole: checksums, finite values, readable recipes, and whether it loads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from jielong.config.recipe import parse, read_file
from jielong.core.json import JSON
from jielong.system.checkpoint import DESCRIPTION, find, folder_of, load
from jielong.training.checkpoint import (
    CHECKSUMS,
    RECIPE,
    WEIGHTS,
    CheckpointError,
    check_checksum,
    check_finite,
    checksums_of,
    read_tensors,
)
from jielong.training.state import latest_state, read_state

Checksum = Literal["matches", "differs", "not recorded"]


@dataclass
class VerifiedFile:
    """A file of a checkpoint.

    Attributes:
        path: Relative to the checkpoint.
        checksum: Whether its SHA-256 is the recorded one.
        tensors: How many it holds; ``None`` if it holds none, or is no safetensors file.
        values: How many numbers they hold.
        problem: What is wrong with it; empty if nothing is.
    """

    path: str
    checksum: Checksum = "not recorded"
    tensors: int | None = None
    values: int | None = None
    problem: str = ""


@dataclass
class Verification:
    """A checkpoint, a shipped model or a run folder, verified.

    Attributes:
        folder: Where it is.
        files: Its files.
        problems: What is wrong with the whole, such as a recipe that does not fit the weights.
        loads: Whether the model could be loaded; ``None`` for a run that has not finished.
    """

    folder: str
    files: list[VerifiedFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    loads: bool | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(file.problem for file in self.files)

    def to_json(self) -> JSON:
        """For ``--json``."""
        return {**asdict(self), "sound": self.sound}


def verify(name_or_folder: str) -> Verification:
    """Verify a shipped model, a checkpoint folder or one of the Hub, or the folder of a run that has not finished.

    Raises:
        CheckpointError: if there is no such model or folder, or the folder holds neither a model nor a saved state.
    """
    folder = folder_of(name_or_folder)
    state = latest_state(folder) if folder.is_dir() else None
    if state is None and not (folder / WEIGHTS).is_file():
        find(name_or_folder)  # raises: what is missing
    found = Verification(str(folder))
    recipes = sorted(path for path in folder.rglob(RECIPE))
    weights = sorted(path for path in folder.rglob("*.safetensors") if not path.name.startswith("."))
    for path in [*recipes, *weights]:
        found.files.append(_verify_file(path, folder))
    for path in sorted(folder.rglob(CHECKSUMS)):
        try:
            missing = sorted(name for name in checksums_of(path.parent) if not (path.parent / name).is_file())
        except CheckpointError:
            continue  # reported for each file of the folder
        found.problems += [f"{path.parent / name} is missing, which {CHECKSUMS} lists" for name in missing]
    if state is not None:
        found.problems += _problem(lambda: read_state(state))
    if (folder / WEIGHTS).is_file() or (folder / CHECKSUMS).is_file():
        if not (folder / DESCRIPTION).is_file():
            found.problems.append(f"{folder / DESCRIPTION} is missing")
        faults = _problem(lambda: load(name_or_folder, "cpu"))
        found.loads = not faults
        known = {file.problem for file in found.files} | set(found.problems)
        found.problems += [fault for fault in faults if fault not in known]
    return found


def _verify_file(path: Path, folder: Path) -> VerifiedFile:
    file = VerifiedFile(str(path.relative_to(folder)))
    try:
        file.checksum = "matches" if check_checksum(path) else "not recorded"
    except CheckpointError as error:
        file.checksum, file.problem = "differs", str(error)
    try:
        if path.name == RECIPE:
            parse(read_file(path), str(path))
        else:
            tensors = read_tensors(path)
            file.tensors, file.values = len(tensors), sum(value.numel() for value in tensors.values())
            check_finite(tensors, str(path))
    except (ValueError, OSError) as error:
        file.problem = file.problem or str(error)
    return file


def _problem(attempt: Callable[[], object]) -> list[str]:
    """What an attempt raises, as no or one sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checksums that are not recorded are listed
        try:
            attempt()
        except Exception as error:
            return [str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"]
    return []
