"""A set of media as tensors: decoded once, float in [-1, 1], broken items replaced and counted."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from jielong.config.data import DataSettings
from jielong.core.medium import Medium
from jielong.data.augmenting import Augmenter
from jielong.data.ledger import Cause, Ledger
from jielong.data.order import spread
from jielong.data.source import DataError, Source, class_names, digest
from jielong.media.kinds.base import Content, kind_of

Read = Callable[[Content, str, Medium, DataSettings], Tensor]
"""Decodes an item, as :meth:`~jielong.media.kinds.base.MediaKind.decode`."""
MEMORY_BYTES = 500_000_000
"""Decoded items that a set keeps in memory."""
SPEAKER_COLUMNS = ("speaker", "voice")
"""Columns that may name the speaker."""


@dataclass(frozen=True)
class Batch:
    """Items of equal size.

    Attributes:
        media: ``(B, C, *size)`` float32 in [-1, 1]; ``(B, 0)`` where ``tokens`` are given.
        captions: One an item, ``""`` where missing; ``None`` if the set has none.
        labels: Class numbers, ``(B,)`` long, if every item has one.
        keys: Names of the items.
        tokens: ``(B, N, C)``, where the set was tokenised beforehand.
        lengths: ``(B,)`` long: samples or frames along time that an item fills; zeros follow. ``None`` without a time axis.
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
        labels, tokens, lengths = (None if each is None else each.to(device) for each in (self.labels, self.tokens, self.lengths))
        return replace(self, media=self.media.to(device), labels=labels, tokens=tokens, lengths=lengths)


