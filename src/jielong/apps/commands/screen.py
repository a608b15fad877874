"""Consoles and tables of commands: results on standard output, everything else on standard error."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

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


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns; a longer word is divided."""
    return [line.plain.rstrip() for line in Text(readable(text)).wrap(results, max(width, 1), overflow="fold")] or [""]


def one_line(text: str, width: int) -> list[str]:
    """A description in one line: without references, up to a comma, or up to a word, with three dots, where the comma stands too early."""
    text = re.sub(r" *\([^()]*\)", "", readable(text)).strip().rstrip(".;:,")
    if cell_len(text) <= width:
        return [text]
    clauses = [text[: match.start()] for match in re.finditer(r"(?<!\.)[,;.] ", text) if cell_len(text[: match.start()]) <= width]
    if clauses and cell_len(clauses[-1]) > 0.6 * width:
        return [clauses[-1]]
    return [wrap(text, width - 4)[0].rstrip(",;:.") + " ..."]


def columns(rows: Sequence[Sequence[str]], flexible: int = -1, fit: Callable[[str, int], list[str]] = wrap) -> Iterator[list[str]]:
    """The lines of every row, in aligned columns as wide as the terminal, or 80 columns in a pipe; nothing is cut off.

    Args:
        rows: Cells, as many in each row. A first cell of over half the width has a line of its own.
        flexible: The column that takes what the others leave.
        fit: Breaks a cell of that column into lines.
    """
    count = max(map(len, rows), default=0)
    widths = [max(cell_len(row[column]) for row in rows) for column in range(count)]
    if count:
        widths = [min(widths[0], results.width // 2), *(min(width, results.width * 2 // 5) for width in widths[1:])]
        widths[flexible] = 0
        widths[flexible] = max(results.width - sum(widths) - 2 * (count - 1), 1)
    for row in rows:
        cells = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        cells[flexible] = fit(row[flexible], widths[flexible])
        lines = []
        if cell_len(row[0]) > widths[0]:
            lines, cells[0] = wrap(row[0], results.width), [""]
        for pieces in zip_longest(*cells, fillvalue=""):
            padded = (piece + " " * (room - cell_len(piece)) for piece, room in zip(pieces, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        yield lines


def show_lines(lines: Iterable[str], title: str = "") -> None:
    """Print lines as they are on standard output, a title above them."""
    if title:
        results.print(Text(title, style="bold"), soft_wrap=True)
    for line in lines:
        results.print(line, markup=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line of plain text on standard error."""
    notes.print(text, markup=False, highlight=False, soft_wrap=True)


def quantity(value: float, unit: str = "") -> str:
    """Format with four digits and an SI prefix: ``quantity(12_345_678, "FLOP") == "12.3 MFLOP"``."""
    if not value or not math.isfinite(value):
        return f"{value:g} {unit}".strip()
    step = min(max(math.floor(math.log10(abs(value)) / 3 + 1e-12), 0), 5)
    return f"{value / 1000**step:.4g} {('', 'k', 'M', 'G', 'T', 'P')[step]}{unit}".strip()
