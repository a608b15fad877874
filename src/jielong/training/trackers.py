"""Experiment trackers (TensorBoard, Weights & Biases, ...), as accelerate knows them: the figures of the log, settings, sample grids."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, filter_trackers, get_available_trackers
from PIL import Image

from jielong.config.registry import RecipeError, nearest
from jielong.core.files import write_bytes

PROJECT = "jielong"
"""Name of the project of trackers that have projects."""
RUN_ID = "tracker-id.txt"
"""The file with the name under which trackers on servers know a run, so that a resumed run goes on in the same one."""

Tracker: TypeAlias = "str | GeneralTracker"
"""A tracker's name in accelerate, or an object of another class."""


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Refuse trackers that accelerate does not know or that are not installed.

    Raises:
        RecipeError: naming the tracker, and its package.
    """
    installed = {str(each) for each in get_available_trackers()}
    for name in (each for each in trackers if isinstance(each, str)):
        if name not in LOGGER_TYPE_TO_CLASS:
            raise RecipeError(f"there is no tracker {name!r}; {nearest(name, sorted(LOGGER_TYPE_TO_CLASS))}")
        if name not in installed:
            raise RecipeError(f"the tracker {name} is not installed: pip install {name.replace('_', '-')}, or leave out --tracker {name}")


class Trackers:
    """The trackers of a run; calls without any do nothing.

    Args:
        trackers: Names, or objects.
        accelerator: The processes; the first alone writes.
        out: The run's folder; TensorBoard's files are in ``tensorboard/``.
        config: Settings of the run by name.
    """

    def __init__(self, trackers: Sequence[Tracker], accelerator: Accelerator, out: Path, config: Mapping[str, object]) -> None:
        check_trackers(trackers)
        self._accelerator, self._out = accelerator, out
        self._config = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in config.items()}
        accelerator.project_configuration.set_directories(str(out / "tensorboard"))
        accelerator.log_with = filter_trackers(list(trackers), accelerator.logging_dir)

    def start(self, samples: int) -> None:
        """Begin, or go on at so many samples."""
        if not self._accelerator.log_with:
            return
        name = self._out.resolve().name
        by_tracker = {
            "tensorboard": {"purge_step": samples + 1},  # hides what was written after the state that a run is resumed from
            "wandb": {"id": self._run_id(), "name": name, "resume": "allow", "dir": str(self._out)},
        }
        self._accelerator.init_trackers(PROJECT, self._config, by_tracker)

    def log(self, figures: Mapping[str, float], samples: int) -> None:
        """Record figures."""
        for tracker in self._accelerator.trackers:
            tracker.log(dict(figures), step=samples)

    def picture(self, name: str, picture: Image.Image, samples: int) -> None:
        """Record a picture, where a tracker takes pictures."""
        for tracker in self._accelerator.trackers:
            if not hasattr(tracker, "log_images"):
                continue
            more = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: np.asarray(picture.convert("RGB"))[None]}, step=samples, **more)

    def finish(self) -> None:
        """Close all."""
        for tracker in self._accelerator.trackers:
            tracker.finish()
        self._accelerator.trackers = []

    def _run_id(self) -> str:
        """A name of its own for the run, the same when it is resumed."""
        path = self._out / RUN_ID
        if not path.exists():
            write_bytes(path, uuid.uuid4().hex.encode())
        return path.read_text(encoding="utf-8")
