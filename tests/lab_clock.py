"""A clock for tests of experiments with a time budget."""

from __future__ import annotations


class Clock:
    """A clock that advances by a fixed time per call, so that a time budget is a number of steps.

    Args:
        tick: Seconds per call.
    """

    def __init__(self, tick: float) -> None:
        self.tick, self.now = tick, 0.0

    def perf_counter(self) -> float:
        """Seconds since it was made, in place of :func:`time.perf_counter`."""
        self.now += self.tick
        return self.now
