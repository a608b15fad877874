"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict

from jielong.core.interrupts import StoppedBySignalError
from jielong.core.json import JSON

Stopped = Literal["finished", "budget", "early_stopping", "interrupted", "stop_after"]


class Kept(TypedDict, total=False):
    """Which weights a checkpoint holds; empty where no held-out figure is followed.

    Attributes:
        weights: ``best`` or ``last``; or another choice after the run, in words.
        by: The held-out figure.
        best: ``samples``, and that figure.
        last: The same of the last weights.
    """

    weights: str
    by: str
    best: dict[str, float]
    last: dict[str, float]


def kept_samples(kept: Kept) -> int | None:
    """Samples that the weights of a checkpoint had seen; ``None`` where they are neither the best nor the last."""
    part = {"best": kept.get("best"), "last": kept.get("last")}.get(kept.get("weights", ""))
    return None if part is None else int(part["samples"])


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        samples: Samples seen.
        steps: Updates of the model.
        skipped: Steps skipped because numbers were not finite.
        seconds: Wall time, over all parts of the run.
        parameters: Trained parameters of the model.
        processes: Processes that shared the work.
        stopped: ``finished``, ``budget`` or ``early_stopping``: the checkpoint is written. ``interrupted`` or ``stop_after``: the same
            command resumes.
        metrics: The last line of the log.
        evaluation: Held-out figures of the weights in the checkpoint.
        command: The command line that began the run, if it was begun by one.
        kept: Which weights these are.
        unreached: A sentence for each loss, stage, warm-up and annealing that the run did not reach.
        pause_seconds: Time and number of sample grids, held-out figures and saves between steps, how many were left out, and the time after
            the last step.
        budget: Seconds of wall time that were allowed, if limited.
        signal: Number of the signal that interrupted it.
    """

    samples: int
    steps: int
    skipped: int
    seconds: float
    parameters: int
    processes: int
    stopped: Stopped
    metrics: JSON = field(default_factory=dict)
    evaluation: JSON = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    pause_seconds: JSON = field(default_factory=dict)
    command: str | None = None
    kept: Kept = field(default_factory=Kept)
    budget: float | None = None
    signal: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the checkpoint is written."""
        return self.stopped in ("finished", "budget", "early_stopping")

    def raise_if_interrupted(self) -> None:
        """Raise :class:`jielong.core.interrupts.StoppedBySignalError` if a signal interrupted the run."""
        if self.signal is not None:
            raise StoppedBySignalError(self.signal)
