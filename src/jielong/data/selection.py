"""Selections of a set by its columns: ``prompts?language=en``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from urllib.parse import parse_qsl

from jielong.data.ledger import Cause, Ledger
from jielong.data.source import DataError, Source
from jielong.data.splits import Split
from jielong.media.kinds.base import Content

MARK = "?"
"""Separates a set's name from the selection."""


def chooses(name: str) -> bool:
    """Whether a name has a selection (and is not a pattern of files)."""
    return "=" in name.partition(MARK)[2]


def split_name(name: str) -> tuple[str, dict[str, list[str]]]:
    """``set?column=value&column=value`` to the set's name and the values selected by column.

    Raises:
        DataError: if the selection is malformed.
    """
    base, _, choice = name.partition(MARK)
    try:
        pairs = parse_qsl(choice, strict_parsing=True)
    except ValueError:
        raise DataError(f"{name!r} chooses items of {base!r}, but not by columns: write {base}?column=value") from None
    chosen: dict[str, list[str]] = {}
    for column, value in pairs:
        chosen.setdefault(column, []).append(value)
    return base, chosen


class Subset(Source):
    """Some items of a source.

    Args:
        source: The whole set.
        index: Those items.
        name: For messages.
    """

    def __init__(self, source: Source, index: Sequence[int], name: str) -> None:
        self.source, self.name, self._index = source, name, list(index)
        self.items = [source.items[index] for index in self._index]
        self.unused, self.kind, self.classes = source.unused, source.kind, source.classes
        self.writing, self.native, self.channels, self.judge = source.writing, source.native, source.channels, source.judge
        self.drawn = source.drawn

    def blob(self, index: int) -> bytes:
        """The encoded bytes of one item."""
        return self.source.blob(self._index[index])

    @cached_property
    def content_hashes(self) -> list[str]:
        """Those of the whole set."""
        return [self.source.content_hashes[index] for index in self._index]

    def content(self, index: int) -> Content:
        """What its kind decodes."""
        return self.source.content(self._index[index])


class Deduplicated(Subset):
    """The items of a source without those that have the same bytes as another one; the first by key is used.

    The others are in :attr:`unused`. Items are in the split that they have in the source.
    """

    def __init__(self, source: Source) -> None:
        first: dict[str, int] = {}
        for index in sorted(range(len(source.items)), key=lambda index: source.items[index].key):
            first.setdefault(source.content_hashes[index], index)
        super().__init__(source, sorted(first.values()), source.name)
        repeated = Ledger()
        for index, (item, content) in enumerate(zip(source.items, source.content_hashes, strict=True)):
            if first[content] != index:
                same = source.items[first[content]].key
                repeated.add(Cause.REPEATED, item.key, f"{item.key} has the same content as {same}, and data.deduplicate is set")
        self.unused = source.unused + repeated

    @cached_property
    def splits(self) -> list[Split]:
        """Those of the whole set."""
        return [self.source.splits[index] for index in self._index]


class Selected(Subset):
    """The items of a source whose columns have the selected values.

    Args:
        source: The whole set.
        chosen: Values by column.

    Raises:
        DataError: if there is no such column, or no such item.
    """

    def __init__(self, source: Source, chosen: Mapping[str, Sequence[str]]) -> None:
        columns = sorted({column for item in source.items for column in item.extra})
        if unknown := [column for column in chosen if column not in columns]:
            raise DataError(f"{source.name} has no column {unknown[0]!r} to choose by; it has {', '.join(columns) or 'none'}")
        fits = [
            index
            for index, item in enumerate(source.items)
            if all(str(item.extra.get(column)) in values for column, values in chosen.items())
        ]
        words = "&".join(f"{column}={value}" for column, values in chosen.items() for value in values)
        if not fits:
            values = {column: sorted({str(item.extra.get(column)) for item in source.items})[:10] for column in chosen}
            seen = "; ".join(f"{column}: {', '.join(each)}" for column, each in values.items())
            raise DataError(f"{source.name} has no item with {words}; its columns hold, among others, {seen}")
        super().__init__(source, fits, f"{source.name}{MARK}{words}")
