"""The condition of each branch of guidance: the items' own, what they are compared with, and none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from jielong.conditions.base import Condition
from jielong.core.rng import Draws, PerSampleRNG
from jielong.networks.conditioning import Conditioning


@dataclass(frozen=True)
class Branches:
    """Makes the conditions of a batch.

    Attributes:
        condition: The generator's.
        rows: The number of each item.
        seed: The other number that random numbers of a condition depend on.
    """

    condition: Condition
    rows: Sequence[int]
    seed: int

    def of(self, conditions: Sequence[object] | None, negatives: Sequence[object | None] | None, count: int) -> Conditioning:
        """The conditions of ``count`` branches, one after the other, ``(count B, L, W)``.

        Args:
            conditions: A raw condition per item; ``None`` for none, which is one branch.
            negatives: A raw condition per item in place of the null in guidance, ``None`` for the null; ``None`` for none at all.
            count: 1 without guidance, 2 with it, and 3 with a scale of its own for a source picture.
        """
        if conditions is None:
            return self.condition.unconditional(len(self.rows))
        found = [self._with(conditions)]
        if count > 1:
            found.append(self._compared(conditions, negatives))
        if count > 2:
            found.append(self.condition.unconditional(len(self.rows)))
        return Conditioning.cat(*found)

    def _with(self, values: Sequence[object]) -> Conditioning:
        given: Conditioning = self.condition(self.condition.noised(self.condition.prepare(values), self._draws()))
        return given

    def _draws(self) -> Draws:
        """Anew each time: all branches have the same noise."""
        return PerSampleRNG(self.seed, self.rows).draws("condition")

    def _compared(self, conditions: Sequence[object], negatives: Sequence[object | None] | None) -> Conditioning:
        """What guidance leads away from: an item's negative, or what the condition compares it with."""
        if negatives is None:
            return self.condition.compared(conditions, self._draws())
        against = self._with([own if other is None else other for own, other in zip(conditions, negatives, strict=True)])
        absent = torch.tensor([value is None for value in negatives])
        if not bool(absent.any()):
            return against
        batch = torch.arange(len(negatives))
        both = Conditioning.cat(against, self.condition.compared(conditions, self._draws()))
        return both.rows(torch.where(absent, batch + len(batch), batch))
