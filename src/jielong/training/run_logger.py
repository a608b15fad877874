"""The log of a run: a progress bar or plain lines, ``metrics.jsonl``, and experiment trackers."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from jielong.core.json import JSON
from jielong.core.progress import clock
from jielong.core.storage import StorageError, make_folder
from jielong.training.loss_curve import draw_curve
from jielong.training.trackers import Trackers

METRICS = "metrics.jsonl"
_PRINTED = ("loss", "usage", "grad_norm", "lr", "psnr", "si_sdr", "mel_distance")
"""Endings of the figures that are printed without a progress bar."""


class RunLogger:
    """Writes the log of a run, in one of its processes.

    Args:
        out: The run's folder; ``None`` for a process that writes nothing.
        console: Where to print; ``None`` prints nothing.
        keep_bytes: Length of a resumed run's ``metrics.jsonl`` that is kept; later lines are written again.
        samples: Samples seen so far.
        trackers: Experiment trackers that get the figures and sample grids too.
    """

    def __init__(self, out: Path | None, console: Console | None, keep_bytes: int, samples: int, trackers: Trackers | None = None) -> None:
        self.path, self.console = None if out is None else out / METRICS, console
        self._keep_bytes, self._samples, self._trackers = keep_bytes, samples, trackers
        self._bar: Progress | None = None
        self._draw_after = time.monotonic() + 60
        if console is not None and console.is_terminal:
            fields = [TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "loss", "left")]
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), *fields, console=console)
            self._task = self._bar.add_task("starting", total=1.0, rate="", loss="", left="")

    def __enter__(self) -> RunLogger:
        if self.path is not None:
            make_folder(self.path.parent)
            with self._opened(self.path) as file:
                file.truncate(min(self._keep_bytes, file.tell()))
        if self._trackers is not None:
            self._trackers.start(self._samples)
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._trackers is not None:
            self._trackers.finish()

    def last_line(self) -> JSON:
        """The last line of the log that a resumed run keeps; empty if there is none."""
        if self.path is None or not self.path.exists():
            return {}
        lines = self.path.read_bytes()[: self._keep_bytes].splitlines()
        try:
            return dict(json.loads(lines[-1])) if lines else {}
        except (ValueError, TypeError):
            warnings.warn(f"{self.path} is damaged in its last line, whose figures are left out of the summary", stacklevel=2)
            return {}

    @staticmethod
    @contextmanager
    def _opened(path: Path) -> Iterator[BinaryIO]:
        try:
            with open(path, "ab") as file:
                yield file
        except OSError as error:
            raise StorageError(error, path) from error

    @property
    def bytes(self) -> int:
        """Length of the metrics file."""
        return self.path.stat().st_size if self.path is not None else 0

    def show(self, phase: str, progress: float, rate: float, loss: float, left: float) -> None:
        """Update the progress bar: progress in [0, 1], samples per second, loss, seconds left."""
        if self._bar is not None:
            rates = f"{rate:,.1f} samples/s", f"loss {loss:.4f}", f"{clock(left)} left"
            self._bar.update(self._task, description=phase, completed=progress, rate=rates[0], loss=rates[1], left=rates[2])

    def log(self, values: dict[str, object], progress: float, left: float) -> None:
        """Append a line to the log; print it if there is no progress bar."""
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}
        if self.path is not None:
            with self._opened(self.path) as file:
                file.write(json.dumps(finite).encode() + b"\n")
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        if self._trackers is not None:
            self._trackers.log(numbers, int(numbers["samples"]))
        if self._bar is None and self.console is not None:
            words = [f"{progress:6.1%}", f"{numbers['samples']:>11,} samples", f"{numbers.get('samples_per_second', 0):,.1f}/s"]
            words += [f"{key} {value:.4g}" for key, value in numbers.items() if key.endswith(_PRINTED)]
            self.print("  ".join([*words, f"{clock(left)} left"]))

    def picture(self, name: str, picture: Image.Image, samples: int) -> None:
        """Give a picture to the trackers."""
        if self._trackers is not None:
            self._trackers.picture(name, picture, samples)

    def draw(self) -> bool:
        """Draw the loss curve so far, in at most a hundredth of the time; whether it was drawn."""
        if self.path is None or time.monotonic() <= self._draw_after:
            return False
        start = time.monotonic()
        draw_curve(self.path)
        self._draw_after = time.monotonic() + 100 * (time.monotonic() - start)
        return True

    def print(self, text: str) -> None:
        """Print a line."""
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.print(f"warning: {text}")
