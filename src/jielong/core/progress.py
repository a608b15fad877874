"""Progress of long work on many items, such as tokenizing: a bar on a terminal, lines elsewhere, nothing unless a program asks for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0
"""Seconds between two lines where there is no terminal."""
_CONSOLE: ContextVar[Console | None] = ContextVar("where progress is shown", default=None)


@contextmanager
def progress_on(console: Console | None) -> Iterator[None]:
    """Show the progress of what is done meanwhile on a console; ``None`` shows nothing."""
    token = _CONSOLE.set(console)
    try:
        yield
    finally:
        _CONSOLE.reset(token)


@contextmanager
def counting(work: str, total: int, noun: str = "items") -> Iterator[Callable[[int], None]]:
    """Count items, such as ``tokenizing: 1,200 of 24,000 items, 96.3/s, 3:57 left``.

    Args:
        work: What is done to the items.
        total: How many there are.
        noun: What they are.

    Returns:
        A function that takes how many more are done.
    """
    console = _CONSOLE.get()
    if console is None:
        yield lambda count: None
    elif not console.is_terminal:
        yield _Lines(console, work, total, noun)
    else:
        from rich.progress import BarColumn, Progress, TextColumn

        with Progress(TextColumn(work), BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
            task, count = bar.add_task("", total=total), _Count(total, noun)

            def advance(more: int) -> None:
                bar.update(task, advance=more, description=count.add(more))

            yield advance


class _Count:
    """How many items are done, at which rate, and the time left, in words."""

    def __init__(self, total: int, noun: str) -> None:
        self.total, self.noun, self.done, self.start = total, noun, 0, time.monotonic()

    def add(self, more: int) -> str:
        self.done += more
        rate = self.done / max(1e-9, time.monotonic() - self.start)
        left = (self.total - self.done) / rate if rate else math.inf
        return f"{self.done:,} of {self.total:,} {self.noun}, {rate:,.1f}/s, {clock(left)} left"


class _Lines:
    """Prints a line every :data:`LINE_SECONDS`; nothing for work that takes less."""

    def __init__(self, console: Console, work: str, total: int, noun: str) -> None:
        self.console, self.work, self.count = console, work, _Count(total, noun)
        self.printed = self.count.start

    def __call__(self, more: int) -> None:
        words = self.count.add(more)
        if (now := time.monotonic()) - self.printed >= LINE_SECONDS:
            self.printed = now
            self.console.print(f"{self.work}: {words}", highlight=False, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
