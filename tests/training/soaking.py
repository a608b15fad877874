"""Work that is killed, interrupted or starved of disk space at a chosen call of the file system, and what it leaves.

The work runs in a forked process. An audit hook counts its calls on files below a folder (open, mkdir, rename, remove, ...). Writing
contents is no such call, so a write is made in two halves with a counted point between them.
"""

from __future__ import annotations

import errno
import gc
import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jielong.core.locks import LOCK
from jielong.training import checkpoint

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.listdir", "os.scandir", "shutil.rmtree"}
CLOCK = ("second", "_ms", "metrics_bytes", "since")
"""Parts of keys whose values depend on the time that passed."""


@dataclass(frozen=True)
class Case:
    """Work that may be stopped anywhere and started again.

    Attributes:
        name: Of the case.
        work: Writes to a folder, and to the cache folder beside it.
        slow: Whether one takes seconds, so that few are tried without ``SOAK=1``.
    """

    name: str
    work: Callable[[Path], None]
    slow: bool = True


def in_child(work: Callable[[Path], None], place: Path, at_event: Callable[[int, bool], None], timeout: float | None = None) -> int:
    """Exit code of work in a forked process, negative for a signal.

    Args:
        work: Gets ``place / "out"``; the cache is ``place / "cache"``.
        place: A folder.
        at_event: Called with the number of each event and whether it writes.
        timeout: Seconds after which the process is killed.
    """

    def child() -> None:
        gc.freeze()  # a collection would write to, and so copy, the memory that the processes share
        os.environ["JIELONG_CACHE"] = str(place / "cache")
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        with counting(place, at_event):
            work(place / "out")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


@contextmanager
def counting(place: Path, at_event: Callable[[int, bool], None]) -> Iterator[None]:
    """Call ``at_event`` at every call on a file below ``place``, and between the halves of every write; for the rest of the process."""
    count, below, active = [0], str(place), [True]

    def event(writes: bool) -> None:
        count[0] += 1
        at_event(count[0], writes)

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if active[0] and name in EVENTS and arguments and str(arguments[0]).startswith(below):
            writes = bool(name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            event(writes or name in ("os.mkdir", "os.rename"))

    write_bytes, save_file = pathlib.Path.write_bytes, checkpoint.save_file

    def write_in_halves(path: Path, data: bytes) -> int:
        write_bytes(path, data[: len(data) // 2])
        event(True)
        return write_bytes(path, data)

    def save_in_halves(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        write_bytes(Path(path), b"half")
        event(True)
        save_file(tensors, path, metadata=metadata)

    pathlib.Path.write_bytes, checkpoint.save_file = write_in_halves, save_in_halves
    sys.addaudithook(hook)
    try:
        yield
    finally:
        active[0] = False  # a hook cannot be removed
        pathlib.Path.write_bytes, checkpoint.save_file = write_bytes, save_file


def kill_at(number: int) -> Callable[[int, bool], None]:
    """SIGKILL at an event."""
    return send_at(number, signal.SIGKILL)


def send_at(number: int, which: int) -> Callable[[int, bool], None]:
    """A signal at an event."""

    def act(count: int, writes: bool) -> None:
        if count == number:
            os.kill(os.getpid(), which)

    return act


def full_at(number: int) -> Callable[[int, bool], None]:
    """No space from an event on, for all that writes."""

    def act(count: int, writes: bool) -> None:
        if writes and count >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return act


def events_of(case: Case, place: Path) -> int:
    """How many events the work has when nothing stops it."""
    counts = multiprocessing.get_context("fork").Value("i", 0)

    def act(count: int, writes: bool) -> None:
        counts.value = count

    assert in_child(case.work, place, act) == 0
    return counts.value


def contents(place: Path) -> dict[str, object]:
    """All files below a folder by their path: plain data without the clock of JSON files, the bytes of others."""
    return {str(path.relative_to(place)): _content(path) for path in sorted(place.rglob("*")) if not path.is_dir() and path.name != LOCK}


def _content(path: Path) -> object:
    if path.suffix == ".json":
        return _without_clock(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [_without_clock(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name == checkpoint.CHECKSUMS:  # those of JSON files depend on the clock in them
        return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.endswith(".json")]
    if path.name == "README.md":  # the card of a run
        return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("| training time |")]
    return path.read_bytes()


def _without_clock(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_clock(each) for key, each in value.items() if not any(part in key for part in CLOCK)}
    return [_without_clock(each) for each in value] if isinstance(value, list) else value


def unfinished(place: Path) -> list[str]:
    """Temporary files and folders."""
    return [str(path.relative_to(place)) for path in place.rglob(".*.tmp")]


def nothing(count: int, writes: bool) -> None:
    """Let an event pass."""


def spread(count: int, total: int) -> list[int]:
    """So many numbers from 1 to ``total``, evenly spread; all if there are fewer."""
    return sorted({1 + int((index + 0.5) * total / count) for index in range(count)}) if count < total else list(range(1, total + 1))


def random_seconds(count: int, longest: float) -> list[float]:
    """Times at which to kill; another run draws others."""
    return [random.SystemRandom().uniform(0, longest) for _ in range(count)]


def duration(case: Case, place: Path) -> float:
    """Seconds of the work."""
    start = time.perf_counter()
    assert in_child(case.work, place, nothing) == 0
    return time.perf_counter() - start
