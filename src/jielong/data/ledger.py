"""What was found in a data set and is not used: the cause, the name and the reason of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from jielong.core.json import printable

NAMED = 3
"""Names of each cause that a line of text gives."""


class Cause(StrEnum):
    """Why something found is not used."""

    BROKEN = "broken"
    LINK = "link"
    SPECIAL = "not a regular file"
    ENDING = "unknown ending"
    OTHER = "other kind of media"
    UNLISTED = "unlisted"
    OUTSIDE = "outside of the splits"
    MISSING = "missing"
    ORPHAN = "caption without an item"
    WORDS = "unreadable caption"
    ROW = "bad row"
    NO_ITEM = "no item"
    SPARE = "further member"
    LOST = "lost rows"
    LONG = "too long"
    SHORT = "too short"
    UNCONDITIONED = "no caption or class"
    UNREADABLE = "caption that the model cannot read"
    REPEATED = "repeated"


@dataclass(frozen=True)
class Unused:
    """One file, sample or row that is not used, or ``count`` rows in one."""

    cause: Cause
    name: str
    reason: str
    count: int = 1


class Ledger:
    """Entries of :class:`Unused`, in the order in which they were found; its length is the number of files, samples and rows."""

    def __init__(self, entries: Iterable[Unused] = ()) -> None:
        self.entries = list(entries)

    def add(self, cause: Cause, name: str, reason: str, count: int = 1) -> None:
        """Record an entry; characters that cannot be written as UTF-8 are escaped."""
        self.entries.append(Unused(cause, printable(name), printable(reason), count))

    def __iter__(self) -> Iterator[Unused]:
        return iter(self.entries)

    def __len__(self) -> int:
        return sum(entry.count for entry in self.entries)

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger([*self.entries, *other.entries])

    def under(self, name: str) -> Ledger:
        """The entries with ``name:`` before theirs."""
        return Ledger(replace(entry, name=f"{name}:{entry.name}") for entry in self.entries)

    def by_cause(self) -> dict[Cause, list[Unused]]:
        """The entries of each cause that occurs, in the order of :class:`Cause`."""
        found = {cause: [entry for entry in self.entries if entry.cause == cause] for cause in Cause}
        return {cause: entries for cause, entries in found.items() if entries}

    def reasons(self, cause: Cause) -> dict[str, str]:
        """The reason by name, of one cause."""
        return {entry.name: entry.reason for entry in self.entries if entry.cause == cause}

    def counts(self) -> str:
        """``2 broken (a.png, b.png), 1 link (c.png)``."""
        return ", ".join(f"{_total(entries):,} {cause} ({names(entries)})" for cause, entries in self.by_cause().items())

    def explained(self) -> str:
        """What an error adds that no item is left: the counts and the first reasons; empty without entries."""
        return f": {self.counts()}. {'; '.join(entry.reason for entry in self.entries[:NAMED])}" if self.entries else ""

    def rows(self) -> list[tuple[str, str]]:
        """A row of a table for each cause: the number, and the first names."""
        return [(str(cause), f"{_total(entries):,}: {names(entries)}") for cause, entries in self.by_cause().items()]

    def as_dict(self) -> dict[str, object]:
        """By cause, the number and the reason by name."""
        return {str(cause): {"count": _total(entries), "reasons": self.reasons(cause)} for cause, entries in self.by_cause().items()}


def names(entries: list[Unused]) -> str:
    """The first names, and an ellipsis if there are more."""
    return ", ".join([entry.name for entry in entries[:NAMED]] + ["..."] * (len(entries) > NAMED))


def _total(entries: list[Unused]) -> int:
    return sum(entry.count for entry in entries)
