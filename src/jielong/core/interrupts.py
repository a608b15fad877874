"""Signals: in a training a request to finish the step, save and stop; elsewhere an exception, so that nothing half-written is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

Action = Callable[[int, FrameType | None], object]
Handler = Action | int | None
_ENDING = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class StoppedBySignalError(SystemExit):
    """A signal ends the program, with exit code 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(exit_code(number))
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


def exit_code(number: int) -> int:
    """The exit code of a program that a signal ended."""
    return 128 + number


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP raise :class:`StoppedBySignalError`, unless they are ignored (``nohup``) or handled already."""
    with _handling(_ENDING, _end, {signal.SIG_DFL}):
        yield


class Interrupts:
    """While entered, the first SIGINT, SIGTERM or SIGHUP only sets :attr:`signal`; a second SIGINT ends the program at once.

    Signals that are ignored, as SIGHUP under ``nohup``, stay ignored.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._immediate = False
        self._context = _handling(("SIGINT", *_ENDING), self._request)

    def __enter__(self) -> Interrupts:
        self._context.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._context.__exit__(None, None, None)

    def stop_at_once(self) -> None:
        """From now on the first signal ends the program, as everything is saved; one that came before does so here.

        Raises:
            StoppedBySignalError: if a signal came.
        """
        self._immediate = True
        if self.signal is not None:
            raise StoppedBySignalError(self.signal)

    def _request(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None and number == signal.SIGINT
        self.signal = self.signal or number
        if again or self._immediate:
            raise StoppedBySignalError(number)


@contextmanager
def _handling(names: tuple[str, ...], handler: Action, replaced: set[Handler] | None = None) -> Iterator[None]:
    """Handle signals in the main thread (Python allows it in no other), those that are not ignored, or whose handler is in ``replaced``."""
    numbers = [signal.Signals[name] for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {each: signal.getsignal(each) for each in numbers}
    before = {each: old for each, old in before.items() if old not in (signal.SIG_IGN, None) and (replaced is None or old in replaced)}
    terminals = [stream.fileno() for stream in (sys.__stdout__, sys.__stderr__) if stream is not None and stream.isatty()]

    def handle(number: int, frame: FrameType | None) -> None:
        if signal.Signals(number).name == "SIGHUP":
            _silence(terminals)
        handler(number, frame)

    for each in before:
        signal.signal(each, handle)
    try:
        yield
    finally:
        for each, old in before.items():
            signal.signal(each, old)


def _silence(terminals: list[int]) -> None:
    """Discard what is written to terminals from now on: after a hang-up every write fails, and a line of the log must not end a run."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for each in terminals:
        os.dup2(nothing, each)
    os.close(nothing)


def _end(number: int, frame: FrameType | None) -> None:
    raise StoppedBySignalError(number)
