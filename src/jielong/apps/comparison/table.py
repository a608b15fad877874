"""The columns of a comparison, and its cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from jielong.apps.comparison.running import Row

MISSING, REAL = "-", "_real"
"""Of figures that a row lacks; suffix of figures of real items."""


@dataclass(frozen=True)
class Cell:
    """A cell of the table, and whether it is the best of its column."""

    text: str
    best: bool = False


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
        return MISSING if value is None else self.form.format(value / self.unit)


_JUDGED = (
    Column("solved", "missions solved", "{:.1%}", "more"),
    Column("legal", "legal transitions", "{:.1%}", "more"),
    Column("character_right", "characters right", "{:.1%}", "more"),
    Column("stroke_order", "strokes in order", "{:.1%}", "more"),
    Column("mouth_shape", "mouth shapes", "{:.1%}", "more"),
    Column("face_unchanged", "face unchanged", "{:.1%}", "more"),
)
"""What the judges of sets of clips read."""
_COST = (
    Column("parameters", "parameters, M", "{:,.2f}", unit=1e6),
    Column("samples", "samples seen", "{:,.0f}"),
    Column("seconds", "trained, s", "{:,.0f}"),
)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "tokenizer": (
        Column("bits", "bits per item", "{:,.0f}"),
        Column("bitrate", "kbit/s", "{:,.2f}"),
        Column("positions", "tokens", "{:,.0f}"),
        Column("psnr", "PSNR, dB", "{:.2f}", "more"),
        Column("ssim", "SSIM", "{:.3f}", "more"),
        Column("perceptual", "perceptual", "{:.3f}", "less"),
        *_JUDGED,
        Column("frechet", "Fréchet", "{:,.0f}", "less"),
        Column("mel_distance", "mel distance, dB", "{:.2f}", "less"),
        Column("si_sdr", "SI-SDR, dB", "{:.2f}", "more"),
        Column("stft_distance", "STFT distance", "{:.3f}", "less"),
        Column("frechet_mel", "Fréchet, mel", "{:,.1f}", "less"),
        Column("pesq", "PESQ", "{:.2f}", "more"),
        Column("stoi", "STOI", "{:.3f}", "more"),
        Column("visqol", "ViSQOL", "{:.2f}", "more"),
        Column("codebook_usage", "codebook usage", "{:.1%}", "more"),
        Column("encode_ms", "encode, ms", "{:.2f}", "less"),
        Column("decode_ms", "decode, ms", "{:.2f}", "less"),
        *_COST,
    ),
    "generator": (
        Column("positions", "tokens", "{:,.0f}"),
        Column("attribute_accuracy", "attributes", "{:.1%}", "more"),
        Column("retrieval_at_1", "R@1", "{:.1%}", "more"),
        *_JUDGED,
        Column("frechet", "Fréchet", "{:,.0f}", "less"),
        Column("motion_frechet", "Fréchet, motion", "{:,.0f}", "less"),
        Column("precision", "precision", "{:.1%}", "more"),
        Column("recall", "recall", "{:.1%}", "more"),
        Column("coverage", "coverage", "{:.1%}", "more"),
        Column("memorised", "memorised", "{:.1%}", "less"),
        Column("frechet_mel", "Fréchet, mel", "{:,.1f}", "less"),
        Column("wer", "WER", "{:.1%}", "less"),
        Column("speaker_similarity", "speaker similarity", "{:.3f}", "more"),
        Column("class_at_1", "class", "{:.1%}", "more"),
        Column("length_error", "length error", "{:.1%}", "less"),
        Column("bits_per_dimension", "bits per dimension", "{:.2f}", "less"),
        Column("nats_per_token", "nats per token", "{:.2f}", "less"),
        Column("heldout_loss", "held-out loss", "{:.3f}", "less"),
        Column("seconds_per_picture", "s per image", "{:.3f}", "less"),
        Column("seconds_per_clip", "s per clip", "{:.3f}", "less"),
        Column("seconds_per_item", "s per item", "{:.3f}", "less"),
        Column("times_real_time", "times real time", "{:.2f}", "more"),
        *_COST,
    ),
}
TITLES = {"tokenizer": "Tokenizers", "generator": "Generators"}


def columns(kind: str, rows: Sequence[Row]) -> list[Column]:
    """Columns with a value in at least one row."""
    return [column for column in COLUMNS[kind] if any(column.cell(row) != MISSING for row in rows)]


def best(column: Column, rows: Sequence[Row]) -> set[str]:
    """Labels of the best rows of a column, by formatted value; empty for a single row or a column without order."""
    values = {row.label: row.figures[column.name] for row in rows if column.name in row.figures}
    if column.better is None or len(values) < 2:
        return set()
    top = (max if column.better == "more" else min)(values.values())
    return {label for label, value in values.items() if column.form.format(value / column.unit) == column.form.format(top / column.unit)}


def _reasons(row: Row) -> dict[str, list[str]]:
    """Figures that a row has not, by the reason, which several may share."""
    found = dict[str, list[str]]()
    for name, reason in row.omitted.items():
        if not name.startswith("more about"):
            found.setdefault(reason, []).append(name)
    return found


def remarks(rows: Sequence[Row]) -> list[str]:
    """Caveats: notes of the rows, failures, omitted figures and unequal bits."""
    notes = [f"{row.label}: {note}" for row in rows for note in row.notes]
    notes += [f"{row.label} failed: {row.failed}" for row in rows if row.failed]
    notes += [f"{row.label}: without {', '.join(names)}: {reason}" for row in rows for reason, names in _reasons(row).items()]
    notes += sorted(
        {f"{name.removeprefix('more about ')}: {reason}" for row in rows for name, reason in row.omitted.items() if name.startswith("more")}
    )
    notes += sorted({note for row in rows for note in _chances(row)})
    bits = {row.figures["bits"] for row in rows if row.kind == "tokenizer" and "bits" in row.figures}
    if bits and max(bits) > 1.02 * min(bits):
        notes.append(f"bits per image differ ({min(bits):,.0f} to {max(bits):,.0f}): figures at different rates are not comparable")
    if bits and any("numbers" in row.figures for row in rows if row.kind == "tokenizer"):
        notes.append("bits are not defined for continuous tokens: compare them with codes by the quality of a generator")
    return notes


def _chances(row: Row) -> Iterator[str]:
    """What figures of a row are by chance, and what they were chosen among."""
    for name, details in row.provenance.get("figures", {}).items():
        if name.endswith(REAL) or "chance" not in details:
            continue
        among = f"among {details['candidates']} captions, " if "candidates" in details else ""
        known = f" (compared with {details['training_items']:,} of {details['of']:,} training items)" if "training_items" in details else ""
        title = next((column.title for column in COLUMNS[row.kind] if column.name == name), name)
        yield f"{title}: {among}chance {details['chance']:.1%}{known}"


def reference(rows: Sequence[Row]) -> Row | None:
    """A row of the figures of real items that generators are measured beside, from the first row that has some."""
    for row in rows:
        real = {name.removesuffix(REAL): value for name, value in row.figures.items() if name.endswith(REAL)}
        if real:
            return Row("real", row.kind, "held-out items", real)
    return None


def grid(kind: str, rows: Sequence[Row]) -> list[list[Cell]]:
    """The table of a kind: a line of titles, a line a row, and one of real items where these have figures in its columns."""
    shown = columns(kind, rows)
    tops = [best(column, rows) for column in shown]
    lines = [[Cell(row.label), *(Cell(c.cell(row), row.label in top) for c, top in zip(shown, tops, strict=True))] for row in rows]
    real = reference(rows)
    cells = [] if real is None else [Cell(column.cell(real)) for column in shown]
    if real is not None and any(cell.text != MISSING for cell in cells):
        lines.append([Cell(real.label), *cells])
    return [[Cell(""), *(Cell(column.title) for column in shown)], *lines]


def text(rows: Sequence[Row]) -> str:
    """Tables of tokenizers and generators in plain text, followed by the remarks."""
    lines: list[str] = []
    for kind, title in TITLES.items():
        if members := [row for row in rows if row.kind == kind]:
            table = [[cell.text for cell in line] for line in grid(kind, members)]
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)
            lines += [title, *padded, ""]
    return "\n".join([*lines, *remarks(rows)]).rstrip()
