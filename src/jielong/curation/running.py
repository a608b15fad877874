"""Run one function on many items: here, in processes, or on Ray Data; the results are the same, and come as they are ready."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from jielong.media.reading.libraries import library

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4
"""Items that wait for each process, so that none is idle; the others are given out later."""
_BLOCKS, _IN_BLOCK = 256, 16
"""On Ray an item is a task of its own up to so many, and a task has at most so many items beyond: its results come together."""
_WATCH_SECONDS = 0.25


@dataclass(frozen=True)
class Workers:
    """Where items are worked on.

    Attributes:
        jobs: Processes; 1 works in this one. On Ray, tasks at a time; 0 leaves it to Ray.
        ray: Use Ray Data.
        address: Of a Ray cluster; a local one is started by default.
    """

    jobs: int = 1
    ray: bool = False
    address: str | None = None

    def check(self) -> None:
        """Check before the work that Ray is there if it is asked for.

        Raises:
            MissingLibraryError: if it is not.
        """
        if self.ray:
            library("ray.data", "ray", "--ray")

    def run(
        self, function: Callable[[Item], Result], items: Sequence[Item], crashed: Callable[[Item], Result]
    ) -> Iterator[tuple[int, Result]]:
        """The results of all items, each with the index of its item, in the order in which they are ready.

        Args:
            function: Of a module, so that it can be sent to another process.
            items: What it takes.
            crashed: The result of an item at which a process ends without one, as a decoder may at a damaged file.
        """
        if not items:
            return iter(())
        if self.ray:
            return _on_ray(function, items, self)
        if self.jobs > 1 and len(items) > 1:
            return _in_processes(function, items, crashed, min(self.jobs, len(items)))
        return ((index, function(item)) for index, item in enumerate(items))


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], crashed: Callable[[Item], Result], jobs: int
) -> Iterator[tuple[int, Result]]:
    left = dict(enumerate(items))
    try:
        for index, result in _pooled(function, items, list(left), jobs):
            del left[index]
            yield index, result
    except BrokenProcessPool:
        # One of the items ended a process; each of those that are left has one of its own, and so it is found.
        for index in list(left):
            try:
                yield from _pooled(function, items, [index], 1)
            except BrokenProcessPool:
                yield index, crashed(items[index])


def _pooled(function: Callable[[Item], Result], items: Sequence[Item], indices: Sequence[int], jobs: int) -> Iterator[tuple[int, Result]]:
    context = multiprocessing.get_context("spawn")  # threads of PyTorch and OpenCV do not survive a fork
    # The processes end when the writing end is closed. An event would wait for processes that are asleep on it, also for one that died so.
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(os.getpid(), reader))
    waiting, running = iter(indices), dict[Future[Result], int]()
    try:
        while True:
            while len(running) < jobs * _AHEAD and (index := next(waiting, None)) is not None:
                running[pool.submit(function, items[index])] = index
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        if running:  # stopped by a signal or an error: what is half done is left
            writer.close()
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        reader.close()


def _begin(parent: int, stopped: Connection) -> None:
    """In a new process: leave Ctrl-C to the parent, and end when it says so, or is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent and not stopped.poll(_WATCH_SECONDS):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(function: Callable[[Item], Result], items: Sequence[Item], workers: Workers) -> Iterator[tuple[int, Result]]:
    """Rows of pickled items through Ray Data. Items are small; files are read where the task runs, so all nodes must see them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it tells its makers that it is used
    ray, data = library("ray", "ray", "--ray"), library("ray.data", "ray", "--ray")
    started = not ray.is_initialized()
    if started:
        local = {"include_dashboard": False} if workers.address is None else {}
        ray.init(address=workers.address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{"index": index, "item": pickle.dumps(item)} for index, item in enumerate(items)]
        at_once = {"concurrency": workers.jobs} if workers.jobs else {}
        blocks = max(min(len(rows), _BLOCKS), len(rows) // _IN_BLOCK)
        found = data.from_items(rows, override_num_blocks=blocks).map(functools.partial(_row, function), **at_once)
        for row in found.iter_rows():
            yield int(row["index"]), pickle.loads(row["result"])
    finally:
        if started:
            ray.shutdown()


def _row(function: Callable[[Any], Any], row: dict[str, Any]) -> dict[str, Any]:
    return {"index": row["index"], "result": pickle.dumps(function(pickle.loads(row["item"])))}
