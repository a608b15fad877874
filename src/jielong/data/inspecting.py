"""What is in a set, before any training: counts, sizes, captions, classes, broken and odd items."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jielong.core.json import JSON, printable
from jielong.core.text import readable
from jielong.data.duplicates import Duplicates, find_duplicates
from jielong.data.ledger import Cause, Ledger
from jielong.data.opening import kinds_of, open_quietly
from jielong.data.order import spread
from jielong.data.sets import Batch, MediaSet
from jielong.data.splits import other_splits
from jielong.media.images import write_image
from jielong.media.inspection import Inspector, Spread, counted
from jielong.media.results import ResultItem, Results

SHOWN = 64
"""Items on the sample grid."""
_LIMIT = 5_000


@dataclass(frozen=True)
class Report:
    """What :func:`inspect` found; shows itself as tables with rich, or as a dictionary.

    Attributes:
        count: Usable items; ``splits`` counts those of each declared split.
        decoded: Items decoded in full.
        facts: What the kind of media finds, such as sizes and durations.
        captions: Items with a caption; ``words`` are its length; ``examples`` are a few; ``several``: items with more than one.
        classes: Items per class.
        duplicates: Equal and similar items in both splits.
        columns: Other columns of the source.
        unused: What was found and is not used, by cause.
        odd: Usable, but perhaps not meant, and why.
        values: Minimum, mean and maximum of a decoded batch.
    """

    name: str
    noun: str
    used_as: str
    count: int
    decoded: int
    splits: dict[str, int]
    facts: JSON
    rows: list[tuple[str, str]] = field(repr=False)
    captions: int
    several: int
    words: Spread | None
    examples: list[str]
    classes: dict[str, int]
    duplicates: Duplicates
    columns: list[str]
    unused: Ledger
    odd: dict[str, list[str]]
    values: dict[str, float]
    samples: Results[ResultItem] = field(repr=False)

    @property
    def broken(self) -> dict[str, str]:
        """What cannot be read, and why."""
        return self.unused.reasons(Cause.BROKEN)

    def as_dict(self) -> JSON:
        """Ready for JSON, with the facts among the other keys."""
        fields = {name: value for name, value in vars(self).items() if name not in ("facts", "rows", "samples", "noun", "unused")}
        fields |= {"broken": self.broken, "unused": self.unused.as_dict(), "duplicates": self.duplicates.as_dict()}
        return {name: asdict(value) if isinstance(value, Spread) else value for name, value in (fields | self.facts).items()}

    def write_sheet(self, path: str | os.PathLike[str], columns: int = 8) -> Path:
        """Write a sample grid of decoded items with their captions. Returns its path."""
        scale = max(1, 96 // max(self.samples.tensor.shape[-2:]))
        return write_image(path, self.samples.sheet(columns, scale=scale))

    def __rich__(self) -> RenderableType:
        table = Table(title=f"{self.name}: {self.count} {self.noun}", show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self._table():
            table.add_row(name, Text(readable(value)))
        unused = {entry.name: [f"{entry.cause}: {entry.reason}"] for entry in self.unused}
        notes = [_listing("not used", unused, "red"), _listing("odd", self.odd, "yellow")]
        return Group(table, *(note for note in notes if note is not None))

    def _table(self) -> list[tuple[str, str]]:
        declared = "; ".join(filter(None, (counted(self.splits), other_splits(Counter(self.splits).elements()))))
        rows = [("splits", declared or f"none declared; {self.duplicates.heldout} held out, by content"), *self.rows]
        several = f"; several: {self.several}, of which training draws one a sample" if self.several else ""
        rows += [("captions", f"{self.captions} of {self.count}" + ("" if self.words is None else f"; words {self.words}") + several)]
        rows += [("for example", "\n".join(self.examples))] if self.examples else []
        rows += [("classes", f"{len(self.classes)}: {counted(self.classes)}")] if self.classes else []
        rows += [("columns", ", ".join(self.columns))] if self.columns else []
        rows += [("used as", f"{self.used_as}, values {self.values['min']:.2f} to {self.values['max']:.2f}")]
        rows += [("decoded", f"{self.decoded} of {self.count}"), ("not used", str(len(self.unused)))]
        others = kinds_of(self.unused.reasons(Cause.OTHER))
        rows += (
            [("kinds", f"{self.noun} are read; there are also {counted(others)}; choose by --kind {next(iter(others))}")] if others else []
        )
        return [*rows, *self.unused.rows(), *self.duplicates.rows(), ("odd", str(len(self.odd)))]


def inspect(name: str | os.PathLike[str], limit: int | None = _LIMIT, **options: Any) -> Report:
    """Look through a set: every header and caption, and the content of up to ``limit`` items (all if ``None``), evenly spread.

    Args:
        name: As of :func:`~jielong.data.opening.open_data`.
        limit: Items to decode.
        options: Keys of the `data:` section, such as ``size``.

    Raises:
        DataError: As :func:`~jielong.data.opening.open_data`.
    """
    found = open_quietly(name, **options)
    source, inspector, decoded = found.source, found.kind.inspector(found.medium, found.settings), set(spread(len(found), limit))
    bad, odd = _look(found, inspector, decoded)
    broken = Ledger()
    for index, reason in bad.items():
        broken.add(Cause.BROKEN, found.keys[index], reason)
    good = [index for index in range(len(found)) if index not in bad]
    items = [source.items[index] for index in good]
    captions = [item.caption for item in items if item.caption]
    shown = good[:: -(-len(good) // SHOWN)] if good else [0]  # nothing good: the batch says so
    medium = inspector.preview_medium()
    batch = MediaSet(source, medium, settings=found.settings).batch(shown)
    return Report(
        name=printable(os.fspath(name)),
        noun=found.kind.noun[1],
        used_as=str(found.medium),
        count=len(good),
        decoded=len(decoded - bad.keys()),
        splits=dict(Counter(item.split for item in items if item.split)),
        facts=inspector.facts(),
        rows=inspector.rows(),
        captions=len(captions),
        several=sum(len(item.captions) > 1 for item in items),
        words=Spread.of([len(caption.split()) for caption in captions]) if captions else None,
        examples=list(dict.fromkeys(captions))[:: max(1, len(set(captions)) // 4)][:4],
        classes=dict(Counter(item.label for item in items if item.label is not None)),
        duplicates=find_duplicates(source, good, _by_index(found, inspector.perceptual_hashes())),
        columns=list(source.items[0].extra),
        unused=source.unused + broken,
        odd=odd,
        values={"min": float(batch.media.min()), "mean": float(batch.media.mean()), "max": float(batch.media.max())},
        samples=found.kind.wrap(batch.media, medium, batch.captions, _lengths(batch)),
    )


def _lengths(batch: Batch) -> list[int] | None:
    return None if batch.lengths is None else batch.lengths.tolist()


def _by_index(found: MediaSet, hashes: Mapping[str, int] | str) -> Mapping[int, int] | str:
    return hashes if isinstance(hashes, str) else {index: hashes[key] for index, key in enumerate(found.keys) if key in hashes}


def _look(found: MediaSet, inspector: Inspector, decoded: set[int]) -> tuple[dict[int, str], dict[str, list[str]]]:
    """Broken items by index, and odd ones by name, each with the reasons."""
    broken: dict[int, str] = {}
    odd: dict[str, list[str]] = {}
    first: dict[str, str] = {}  # hash of a file -> the first item that has it
    for index, key in enumerate(found.keys):
        try:
            reasons = inspector.look(found.source.content(index), key, index in decoded)
        except ValueError as error:
            broken[index] = str(error)
            continue
        same = first.setdefault(found.source.content_hashes[index], key)
        reasons += [f"the same file as {same}"] if same != key else []
        if reasons:
            odd[key] = reasons
    return broken, odd


def _listing(title: str, entries: dict[str, list[str]], colour: str, most: int = 20) -> Table | None:
    if not entries:
        return None
    table = Table(title=f"{title}: {len(entries)}", show_header=False, title_style=colour, title_justify="left")
    for key, reasons in list(entries.items())[:most]:
        table.add_row(Text(readable(key)), Text(readable("; ".join(reasons))))
    if len(entries) > most:
        table.add_row("...", f"and {len(entries) - most} more")
    return table
