"""What is in a set of sound, before any training: counts, lengths, rates, levels, words, classes, broken and odd files."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jielong.data.inspecting import Spread, listing
from jielong.data.opening import open_source
from jielong.data.order import spread
from jielong.data.source import DataError
from jielong.media.audio import level, read_audio
from jielong.media.images import sheet, write_image
from jielong.media.spectrograms import spectrogram

SHOWN = 32
QUIET_DB, LOUD = -45.0, 0.999
"""Below this level a clip is hardly heard; a sample beyond this magnitude stands at the end of the scale."""
LONG = 30.0


@dataclass(frozen=True)
class SoundReport:
    """What :func:`inspect_sounds` found; shows itself as tables with rich, or as a dictionary.

    Attributes:
        count: usable clips; ``splits`` says how many of them each split has.
        decoded: how many were decoded; the others are counted and no more.
        hours: of what was decoded.
        seconds: length of a clip; ``levels`` are decibels of full scale (root mean square) of those that are not silent.
        rates, channels: clips by their rate and number of channels.
        captions: number of clips with words; ``words`` is their length; ``examples`` are a few.
        classes: number of clips a class.
        columns: whatever else is said of each clip.
        broken: what cannot be used -> why.
        odd: usable, but perhaps not meant -> why (silent, quiet, clipped, very long, words that are not UTF-8).
    """

    name: str
    count: int
    decoded: int
    hours: float
    seconds: Spread
    levels: Spread
    rates: dict[int, int]
    channels: dict[int, int]
    splits: dict[str, int]
    captions: int
    words: Spread | None
    examples: list[str]
    classes: dict[str, int]
    columns: list[str]
    broken: dict[str, str]
    odd: dict[str, list[str]]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {name: asdict(value) if isinstance(value, Spread) else value for name, value in vars(self).items()}

    def write_sheet(self, path: str | os.PathLike[str]) -> Path:
        """Write the spectrograms of some clips with their words. Returns its path."""
        source = open_source(self.name)
        rows = [row for row in spread(len(source.items), SHOWN) if source.items[row].key not in self.broken]
        pictures = []
        for row in rows:
            waveform, rate = read_audio(source.blob(row), source.items[row].key)
            pictures.append(spectrogram(waveform, rate))
        captions = [source.items[row].caption or source.items[row].key for row in rows]
        return write_image(path, sheet(torch.stack(pictures), 4, captions))

    def __rich__(self) -> RenderableType:
        table = Table(title=f"{self.name}: {self.count} clips", show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self._rows():
            table.add_row(name, Text(value))
        notes = [listing("broken", {k: [v] for k, v in self.broken.items()}, "red"), listing("odd", self.odd, "yellow")]
        return Group(table, *(note for note in notes if note is not None))

    def _rows(self) -> list[tuple[str, str]]:
        def told(of: Spread) -> str:
            return f"{of.min:.4g} / {of.median:.4g} / {of.max:.4g} (least, middle, greatest)"

        def counted(of: dict[Any, int]) -> str:
            most = sorted(of.items(), key=lambda item: -item[1])
            return ", ".join(f"{key}: {n}" for key, n in most[:12]) + (", ..." if len(most) > 12 else "")

        rows = [("splits", counted(self.splits) or "none declared; 5 % will be held out")]
        rows += [("decoded", f"{self.decoded} of {self.count}, {self.hours:.2f} h"), ("seconds", told(self.seconds))]
        rows += [("level (dB)", told(self.levels)), ("rates (Hz)", counted(self.rates)), ("channels", counted(self.channels))]
        rows += [("captions", f"{self.captions} of {self.count}" + ("" if self.words is None else f"; words {told(self.words)}"))]
        rows += [("for example", "\n".join(self.examples))] if self.examples else []
        rows += [("classes", f"{len(self.classes)}: {counted(self.classes)}")] if self.classes else []
        rows += [("columns", ", ".join(self.columns))] if self.columns else []
        return [*rows, ("broken", str(len(self.broken))), ("odd", str(len(self.odd)))]


def inspect_sounds(name: str | os.PathLike[str], limit: int | None = None) -> SoundReport:
    """Look through a set of sound: all words, and the samples of up to ``limit`` clips (all if None), evenly spread.

    Raises:
        DataError: as :func:`~jielong.data.opening.open_sounds` does.
    """
    source = open_source(name)
    if source.medium != "sound" or not source.items:
        raise DataError(f"{name} holds no usable sound" + (f" ({len(source.broken)} broken)" if source.broken else ""))
    seconds: list[float] = []
    levels: list[float] = []
    rates: Counter[int] = Counter()
    channels: Counter[int] = Counter()
    broken, odd = dict(source.broken), {}
    for row in spread(len(source.items), limit):
        key = source.items[row].key
        try:
            waveform, rate = read_audio(source.blob(row), key)
        except ValueError as error:
            broken[key] = str(error)
            continue
        loud, length = level(waveform), waveform.shape[1] / rate
        seconds.append(length)
        rates[rate] += 1
        channels[len(waveform)] += 1
        levels += [loud] if loud > -200 else []
        clipped = float((waveform.abs() >= LOUD).float().mean())
        reasons = [
            *(["silent"] if loud <= -200 else [f"quiet: {loud:.1f} dB"] if loud < QUIET_DB else []),
            *([f"clipped: {clipped:.1%} of its samples stand at the end of the scale"] if clipped > 0.001 else []),
            *([f"long: {length:.1f} s"] if length > LONG else []),
            *(["its words are not UTF-8: some characters are lost"] if "\ufffd" in (source.items[row].caption or "") else []),
        ]
        if reasons:
            odd[key] = reasons
    items = [item for item in source.items if item.key not in broken]
    captions = [item.caption for item in items if item.caption]
    return SoundReport(
        name=os.fspath(name),
        count=len(items),
        decoded=len(seconds),
        hours=sum(seconds) / 3600,
        seconds=_spread(seconds),
        levels=_spread(levels),
        rates=dict(rates),
        channels=dict(channels),
        splits=dict(Counter(item.split for item in items if item.split)),
        captions=len(captions),
        words=_spread([len(caption.split()) for caption in captions]) if captions else None,
        examples=list(dict.fromkeys(captions))[:: max(1, len(set(captions)) // 4)][:4],
        classes=dict(Counter(item.label for item in items if item.label is not None)),
        columns=list(source.items[0].extra),
        broken=broken,
        odd=odd,
    )


def _spread(values: list[float] | list[int]) -> Spread:
    return Spread(min(values), median(values), max(values)) if values else Spread(0, 0, 0)
