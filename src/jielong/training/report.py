"""What a run says while it goes: a live bar or plain lines, ``metrics.jsonl``, and TensorBoard on request."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"


class Report:
    """The log of a run; one process of a run writes it.

    Args:
        out: The run's folder; ``None`` for a process that has nothing to say.
        console: Where to print; ``None`` prints nothing.
        keep_bytes: How much of an earlier part's ``metrics.jsonl`` stands; what follows will be made again.
        samples: Samples seen so far.
        tensorboard: Write TensorBoard files too.

    Raises:
        ValueError: if TensorBoard is asked for and not installed.
    """

    def __init__(self, out: Path | None, console: Console | None, keep_bytes: int, samples: int, tensorboard: bool) -> None:
        self.path, self.console = None if out is None else out / METRICS, console
        self._keep_bytes, self._samples = keep_bytes, samples
        self._board: SummaryWriter | None = None
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ValueError("TensorBoard is not installed: pip install 'jielong[tensorboard]', or leave out --tensorboard")
        self._tensorboard = tensorboard
        self._bar: Progress | None = None
        if console is not None and console.is_terminal:
            columns = ("{task.fields[rate]}", "{task.fields[loss]}", "{task.fields[left]}")
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), *(TextColumn(c) for c in columns), console=console
            )
            self._task = self._bar.add_task("starting", total=1.0, rate="", loss="", left="")

    def __enter__(self) -> Report:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.truncate(min(self._keep_bytes, file.tell()))
            if self._tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=self._samples)
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    @property
    def bytes(self) -> int:
        """Length of the metrics file."""
        return self.path.stat().st_size if self.path is not None else 0

    def step(self, phase: str, progress: float, rate: float, loss: float, left: float) -> None:
        """Show where the run stands: progress in [0, 1], samples a second, loss, seconds left."""
        if self._bar is not None:
            shown: dict[str, Any] = {"rate": f"{rate:,.1f} samples/s", "loss": f"loss {loss:.4f}", "left": f"{clock(left)} left"}
            self._bar.update(self._task, description=phase, completed=progress, **shown)

    def line(self, values: dict[str, Any], progress: float, left: float) -> None:
        """Append a line to the log; print it where there is no live bar."""
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        if self._board is not None:
            for key, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(key, value, values["samples"])
        if self._bar is None and self.console is not None:
            words = [f"{progress:6.1%}", f"{values['samples']:>11,} samples", f"{values.get('samples_per_second') or 0:,.1f}/s"]
            words += [
                f"{key} {value:.4g}"
                for key, value in values.items()
                if key.endswith(("loss", "usage", "grad_norm", "lr", "psnr", "si_sdr", "mel_distance"))
            ]
            self.say("  ".join([*words, f"{clock(left)} left"]))

    def say(self, text: str) -> None:
        """Print a line."""
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.say(f"warning: {text}")


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
