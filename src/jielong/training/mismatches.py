"""Conditions of other items, for losses that compare right and wrong pairs (matching-aware: GAN-CLS, arXiv 1605.05396).

An item's wrong condition is drawn by the item's own random stream among all different conditions of the training set, so it does not depend
on the rest of a batch, and it is never one of the item's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jielong.conditions.base import ConditionSettings
from jielong.core.rng import PerSampleRNG
from jielong.core.text import shown
from jielong.data.sets import Batch, MediaSet


@dataclass(frozen=True)
class Wrong:
    """Wrong conditions of a batch, ``K`` an item; where ``paired``, ``(B, K)`` bool, is false there is none, but the item's."""

    values: list[object]
    paired: Tensor


class Mismatches:
    """Draws wrong conditions from a training set, ``count`` an item."""

    def __init__(self, data: MediaSet, settings: ConditionSettings, count: int = 1) -> None:
        self.data, self.settings, self.count = data, settings, count
        self._rows = {key: row for row, key in enumerate(data.keys)}

    @cached_property
    def _values(self) -> Sequence[object]:
        """The condition of every item."""
        rows = range(len(self.data))
        return self.settings.from_batch(self.data.tokenised(rows, torch.empty(len(rows), 0)), self.data.medium)

    @cached_property
    def different(self) -> dict[str, object]:
        """All different conditions of the set by their text; empty ones are left out."""
        return {str(value): value for value in self._values if value != ""}

    def right(self, key: str, value: object) -> set[str]:
        """What is not wrong for an item: its condition, and its other captions."""
        return {str(value), *map(str, self.data.captions_of_items[self._rows[key]])}

    def draw(self, batch: Batch, values: Sequence[object], rng: PerSampleRNG) -> Wrong:
        """Wrong conditions of the items of a batch, of which ``values`` are the right ones."""
        names, wrong = list(self.different), list[object]()
        starts = (rng.draws("mismatch", torch.device("cpu")).uniform(self.count).double() * len(names)).long().tolist()
        paired = torch.zeros(len(values), self.count, dtype=torch.bool)
        for row, (key, value) in enumerate(zip(batch.keys, values, strict=True)):
            right = self.right(key, value)
            for place, start in enumerate(starts[row]):
                # As many as there are right ones, and one more: the first that is not right.
                candidates = (names[(start + step) % len(names)] for step in range(len(right) + 1) if names)
                name = None if value == "" else next((each for each in candidates if each not in right), None)
                wrong.append(value if name is None else self.different[name])
                paired[row, place] = name is not None
        return Wrong(wrong, paired)

    def unpaired(self) -> str | None:
        """A sentence on the items that have no wrong condition: those without a condition, and those of which every condition is right."""
        names = set(self.different)
        found = [key for key, value in zip(self.data.keys, self._values, strict=True) if value == "" or not names - self.right(key, value)]
        if not found:
            return None
        first = ", ".join(map(shown, found[:3])) + (", ..." if len(found) > 3 else "")
        return (
            f"{len(found):,} of {len(self.data):,} items ({first}) have no condition, or the set has none that differs from theirs: "
            "the head's loss of mismatched conditions leaves them out"
        )
