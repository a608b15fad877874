"""Timing of several ways to do the same thing, side by side, and what it was measured on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[str], object] = lambda name: None,
    warm_up: bool = True,
) -> dict[str, float]:
    """Median seconds of each side. Rounds alternate, so that a busy neighbour slows all alike; a first round is not counted.

    Args:
        sides: What is timed, by name.
        rounds: How often.
        clock: ``time.process_time`` counts the time of the processor, all threads together: another process does not add to it.
        before: Called with the name of a side before each of its runs; not timed.
        warm_up: Whether there is that first round; not needed where every side ran before.
    """
    for name, run in sides.items() if warm_up else ():
        before(name)
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            before(name)
            start = clock()
            run()
            times[name].append(clock() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def machine(threads: int | None = None) -> dict[str, str | int | None]:
    """What figures were measured on; ``threads`` of PyTorch are set first, if given."""
    if threads:
        torch.set_num_threads(threads)
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
