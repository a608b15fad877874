"""Long files as several items each: parts of equal length that begin at regular times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from jielong.config.data import DataSettings
from jielong.core.medium import Medium
from jielong.data.content_hash import hash_bytes
from jielong.data.ledger import Cause, Ledger
from jielong.data.selection import Subset
from jielong.data.source import Source
from jielong.data.splits import Split
from jielong.media.kinds.base import Content, MediaKind


class Cuts(Subset):
    """Parts of the items of a source, each an item ``key#number`` with the words of the whole, in its split.

    An item in which no part fits is in :attr:`unused`.

    Args:
        source: The whole files.
        kind: Their kind of media, which finds the parts.
        medium: The length and rate of a part.
        settings: How items are read; where parts begin.
    """

    def __init__(self, source: Source, kind: MediaKind, medium: Medium, settings: DataSettings) -> None:
        self._kind, self._starts, index = kind, list[int](), list[int]()
        found, lost = [], Ledger()
        for whole, item in enumerate(source.items):
            try:
                starts: Sequence[int] = kind.cuts(source.content(whole), item.key, medium, settings)
            except ValueError as error:
                lost.add(Cause.BROKEN, item.key, str(error))
                continue
            if not starts:
                lost.add(Cause.SHORT, item.key, f"{item.key} is shorter than a part of {medium.frames} frames, and data.stride is set")
            found += [replace(item, key=f"{item.key}#{number}") for number in range(len(starts))]
            index += [whole] * len(starts)
            self._starts += starts
        super().__init__(source, index, source.name)
        self.items, self.unused = found, source.unused + lost

    def content(self, index: int) -> Content:
        """The whole, and where the part begins."""
        return self._kind.part(self.source.content(self._index[index]), self._starts[index])

    @cached_property
    def content_hashes(self) -> list[str]:
        """Of the whole and the beginning of the part."""
        whole = self.source.content_hashes
        return [hash_bytes(f"{whole[index]}#{start}".encode()) for index, start in zip(self._index, self._starts, strict=True)]

    @cached_property
    def splits(self) -> list[Split]:
        """Those of the whole files, so that no part of one is in both."""
        return [self.source.splits[index] for index in self._index]
