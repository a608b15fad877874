"""Several sets as one: ``prompts?language=en,synthetic-speech``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from jielong.core.json import JSON
from jielong.data.ledger import Ledger
from jielong.data.selection import MARK, chooses, split_name
from jielong.data.source import DataError, Source, class_names
from jielong.data.splits import Split, split_by_content
from jielong.media.kinds.base import Content, kind_of

COMMA = ","
"""Separates the names of joined sets."""
_OUTSIDE_BRACES = re.compile(r",(?![^{}]*\})")  # patterns of files may have commas: shards/{0,1}.tar


def listed(text: str) -> list[str]:
    """The names in ``first,second``; a single one if a path with a comma exists.

    Raises:
        DataError: if a name is empty.
    """
    base = text.partition(MARK)[0]
    if COMMA in base and Path(base).expanduser().exists():
        return [text]
    names = [name.strip() for name in _OUTSIDE_BRACES.split(text)]
    if len(names) > 1 and "" in names:
        raise DataError(f"{text!r} has an empty name beside a comma: write first,second")
    return names


def joined_name(names: Sequence[str]) -> str:
    """``first,second``, the name that opens several sets.

    Raises:
        DataError: if the list is empty, has a name twice, or a name with a comma.
    """
    if not names or not all(names):
        raise DataError("a list of sets needs a name or a path in every place, such as [prompts, synthetic-speech]")
    if len(names) > 1 and (split := [name for name in names if len(_OUTSIDE_BRACES.split(name)) > 1]):
        raise DataError(f"{split[0]!r} has a comma, which separates sets: list each set by itself, and write %2C for a comma in a value")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise DataError(f"the set {twice[0]!r} is given twice; once is enough")
    return COMMA.join(names)


def _pixels(size: float | Sequence[int]) -> float:
    """Pixels of a size, a side or height and width; the largest is used. Of other numbers the largest, too."""
    return math.prod(size) if isinstance(size, Sequence) else size**2


class Joined(Source):
    """The items of several sources, one source after the other.

    Declared splits are kept; other items are in the split of an equal item of another set, or where their set has them. The key of an item
    starts with the name of its set, which is also in the column ``set``; a column that a set lacks is None. ``speaker`` also holds what
    other sets call ``voice``. Classes of the same name are one class. Pictures are used at the largest size, in colour if any are.

    Args:
        sources: At least one.
        names: Their names.

    Raises:
        DataError: if they are not of one kind, or an item is in two of them.
    """

    def __init__(self, sources: Sequence[Source], names: Sequence[str]) -> None:
        self.sources, self.name = list(sources), joined_name(names)
        if len({source.kind for source in sources}) > 1:
            listing = ", ".join(f"{name} ({source.kind})" for name, source in zip(names, sources, strict=True))
            raise DataError(f"sets of one kind of media can be joined, not {listing}")
        self.kind, self.writing = sources[0].kind, any(source.writing for source in sources)
        self.judge = sources[0].judge if len({source.judge for source in sources}) == 1 else None
        self._refuse_twice(names)
        usual = kind_of(self.kind).native
        sizes = {key: value for key, value in usual.items() if key != "channels"}
        self.native = {key: max((source.native.get(key, value) for source in sources), key=_pixels) for key, value in sizes.items()}
        self.channels = max(source.channels or usual["channels"] for source in sources)
        if any(source.classes for source in sources):
            self.classes = list(dict.fromkeys(chain.from_iterable(source.classes or class_names(source.items) for source in sources)))
        columns = {"set": None} | {column: None for source in sources for item in source.items for column in item.extra}
        self.items, self.unused = [], Ledger()
        self._places: list[tuple[int, int]] = []  # (source, index in it)
        for number, (source, name) in enumerate(zip(sources, names, strict=True)):
            self.unused += source.unused.under(name)
            for index, item in enumerate(source.items):
                extra: JSON = {**columns, "set": name, **item.extra}
                if "speaker" in columns and extra["speaker"] is None:
                    extra["speaker"] = extra.get("voice")
                self.items.append(replace(item, key=f"{name}:{item.key}", extra=extra))
                self._places.append((number, index))

    def _refuse_twice(self, names: Sequence[str]) -> None:
        seen: dict[tuple[str, str], int] = {}
        for number, (source, name) in enumerate(zip(self.sources, names, strict=True)):
            base = split_name(name)[0] if chooses(name) else name
            for item in source.items:
                before = seen.setdefault((base, item.key), number)
                if before != number:
                    raise DataError(f"{names[before]} and {name} both hold {item.key!r}: take the set once, {base}{MARK}column=a&column=b")

    def blob(self, index: int) -> bytes:
        """The encoded bytes of one item."""
        source, place = self._places[index]
        return self.sources[source].blob(place)

    @cached_property
    def content_hashes(self) -> list[str]:
        """Those of each source."""
        return [self.sources[source].content_hashes[place] for source, place in self._places]

    @cached_property
    def splits(self) -> list[Split]:
        """Those of each source, but items of sources that declare none follow equal items of those that do, and training ones."""
        declared = [self.sources[source].declares_splits for source, _ in self._places]
        found = [self.sources[source].splits[place] for source, place in self._places]
        if all(declared):
            return found
        sides: dict[bool, dict[str, Split]] = {True: {}, False: {}}
        for content, side, known in zip(self.content_hashes, found, declared, strict=True):
            sides[known][content] = "train" if side == "train" else sides[known].get(content, side)
        by_content = sides[False] | sides[True]
        if not any(declared) and len(set(by_content.values())) < 2:  # sets too small to hold anything out, each by itself
            return split_by_content(self.content_hashes)
        return [found[i] if declared[i] else by_content[content] for i, content in enumerate(self.content_hashes)]

    def content(self, index: int) -> Content:
        """What its kind decodes."""
        source, place = self._places[index]
        return self.sources[source].content(place)
