"""What commands print: results to standard output, everything else to standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

results = Console()
"""Standard output."""
notes = Console(stderr=True)
"""Standard error: progress, warnings, errors."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table; the last column takes what room is left."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=place == 0, ratio=1 if place == len(columns) - 1 else None)
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def say(text: str) -> None:
    """A line of plain text on standard error."""
    notes.print(text, markup=False, highlight=False, soft_wrap=True)


def quantity(value: float, unit: str = "") -> str:
    """Three digits and a decimal prefix: ``quantity(12_345_678, "FLOP") == "12.3 MFLOP"``."""
    if not value or not math.isfinite(value):
        return f"{value:g} {unit}".strip()
    step = min(max(math.floor(math.log10(abs(value)) / 3 + 1e-12), 0), 5)
    return f"{value / 1000**step:.4g} {('', 'k', 'M', 'G', 'T', 'P')[step]}{unit}".strip()
