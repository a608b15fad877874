"""Where items come from: the interface of folders, shards, tables and idx files to :class:`~jielong.data.sets.MediaSet`."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from jielong.core.json import JSON
from jielong.data.content_hash import hash_bytes
from jielong.data.ledger import Cause, Ledger
from jielong.data.splits import Split, declared_split, split_by_content
from jielong.media.kinds.base import Content

_WHOLE = re.compile(r"-?[0-9]{1,18}")


class DataError(ValueError):
    """Data cannot be used; the text names the place, what is wrong and what would be right."""


@dataclass(frozen=True)
class Item:
    """One undecoded item: its key, captions, class name, declared split and other columns."""

    key: str
    captions: tuple[str, ...] = ()
    label: str | None = None
    split: str | None = None
    extra: JSON = field(default_factory=dict)

    @property
    def caption(self) -> str | None:
        """The first caption, which is used wherever none is drawn."""
        return self.captions[0] if self.captions else None


class Source(ABC):
    """A list of items of one kind of media and the bytes of each.

    Attributes:
        name: For messages.
        items: Usable items.
        unused: What was found and is not used.
        kind: Name of the kind of media.
        classes: Class names in order; by default those of :func:`class_names`.
        writing: Whether its pictures are known to hold letters, digits or signs, which a flip makes wrong.
        native: Keys of the `data:` section at which it is used unless others are given.
        channels: Of its items; ``None`` if it says nothing, so that those of its kind are used.
        judge: Name of the judge that reads what its items show (:mod:`jielong.evaluation.judges`); ``None`` if there is none.
        drawn: Whether its items are drawn when they are read, so many that their tokens are not computed ahead.
    """

    name: str
    items: list[Item]
    unused: Ledger
    kind: str = "image"
    classes: list[str] | None = None
    writing: bool = False
    native: Mapping[str, float | Sequence[int]] = {}
    channels: int | None = None
    judge: str | None = None
    drawn: bool = False

    @property
    def broken(self) -> dict[str, str]:
        """What cannot be read, and why."""
        return self.unused.reasons(Cause.BROKEN)

    @abstractmethod
    def blob(self, index: int) -> bytes:
        """The encoded bytes of one item."""

    @cached_property
    def content_hashes(self) -> list[str]:
        """A hash of the content of every item (:mod:`jielong.data.content_hash`)."""
        return [hash_bytes(self.blob(index)) for index in range(len(self.items))]

    @property
    def declares_splits(self) -> bool:
        """Whether the split of any item is declared."""
        return any(item.split for item in self.items)

    @cached_property
    def splits(self) -> list[Split]:
        """The split of every item: as declared, or by content where none is declared."""
        if self.declares_splits:
            return [declared_split(item.split) for item in self.items]
        return split_by_content(self.content_hashes)

    def identity(self, indices: Sequence[int]) -> str:
        """A digest of the content of those items."""
        return digest(self.content_hashes[index] for index in indices)

    def content(self, index: int) -> Content:
        """What its kind decodes: the bytes, unless the source holds something better."""
        return self.blob(index)


def class_names(items: Iterable[Item]) -> list[str]:
    """The labels of items, each once: in the order of numbers where all of them are whole numbers, otherwise of letters."""
    labels = {item.label for item in items if item.label is not None}
    if all(_WHOLE.fullmatch(label) for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of a sequence of strings, each with its length, so that no two sequences collide by concatenation."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()