class MediaSet(Dataset[Batch]):
    """Items of one source as one medium.

    An item longer than the medium along time is its beginning, and a shorter one ends in zeros; :meth:`crops` gives any part.
    An item that cannot be decoded is recorded in :attr:`broken`, warned of once, and replaced by the next good one of the set, with the
    caption and label of that one; the replacement is always the same.

    Attributes:
        medium: What an item looks like.
        classes: Names of the classes, in the order of their numbers.
        captions: The first of each item, ``""`` where it has none.
        captions_of_items: All of each item.
        labels: A class number an item, or ``None``.
        columns: The other columns of the source, by name.
        left_out: What the set has found beside :attr:`Source.unused`: items too long, or that cannot be decoded and are replaced.
        replacements: Index of a broken item met so far -> index of its replacement.
        parent: The set of which this one is some rows, and the rows.
    """

    def __init__(self, source: Source, medium: Medium, indices: Sequence[int] | None = None, settings: DataSettings | None = None) -> None:
        """Take the items ``indices`` (all by default) of a source.

        Args:
            source: Where the items come from.
            medium: The size, rate and channels that they are fitted to.
            indices: Which items, in this order.
            settings: How they are read, beyond the medium (the level of audio).

        Raises:
            DataError: if there is no item, or they are of another kind of media.
        """
        self.source, self.medium, self.kind, self.name = source, medium, kind_of(medium), source.name
        if source.kind != medium.kind:
            raise DataError(f"{source.name} holds {kind_of(source.kind).noun[1]}, not {self.kind.noun[1]}")
        self.settings = settings or self.kind.settings()
        self.indices = list(range(len(source.items)) if indices is None else indices)
        self.left_out = Ledger()
        if not self.indices:
            raise DataError(f"{source.name} holds no usable {self.kind.noun[0]}{source.unused.explained()}")
        items = [source.items[i] for i in self.indices]
        self.keys = [item.key for item in items]
        self.has_captions = any(item.caption for item in items)
        self.captions = [item.caption or "" for item in items]
        self.captions_of_items = [item.captions for item in items]
        # Classes come from the whole source, so that the splits of one set give them the same numbers.
        self.classes = list(source.classes or class_names(source.items))
        number = {name: n for n, name in enumerate(self.classes)}
        self.labels = [None if item.label is None else number[item.label] for item in items]
        self.columns: dict[str, list[Any]] = {name: [item.extra.get(name) for item in items] for name in items[0].extra}
        self.replacements: dict[int, int] = {}
        self.parent: tuple[MediaSet, list[int]] | None = None
        self._bad: set[int] = set()
        self._fingerprint: str | None = None
        self._read: Read = self.kind.decode
        self._decoded: dict[int, Tensor] = {}
        self._decoded_bytes = 0
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"MediaSet({self.name!r}: {len(self)} {self.kind.noun[1]}, {self.medium}{classes})"

    def restricted(self, rows: Sequence[int], left_out: Ledger) -> MediaSet:
        """The items at some indices.

        Args:
            rows: The indices.
            left_out: Why the others are not used.
        """
        kept = MediaSet(self.source, self.medium, [self.indices[row] for row in rows], self.settings)
        kept.parent = self, list(rows)
        kept.left_out = self.left_out + left_out
        kept._lengths = {new: self._lengths[old] for new, old in enumerate(rows) if old in self._lengths}
        kept._decoded = {new: self._decoded[old] for new, old in enumerate(rows) if old in self._decoded}
        kept._decoded_bytes = sum(item.numel() * item.element_size() for item in kept._decoded.values())
        kept._bad = {new for new, old in enumerate(rows) if old in self._bad}
        return kept

    def viewed(self, read: Read, name: str = "") -> MediaSet:
        """The same items, decoded by ``read``, with the same broken ones; ``name`` tells its fingerprint from that of this set."""
        view = copy.copy(self)
        view._read, view._decoded, view._decoded_bytes, view.parent = read, {}, 0, None
        view._fingerprint = digest([self.fingerprint, name]) if name else self._fingerprint
        view.__dict__.pop("augmenter", None)
        return view

    def fitted_to(self, medium: Medium) -> MediaSet:
        """The same items at another size, read from their files as a set of that medium reads them; no random changes."""
        view = self.viewed(self._read, f"at {medium}")
        view.medium, view._lengths = medium, {}
        return view

    @cached_property
    def augmenter(self) -> Augmenter | None:
        """Draws crops and flips of training items; ``None`` if the settings name none."""
        augmentation = self.kind.augmentation(self.settings)
        return None if augmentation is None else Augmenter(self, augmentation)

    def without_broken(self, count: int | None = None) -> MediaSet:
        """The set of which ``count`` evenly spread items, all by default, can be decoded; broken ones are recorded and left out.

        Raises:
            DataError: if not one can be decoded.
        """
        found = self
        while broken := {row for row in spread(len(found), count) if not found._is_good(row)}:
            if len(broken) == len(found):
                raise found._all_broken()
            found = found.restricted([row for row in range(len(found)) if row not in broken], Ledger())
        return found

    @property
    def unused(self) -> Ledger:
        """What was found and is not used."""
        return self.source.unused + self.left_out

    @property
    def broken(self) -> dict[str, str]:
        """What cannot be read and was left out or replaced, and why."""
        return self.unused.reasons(Cause.BROKEN)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content (items, captions, labels, in order) and of the preprocessing; equal fingerprints mean equal tensors."""
        if self._fingerprint is None:
            how = self.kind.preprocessing(self.medium, self.settings)
            words = [f"{k}\0{c}\0{n}" for k, c, n in zip(self.keys, self.captions, self.labels, strict=True)]
            words += [f"{k}\0{caption}" for k, captions in zip(self.keys, self.captions_of_items, strict=True) for caption in captions[1:]]
            self._fingerprint = digest([how, self.source.identity(self.indices), *self.classes, *words])
        return self._fingerprint

    @property
    def every_caption(self) -> list[str]:
        """All captions of all items, ``""`` where an item has none."""
        return [caption for captions in self.captions_of_items for caption in captions or ("",)]

    @property
    def speaker_column(self) -> str | None:
        """The column that names the speaker, if there is one."""
        return next((name for name in SPEAKER_COLUMNS if name in self.columns), None)

    def __getitem__(self, index: int) -> Batch:
        return self.batch([range(len(self))[index]])  # negative indices, and IndexError beyond the end

    def batch(self, indices: Sequence[int]) -> Batch:
        """Those items, with captions, labels and lengths."""
        return self._labelled(indices, self.media(indices))  # after decoding, which may have replaced some

    def media(self, indices: Sequence[int]) -> Tensor:
        """Those items, ``(B, C, *size)`` float32 in [-1, 1]."""
        return self._stacked(indices, [0] * len(indices))

    def crops(self, indices: Sequence[int], positions: Sequence[int], seed: int) -> Batch:
        """Items of a training batch: parts that begin anywhere along time, crops and flips, and one of an item's captions.

        All are drawn from ``(seed, position)``. Items that are no longer than the medium begin at 0.

        Args:
            indices: Which items.
            positions: Of each in the endless stream of the run.
            seed: Of the run.
        """
        if self.augmenter is not None:
            media = self.augmenter.media(indices, positions, seed)
        else:
            spare = [self.stored(index).shape[self._time] - self.medium.frames if self.medium.timed else 0 for index in indices]
            starts = [_drawn(seed, "crop", each, more + 1) if more > 0 else 0 for each, more in zip(positions, spare, strict=True)]
            media = self._stacked(indices, starts)
        return self._with_drawn_captions(self._labelled(indices, media), indices, positions, seed)

    def tokenised(self, indices: Sequence[int], tokens: Tensor, positions: Sequence[int] | None = None, seed: int = 0) -> Batch:
        """A batch of the tokens ``(B, N, C)`` of those items, with captions, labels and lengths; nothing is decoded.

        Args:
            indices: Which items.
            tokens: Of these items.
            positions: As of :meth:`crops`, to draw one of an item's captions; the first by default.
            seed: Of the run.
        """
        batch = self._labelled(indices, torch.empty(len(indices), 0), tokens)
        return batch if positions is None else self._with_drawn_captions(batch, indices, positions, seed)

    def _with_drawn_captions(self, batch: Batch, indices: Sequence[int], positions: Sequence[int], seed: int) -> Batch:
        if batch.captions is None:
            return batch
        captions = list(batch.captions)
        for place, (index, position) in enumerate(zip(indices, positions, strict=True)):
            choices = self.captions_of_items[self.resolve(index)]
            if len(choices) > 1:
                captions[place] = choices[_drawn(seed, "caption", position, len(choices))]
        return replace(batch, captions=captions)

    def whole(self, index: int) -> Tensor:
        """A whole item, ``(C, *size)`` float32 in [-1, 1], along time as long as it is."""
        return self.kind.to_float(self.stored(index))

    def resolve(self, index: int) -> int:
        """The index of the item that is used at ``index``: itself, or its replacement."""
        return self.replacements.get(index, index)

    def length(self, index: int) -> int:
        """Samples or frames along time that an item fills, at most those of the medium."""
        return min(self.full_length(index), self.medium.frames)

    def full_length(self, index: int) -> int:
        """Samples or frames of a whole item along time; from its header where that is exact."""
        if self.kind.fills:
            return self.medium.frames
        index = self.resolve(index)
        if index not in self._lengths:
            try:
                exact = self.kind.frames_of(self.source.content(self.indices[index]), self.keys[index], self.medium)
            except DataError:  # its bytes cannot be read, which decoding records
                exact = None
            self._lengths[index] = self.stored(index).shape[self._time] if exact is None else exact
        return self._lengths[index]

    @property
    def _time(self) -> int:
        return 1 + self.medium.axes.index("time")

    def _labelled(self, indices: Sequence[int], media: Tensor, tokens: Tensor | None = None) -> Batch:
        rows = [self.resolve(index) for index in indices]
        labels = [n for n in (self.labels[row] for row in rows) if n is not None]
        return Batch(
            media=media,
            captions=[self.captions[row] for row in rows] if self.has_captions else None,
            labels=torch.tensor(labels) if len(labels) == len(rows) else None,
            keys=[self.keys[row] for row in rows],
            tokens=tokens,
            lengths=torch.tensor([self.length(row) for row in rows]) if self.medium.timed else None,
        )

    def _stacked(self, indices: Sequence[int], starts: Sequence[int]) -> Tensor:
        if not self.medium.timed:
            return self.kind.to_float(torch.stack([self.stored(index) for index in indices]))
        return torch.stack([self._part(index, start) for index, start in zip(indices, starts, strict=True)])

    def _part(self, index: int, start: int) -> Tensor:
        """An item from ``start`` along time on, cut or padded with zeros to the medium."""
        item, frames = self.stored(index), self.medium.frames
        part = self.kind.to_float(item.narrow(self._time, start, min(frames, item.shape[self._time] - start)))
        after = part.ndim - 1 - self._time
        return F.pad(part, (*(0, 0) * after, 0, frames - part.shape[self._time]))

    def stored(self, index: int) -> Tensor:
        """An item as it is decoded, or its replacement."""
        index = self.resolve(index)
        if index in self._decoded:
            return self._decoded[index]
        for candidate in chain(range(index, len(self)), range(index)):
            if candidate in self._bad:
                continue
            try:
                item = self._decode(candidate)
            except ValueError as error:
                advice = f"the next good {self.kind.noun[0]} takes its place ({len(self._bad)} broken so far)"
                warnings.warn(f"{error}; {advice}", stacklevel=4)
                continue
            if candidate != index:
                self.replacements[index] = candidate
            return item
        raise self._all_broken()

    def _decode(self, index: int) -> Tensor:
        """Decode an item and keep it; a broken one is recorded."""
        try:
            item = self._read(self.source.content(self.indices[index]), self.keys[index], self.medium, self.settings)
        except ValueError as error:
            self._bad.add(index)
            self.left_out.add(Cause.BROKEN, self.keys[index], str(error))
            raise
        size = item.numel() * item.element_size()
        if self._decoded_bytes + size <= MEMORY_BYTES:
            self._decoded[index] = item
            self._decoded_bytes += size
        return item

    def _is_good(self, index: int) -> bool:
        if index not in self._decoded and index not in self._bad:
            with contextlib.suppress(ValueError):
                self._decode(index)
        return index not in self._bad

    def _all_broken(self) -> DataError:
        return DataError(f"{self.name}: not one of {len(self)} {self.kind.noun[1]} can be decoded{self.left_out.explained()}")


def _drawn(seed: int, what: str, position: int, count: int) -> int:
    """A number below ``count``, the same for the same seed, purpose and position."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{what}/{position}".encode(), digest_size=8).digest(), "big") % count
