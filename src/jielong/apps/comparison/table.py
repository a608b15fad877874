"""The columns of a comparison, and its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jielong.apps.comparison.running import Row


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: Name of the figure.
        title: Title with the unit.
        form: Number format.
        better: Whether higher (``more``) or lower (``less``) is better, if either.
        unit: Divisor of the figure.
    """

    name: str
    title: str
    form: str
    better: Literal["more", "less"] | None = None
    unit: float = 1

    def cell(self, row: Row) -> str:
        """The number as text, or a dash; for bits of continuous tokens, their number and channels."""
        value = row.figures.get(self.name)
        if value is None and self.name == "bits" and "numbers" in row.figures:
            positions = row.figures["positions"]
            return f"continuous, {positions:,.0f} x {row.figures['numbers'] / positions:,.0f} channels"
        return "-" if value is None else self.form.format(value / self.unit)


_COST = (
    Column("parameters", "parameters, M", "{:,.2f}", unit=1e6),
    Column("samples", "samples seen", "{:,.0f}"),
    Column("seconds", "trained, s", "{:,.0f}"),
)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "tokenizer": (
        Column("bits", "bits per image", "{:,.0f}"),
        Column("positions", "tokens", "{:,.0f}"),
        Column("psnr", "PSNR, dB", "{:.2f}", "more"),
        Column("ssim", "SSIM", "{:.3f}", "more"),
        Column("perceptual", "perceptual", "{:.3f}", "less"),
        Column("frechet", "Fréchet", "{:,.0f}", "less"),
        Column("codebook_usage", "codebook usage", "{:.1%}", "more"),
        Column("encode_ms", "encode, ms", "{:.2f}", "less"),
        Column("decode_ms", "decode, ms", "{:.2f}", "less"),
        *_COST,
    ),
    "generator": (
        Column("positions", "tokens", "{:,.0f}"),
        Column("attribute_accuracy", "attributes", "{:.1%}", "more"),
        Column("retrieval_at_1", "R@1 of 100", "{:.1%}", "more"),
        Column("frechet", "Fréchet", "{:,.0f}", "less"),
        Column("bits_per_dimension", "bits per dimension", "{:.2f}", "less"),
        Column("seconds_per_picture", "s per image", "{:.3f}", "less"),
        *_COST,
    ),
}
TITLES = {"tokenizer": "Tokenizers", "generator": "Generators"}


def columns(kind: str, rows: Sequence[Row]) -> list[Column]:
    """Columns with a value in at least one row."""
    return [column for column in COLUMNS[kind] if any(column.cell(row) != "-" for row in rows)]


def best(column: Column, rows: Sequence[Row]) -> set[str]:
    """Labels of the best rows of a column, by formatted value; empty for a single row or a column without order."""
    values = {row.label: row.figures[column.name] for row in rows if column.name in row.figures}
    if column.better is None or len(values) < 2:
        return set()
    top = (max if column.better == "more" else min)(values.values())
    return {label for label, value in values.items() if column.form.format(value / column.unit) == column.form.format(top / column.unit)}


def remarks(rows: Sequence[Row]) -> list[str]:
    """Caveats: notes of the rows, failures, omitted figures and unequal bits."""
    notes = [f"{row.label}: {note}" for row in rows for note in row.notes]
    notes += [f"{row.label} failed: {row.failed}" for row in rows if row.failed]
    notes += [
        f"{row.label}: without {name}: {reason}"
        for row in rows
        for name, reason in row.omitted.items()
        if not name.startswith("more about")
    ]
    notes += sorted(
        {f"{name.removeprefix('more about ')}: {reason}" for row in rows for name, reason in row.omitted.items() if name.startswith("more")}
    )
    bits = {row.figures["bits"] for row in rows if row.kind == "tokenizer" and "bits" in row.figures}
    if bits and max(bits) > 1.02 * min(bits):
        notes.append(f"bits per image differ ({min(bits):,.0f} to {max(bits):,.0f}): figures at different rates are not comparable")
    if bits and any("numbers" in row.figures for row in rows if row.kind == "tokenizer"):
        notes.append("bits are not defined for continuous tokens: compare them with codes by the quality of a generator")
    return notes


def text(rows: Sequence[Row]) -> str:
    """Tables of tokenizers and generators in plain text, followed by the remarks."""
    lines: list[str] = []
    for kind, title in TITLES.items():
        members = [row for row in rows if row.kind == kind]
        shown = columns(kind, members)
        grid = [["", *(column.title for column in shown)], *([row.label, *(column.cell(row) for column in shown)] for row in members)]
        widths = [max(len(line[column]) for line in grid) for column in range(len(grid[0]))]
        if members:
            lines += [
                title,
                *("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in grid),
                "",
            ]
    return "\n".join([*lines, *remarks(rows)]).rstrip()
