"""A set of pictures as tensors: decoded once, always float in [-1, 1], broken files replaced and counted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from jielong.data.source import DataError, Source, digest
from jielong.media.images import BrokenImageError, fit, read_image, to_bytes_tensor, to_float

MEMORY_BYTES = 500_000_000  # a set whose decoded pictures take less is kept decoded
PREPROCESSING = "upright, over white, shorter side lanczos, centre square, 8 bit: 1"


@dataclass(frozen=True)
class Example:
    """One picture: ``image`` is ``(C, H, W)`` float32 in [-1, 1]."""

    key: str
    image: Tensor
    caption: str | None
    label: int | None


@dataclass(frozen=True)
class Batch:
    """Pictures of equal size: ``media`` is ``(B, C, H, W)`` float32 in [-1, 1], ``labels`` is ``(B,)`` long.

    Sound is ``(B, C, T)``, and ``lengths``, ``(B,)`` long, says how many of its samples there are of each item, the rest being silence.
    Where a set was cut into tokens beforehand, ``tokens`` holds their values, ``(B, N, C)``, and ``media`` is empty, ``(B, 0)``.
    """

    media: Tensor
    captions: list[str] | None
    labels: Tensor | None
    keys: list[str]
    tokens: Tensor | None = None
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        tokens = None if self.tokens is None else self.tokens.to(device)
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Batch(self.media.to(device), self.captions, labels, self.keys, tokens, lengths)


def collate(examples: Sequence[Example]) -> Batch:
    """Put examples together: captions if any has one (``""`` where it is missing), labels if all have one."""
    labels = [e.label for e in examples if e.label is not None]
    return Batch(
        media=torch.stack([e.image for e in examples]),
        captions=[e.caption or "" for e in examples] if any(e.caption for e in examples) else None,
        labels=torch.tensor(labels) if len(labels) == len(examples) else None,
        keys=[e.key for e in examples],
    )


class ImageSet(Dataset[Example]):
    """Pictures of one source at one size.

    A picture that turns out to be broken when it is decoded is named in :attr:`broken`, warned of, and replaced by the next good one of
    the set, with that one's caption and label: training never stops for it, and the replacement is always the same.

    Attributes:
        classes: names of the classes, in the order of their numbers; empty if there are none.
        captions: a caption a picture, ``""`` where it is missing; nothing is decoded.
        labels: a class number a picture, or None where it is missing.
        columns: whatever else the source says of each picture, by name.
        fingerprint: SHA-256 of the content and of the preprocessing; equal fingerprints mean equal tensors.
        broken: what was left out or replaced, and why.
        stand_ins: index of a broken picture met so far -> index of the one that replaces it.
    """

    def __init__(self, source: Source, indices: Sequence[int] | None = None, size: int | None = None, channels: int | None = None) -> None:
        """Take the items ``indices`` (all by default) of a source.

        Args:
            source: where the pictures come from.
            indices: which items, in this order.
            size: side of the square pictures in pixels; the source's own by default.
            channels: 3 (RGB) or 1 (grey); the source's own by default.

        Raises:
            DataError: if there is no picture, or the size or the channels are impossible.
        """
        self.source = source
        self.indices = list(range(len(source.items)) if indices is None else indices)
        self.size, self.channels = size or source.size, channels or source.channels
        self.name = source.name
        self.broken = dict(source.broken)
        if not self.indices:
            raise DataError(f"{source.name} holds no usable picture" + (f" ({len(source.broken)} broken)" if source.broken else ""))
        if self.size < 1 or self.channels not in (1, 3):
            raise DataError(f"pictures need a positive size and 1 or 3 channels, not size {self.size} and {self.channels} channels")
        items = [source.items[i] for i in self.indices]
        self.keys = [item.key for item in items]
        self.has_captions = any(item.caption for item in items)
        self.captions = [item.caption or "" for item in items]
        # Classes come from the whole source, so that the splits of one set number them alike.
        self.classes = list(source.classes or sorted({item.label for item in source.items if item.label is not None}))
        number = {name: n for n, name in enumerate(self.classes)}
        self.labels = [None if item.label is None else number[item.label] for item in items]
        self.columns: dict[str, list[Any]] = {name: [item.extra.get(name) for item in items] for name in items[0].extra}
        self.stand_ins: dict[int, int] = {}
        self._bad: set[int] = set()
        self._fingerprint: str | None = None
        keep = len(items) * self.channels * self.size**2 <= MEMORY_BYTES
        # The memory of `empty` is taken page by page as pictures are written to it.
        self._pixels = torch.empty(len(items), self.channels, self.size, self.size, dtype=torch.uint8) if keep else None
        self._decoded = torch.zeros(len(items), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        words = f", {len(self.classes)} classes" if self.classes else ""
        return f"ImageSet({self.name!r}: {len(self)} pictures, {self.channels} x {self.size} x {self.size}{words})"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content (pictures, captions, labels, in order) and of the preprocessing."""
        if self._fingerprint is None:
            how = f"{PREPROCESSING}; size {self.size}; channels {self.channels}"
            words = [f"{k}\0{c}\0{n}" for k, c, n in zip(self.keys, self.captions, self.labels, strict=True)]
            self._fingerprint = digest([how, self.source.identity(self.indices), *self.classes, *words])
        return self._fingerprint

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]  # negative indices, and IndexError beyond the end
        pixels = self._pixels_of([index])[0]
        index = self.resolve(index)
        caption = self.captions[index] or None
        return Example(self.keys[index], to_float(pixels), caption, self.labels[index])

    def batch(self, indices: Sequence[int]) -> Batch:
        """The batch of those pictures; what :func:`collate` makes of the same examples, but in one go."""
        media = to_float(self._pixels_of(indices))
        return self._with_words(media, [self.resolve(i) for i in indices])

    def words(self, indices: Sequence[int], tokens: Tensor) -> Batch:
        """A batch of tokens ``(B, N, C)`` that were made of those pictures, with their captions and labels; nothing is decoded."""
        return self._with_words(torch.empty(len(indices), 0), [self.resolve(i) for i in indices], tokens)

    def _with_words(self, media: Tensor, indices: Sequence[int], tokens: Tensor | None = None) -> Batch:
        captions = [self.captions[i] for i in indices]
        labels = [n for n in (self.labels[i] for i in indices) if n is not None]
        return Batch(
            media=media,
            captions=captions if self.has_captions else None,
            labels=torch.tensor(labels) if len(labels) == len(indices) else None,
            keys=[self.keys[i] for i in indices],
            tokens=tokens,
        )

    def images(self, indices: Sequence[int]) -> Tensor:
        """Those pictures, ``(B, C, H, W)`` float32 in [-1, 1]; use :meth:`batch` when captions or labels are needed too."""
        return to_float(self._pixels_of(indices))

    def media(self, indices: Sequence[int]) -> Tensor:
        """The same as :meth:`images`, by the name that every kind of set has for it."""
        return self.images(indices)

    def resolve(self, index: int) -> int:
        """The index of the picture that stands at ``index``: itself, or the one that replaces a broken one met so far."""
        return self.stand_ins.get(index, index)

    def _pixels_of(self, indices: Sequence[int]) -> Tensor:
        if self._pixels is None:
            return torch.stack([self._decode_or_replace(i) for i in indices])
        for index in indices:
            if not self._decoded[index]:
                self._pixels[index] = self._decode_or_replace(index)
                self._decoded[index] = True
        return self._pixels[torch.as_tensor(indices, dtype=torch.long)]

    def _decode_or_replace(self, index: int) -> Tensor:
        for step in range(len(self)):
            candidate = (self.resolve(index) + step) % len(self)
            if candidate in self._bad:
                continue
            try:
                image = read_image(self.source.picture(self.indices[candidate]), self.keys[candidate])
            except BrokenImageError as error:
                self._bad.add(candidate)
                self.broken[self.keys[candidate]] = str(error)
                warnings.warn(f"{error}; the next good picture takes its place ({len(self.broken)} broken so far)", stacklevel=4)
                continue
            if candidate != index:
                self.stand_ins[index] = candidate
            return to_bytes_tensor(fit(image, self.size), self.channels)
        raise DataError(f"{self.name}: not one of {len(self)} pictures can be decoded")
