"""How much of a run's budget is used, of samples or of wall time, and where the run is in its schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jielong.config.schedule import ScheduledSetting
from jielong.training.pauses import MOST, Pause
from jielong.training.settings import TrainSettings
from jielong.training.state import Counters

SAMPLES = "train.samples"


class Budget:
    """The budget of a run in progress.

    Args:
        settings: The ``train`` section, with derived numbers filled in.
        seconds: Wall time that is allowed; ``None`` for samples alone.
        counters: Progress of the run.
        schedule: The recipe's settings in samples.
    """

    def __init__(self, settings: TrainSettings, seconds: float | None, counters: Counters, schedule: Sequence[ScheduledSetting]) -> None:
        self.settings, self.seconds, self.counters, self.schedule = settings, seconds, counters, schedule
        self.costs = {"step": 0.0, "sample": 0.0, "save": 0.0, "evaluation": 0.0}
        self.reserve = 0.0
        """Seconds of the time that are kept for what follows the last step; the first process's."""
        self.fitting = dict.fromkeys(MOST, True)
        """Which kinds of pauses fit into the time; the first process's."""
        self.spaced = set(MOST)
        """Kinds of pauses that are left out where they do not fit."""
        self.ended = False
        """Whether the last step was made."""
        self._continue()

    def _continue(self) -> None:
        """Keep the position of a resumed run: where its schedules moved with a larger budget, what was reached stays reached."""
        counters, starts = self.counters, {each.name: each.samples for each in self.schedule if each.what != "interval"}
        before = counters.schedule
        if before and counters.position is not None and any(before.get(name, samples) != samples for name, samples in starts.items()):
            counters.position = counters.position * self.settings.samples // before[SAMPLES]
        counters.schedule = {**starts, SAMPLES: self.settings.samples}

    @property
    def spent(self) -> float:
        """Fraction of the time that is used; 0 without a limit of time."""
        if self.seconds is None:
            return 0.0
        usable = self._usable(self.seconds)
        return min(1.0, self.counters.seconds / usable) if usable > 0 else 1.0

    def _usable(self, seconds: float) -> float:
        """What is for steps and the pauses between them; one per cent is for what is not timed: lines of the log, the checkpoint itself."""
        return 0.99 * seconds - self.reserve

    @property
    def progress(self) -> float:
        """Fraction of the budget, of samples or of time, that is used."""
        return min(1.0, max(self.counters.samples / self.settings.samples, self.spent))

    @property
    def left(self) -> float:
        """Estimated seconds left."""
        return self.counters.seconds * (1 / self.progress - 1) if self.progress > 0 else math.inf

    @property
    def position(self) -> int:
        """Position of the next step in all schedules, in samples.

        Samples seen, or that share of ``train.samples`` that is used of the time if that is larger; above that of the last step.
        """
        counters = self.counters
        least = 0 if counters.position is None else counters.position + 1
        return max(least, counters.samples, int(self.spent * self.settings.samples))

    @property
    def last_position(self) -> int:
        """That of the last step; states of earlier versions hold none."""
        counters = self.counters
        return max(0, counters.samples - self.settings.batch) if counters.position is None else counters.position

    def due(self, what: str, before: int) -> bool:
        """Whether a multiple of the interval of ``what`` was passed since the position ``before``."""
        every: int = getattr(self.settings, f"{what}_every")
        return self.position // every > before // every

    def record(self, what: str, seconds: float) -> float:
        """Note and return the seconds of a step or a pause."""
        self.costs[what] = max(0.9 * self.costs.get(what, 0.0), seconds)  # forgets a slow first step
        if what != "step":
            pause = self.counters.pause_seconds.setdefault(what, Pause())
            if self.ended:
                pause.after += seconds
            else:
                pause.seconds, pause.count = pause.seconds + seconds, pause.count + 1
        return seconds

    def look(self) -> None:
        """Note what the costs of pauses leave, at the time of the clock."""
        self.reserve = self.costs["step"] + self.costs["sample"] + self.costs["save"]
        for what in MOST.keys() & self.counters.pause_seconds:
            pause = self.counters.pause_seconds[what]
            in_time = self.seconds is None or self.counters.seconds + self.costs[what] <= self._usable(self.seconds)
            self.fitting[what] = pause.fits(MOST[what], self.counters.seconds) and in_time

    def fits(self, what: str) -> bool:
        """Whether a pause that is due is to be made; one that is not is counted."""
        if what not in self.spaced or self.fitting[what]:
            return True
        self.counters.pause_seconds[what].left_out += 1
        return False

    def unreached(self) -> list[str]:
        """A sentence for each setting in samples that the run did not reach."""
        total, timed = self.settings.samples, self.seconds is not None

        def at(samples: int) -> str:
            return f"{samples / total:.0%} of the budget" + ("" if timed else f" ({samples:,} of {total:,} samples)")

        found = []
        for each in self.schedule:
            *owner, key = each.path
            begun = self.last_position / total
            ended = f"the run ended at {self.progress:.0%}"
            if each.what == "start" and begun < each.samples / total <= self.progress:
                ended = f"the last step began at {math.floor(100 * begun)}%"
            end = f"is {at(each.samples)}, and {ended}"
            if each.what == "start" and self.last_position < each.samples:
                found.append(f"{'.'.join(owner)} never started: {key} {end}")
            elif each.what == "end" and self.position < each.samples:
                found.append(f"{each.name} did not end: it {end}")
        return found
