"""What is in a set, before any training: counts, sizes, captions, classes, broken and odd files, the range of the values."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jielong.data.opening import open_source
from jielong.data.sets import Batch, ImageSet
from jielong.data.source import Source
from jielong.media.images import BrokenImageError, fit, read_image, sheet, to_bytes, write_image

HUGE_ASPECT = 3.0
SHOWN = 64  # pictures on the contact sheet and in the decoded batch
_LIMIT = 5_000
_EDGES = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Spread:
    """The least, middle and greatest of some numbers."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class Report:
    """What :func:`inspect` found; shows itself as tables with rich, or as a dictionary.

    Attributes:
        count: usable pictures; ``splits`` says how many of them each split has.
        decoded: how many were decoded in full; the others were judged by their headers.
        width, height: in pixels, as stored; ``sides`` counts pictures by their shorter side, ``{"64-127": 12}``.
        captions: number of pictures with one; ``words`` is their length; ``examples`` are a few.
        classes: number of pictures a class.
        broken: what cannot be used -> why.
        odd: usable, but perhaps not meant -> why (grey, tiny, long, animated, flat, a copy of another, unusual mode).
        values: least, mean and greatest value of a decoded batch; must lie in [-1, 1].
    """

    name: str
    count: int
    decoded: int
    size: int
    channels: int
    splits: dict[str, int]
    width: Spread
    height: Spread
    sides: dict[str, int]
    formats: dict[str, int]
    captions: int
    words: Spread | None
    examples: list[str]
    classes: dict[str, int]
    broken: dict[str, str]
    odd: dict[str, list[str]]
    values: dict[str, float]
    batch: Batch = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the decoded batch, ready for JSON."""
        return {name: asdict(value) if isinstance(value, Spread) else value for name, value in vars(self).items() if name != "batch"}

    def write_sheet(self, path: str | os.PathLike[str], columns: int = 8) -> Path:
        """Write a contact sheet of decoded pictures with their captions: what training will see. Returns its path."""
        media = to_bytes(self.batch.media)
        scale = max(1, 96 // media.shape[-1])
        return write_image(path, sheet(media, columns, self.batch.captions, scale=scale))

    def __rich__(self) -> RenderableType:
        table = Table(title=f"{self.name}: {self.count} pictures", show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self._rows():
            table.add_row(name, Text(value))
        notes = [listing("broken", {k: [v] for k, v in self.broken.items()}, "red"), listing("odd", self.odd, "yellow")]
        return Group(table, *(note for note in notes if note is not None))

    def _rows(self) -> list[tuple[str, str]]:
        def spread(of: Spread) -> str:
            return f"{of.min:g} / {of.median:g} / {of.max:g} (least, middle, greatest)"

        rows = [("splits", ", ".join(f"{k} {n}" for k, n in self.splits.items()) or "none declared; 5 % will be held out")]
        rows += [("width", spread(self.width)), ("height", spread(self.height))]
        rows += [("shorter side", ", ".join(f"{k}: {n}" for k, n in self.sides.items()))]
        rows += [("kinds", ", ".join(f"{k}: {n}" for k, n in self.formats.items()))]
        rows += [("captions", f"{self.captions} of {self.count}" + ("" if self.words is None else f"; words {spread(self.words)}"))]
        rows += [("for example", "\n".join(self.examples))] if self.examples else []
        if self.classes:
            most = sorted(self.classes.items(), key=lambda item: -item[1])
            rows += [("classes", f"{len(most)}: " + ", ".join(f"{k} {n}" for k, n in most[:12]) + (", ..." if len(most) > 12 else ""))]
        rows += [("used as", f"{self.channels} x {self.size} x {self.size}, values {self.values['min']:.2f} to {self.values['max']:.2f}")]
        rows += [("decoded", f"{self.decoded} of {self.count}"), ("broken", str(len(self.broken))), ("odd", str(len(self.odd)))]
        return rows


def inspect(name: str | os.PathLike[str], size: int | None = None, limit: int | None = _LIMIT) -> Report:
    """Look through a set: every header, every caption, and the pixels of up to ``limit`` pictures (all if None), evenly spread.

    Raises:
        DataError: as :func:`~jielong.data.opening.open_set` does.
    """
    source = open_source(name)
    images = ImageSet(source, size=size)
    count = len(images)
    step = 1 if limit is None else -(-count // max(1, limit))
    look = _Look(source, images.size)
    for index in range(count):
        look.at(index, decode=index % step == 0)
    good = [i for i in range(count) if images.keys[i] not in look.broken]
    shown = good[:: -(-len(good) // SHOWN)] if good else [0]  # nothing good: the batch says so
    batch = images.batch(shown)
    words = [len(c.split()) for c in images.captions if c]
    captioned = [c for c in images.captions if c]
    return Report(
        name=os.fspath(name),
        count=len(good),
        decoded=len(range(0, count, step)),
        size=images.size,
        channels=images.channels,
        splits=dict(Counter(item.split for item in source.items if item.split)),
        width=_spread(look.widths),
        height=_spread(look.heights),
        sides=_histogram([min(pair) for pair in zip(look.widths, look.heights, strict=True)]),
        formats=dict(look.formats.most_common()),
        captions=len(captioned),
        words=_spread(words) if words else None,
        examples=list(dict.fromkeys(captioned))[:: max(1, len(set(captioned)) // 4)][:4],
        classes=dict(Counter(item.label for item in source.items if item.label is not None)),
        broken={**source.broken, **look.broken},
        odd=look.odd,
        values={
            k: float(v) for k, v in zip(("min", "mean", "max"), (batch.media.min(), batch.media.mean(), batch.media.max()), strict=True)
        },
        batch=batch,
    )


class _Look:
    """What is gathered while passing over the pictures."""

    def __init__(self, source: Source, size: int) -> None:
        self.source, self.size = source, size
        self.widths: list[int] = []
        self.heights: list[int] = []
        self.formats: Counter[str] = Counter()
        self.broken: dict[str, str] = {}
        self.odd: dict[str, list[str]] = {}
        self._first: dict[bytes, str] = {}  # hash of the file -> the first picture that has it

    def at(self, index: int, decode: bool) -> None:
        key = self.source.items[index].key
        try:
            picture = self.source.picture(index)
            kind, mode = picture.format or "raw", picture.mode
            reasons = list(self._header(picture))
            if decode:
                reasons += self._pixels(fit(read_image(picture, key), min(self.size, 64)))
        except BrokenImageError as error:
            self.broken[key] = str(error)
            return
        self.widths.append(picture.width)
        self.heights.append(picture.height)
        self.formats[f"{kind} {mode}"] += 1
        first = self._first.setdefault(hashlib.sha256(self.source.blob(index)).digest(), key)
        if first != key:
            reasons.append(f"the same file as {first}")
        if reasons:
            self.odd[key] = reasons

    def _header(self, picture: Image.Image) -> list[str]:
        short, long = sorted(picture.size)
        reasons = []
        if short < self.size:
            reasons.append(f"tiny: {picture.width} x {picture.height}, will be enlarged to {self.size}")
        if long > HUGE_ASPECT * short:
            reasons.append(f"long: {picture.width} x {picture.height}, only the centre square is used")
        if getattr(picture, "n_frames", 1) > 1:
            reasons.append(f"animated: {getattr(picture, 'n_frames', 1)} frames, only the first is used")
        if picture.mode in ("CMYK", "LAB", "HSV", "YCbCr", "I", "F") or picture.mode.startswith("I;16"):
            reasons.append(f"unusual mode {picture.mode}: reduced to 8 bits and RGB")
        return reasons

    def _pixels(self, image: Image.Image) -> list[str]:
        array = np.asarray(image)
        if (array == array[:1, :1]).all():
            return ["flat: one colour everywhere"]
        if self.source.channels == 3 and (array == array[..., :1]).all():
            return ["grey"]
        return []


def _spread(values: list[int]) -> Spread:
    return Spread(min(values), median(values), max(values)) if values else Spread(0, 0, 0)


def _histogram(values: list[int]) -> dict[str, int]:
    ends = [*_EDGES[1:], None]
    names = [f"{low}-{high - 1}" if high else f"{low} and more" for low, high in zip(_EDGES, ends, strict=True)]
    counts = np.histogram(values, [*_EDGES, np.inf])[0]
    return {name: int(n) for name, n in zip(names, counts, strict=True) if n}


def listing(title: str, entries: dict[str, list[str]], colour: str, most: int = 20) -> Table | None:
    """A table of entries and what is said of each, the first ``most`` of them; ``None`` of nothing."""
    if not entries:
        return None
    table = Table(title=f"{title}: {len(entries)}", show_header=False, title_style=colour, title_justify="left")
    for key, reasons in list(entries.items())[:most]:
        table.add_row(Text(key), Text("; ".join(reasons)))
    if len(entries) > most:
        table.add_row("...", f"and {len(entries) - most} more")
    return table
