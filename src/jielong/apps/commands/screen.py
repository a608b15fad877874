"""Consoles and tables of commands: results on standard output, everything else on standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jielong.core.text import readable

results = Console()
"""Standard output."""
notes = Console(stderr=True)
"""Standard error: progress, warnings, errors."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table whose last column fills the width."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        grid.add_column(column, overflow="fold", no_wrap=index == 0, ratio=1 if index == len(columns) - 1 else None)
    for row in rows:
        grid.add_row(*(escape(readable(cell)) for cell in row))
    return grid


def say(text: str) -> None:
    """Print a line of plain text on standard error."""
    notes.print(text, markup=False, highlight=False, soft_wrap=True)


def quantity(value: float, unit: str = "") -> str:
    """Format with four digits and an SI prefix: ``quantity(12_345_678, "FLOP") == "12.3 MFLOP"``."""
    if not value or not math.isfinite(value):
        return f"{value:g} {unit}".strip()
    step = min(max(math.floor(math.log10(abs(value)) / 3 + 1e-12), 0), 5)
    return f"{value / 1000**step:.4g} {('', 'k', 'M', 'G', 'T', 'P')[step]}{unit}".strip()
