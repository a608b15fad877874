"""What a kind of media finds out about its items before any training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from jielong.core.medium import Medium


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of some numbers."""

    min: float
    median: float
    max: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Zeros without any number."""
        return Spread(min(values), median(values), max(values)) if values else Spread(0, 0, 0)

    def __str__(self) -> str:
        return f"{self.min:.4g} / {self.median:.4g} / {self.max:.4g} (min, median, max)"


Key = TypeVar("Key")


def counted(counts: Mapping[Key, int], most: int = 12) -> str:
    """``a: 3, b: 1``, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{key}: {number}" for key, number in ordered[:most]) + (", ..." if len(ordered) > most else "")


def some(names: Sequence[str], most: int = 3) -> str:
    """``5 (a, b, c, ...)``: the number of names and the first of them."""
    return f"{len(names):,} ({', '.join([*names[:most], *['...'] * (len(names) > most)])})"


class Inspector(ABC):
    """Looks at the items of a set one by one."""

    @abstractmethod
    def look(self, content: object, name: str, decode: bool) -> list[str]:
        """Why an item may not be what was meant; empty for most.

        Args:
            content: As of :meth:`~jielong.media.kinds.base.MediaKind.decode`.
            name: Of the item.
            decode: Whether to decode it, or to read its header alone.

        Raises:
            ValueError: if it cannot be used.
        """

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """What was found, by name; values are numbers, :class:`Spread` or dictionaries of counts."""

    def rows(self) -> list[tuple[str, str]]:
        """The facts as lines of a table."""
        return [(name, _written(value)) for name, value in self.facts().items()]

    def perceptual_hashes(self) -> Mapping[str, int] | str:
        """Perceptual hash of 64 bits, by name, of items that were decoded and are not uniform; or why there is none."""
        return "looked for in pictures only"

    @abstractmethod
    def preview_medium(self) -> Medium:
        """The medium in which items are shown."""


def _written(fact: object) -> str:
    if isinstance(fact, dict):
        return counted(fact)
    if isinstance(fact, float):
        return f"{fact:,.0f}" if abs(fact) >= 1000 else f"{fact:.4g}"
    return str(fact)
