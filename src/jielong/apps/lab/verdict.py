"""From intervals to a verdict, by one rule that knows nothing of what was measured.

A claim is a list of checks, each a bound that a figure must keep. With intervals made at ``statistics.level(number of checks)``, a wrong
"holds" and a wrong "does not hold" each happen at most once in twenty experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from jielong.apps.lab.statistics import Estimate


class Verdict(StrEnum):
    """What an experiment can say of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Check:
    """A figure and the bound it must keep.

    Attributes:
        says: What must be true, in words.
        estimate: The figure with its interval.
        side: On which side of the bound it must lie.
        bound: The bound, fixed before anything is measured.
    """

    says: str
    estimate: Estimate
    side: Literal["above", "below"]
    bound: float

    @property
    def verdict(self) -> Verdict:
        """``holds`` when the whole interval keeps the bound, ``does not hold`` when none of it does, else ``cannot tell``."""
        low, high, bound = self.estimate.low, self.estimate.high, self.bound
        keeps, breaks = (low > bound, high <= bound) if self.side == "above" else (high < bound, low >= bound)
        return Verdict.HOLDS if keeps else Verdict.FAILS if breaks else Verdict.UNKNOWN

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary with the verdict."""
        return {"says": self.says, **self.estimate.to_json(), "must_be": self.side, "bound": self.bound, "verdict": str(self.verdict)}


def conclude(checks: Sequence[Check]) -> Verdict:
    """The verdict on a claim: it holds if every check does, does not if one does not, and otherwise it cannot be told.

    Raises:
        ValueError: if there is no check, since a claim without one cannot fail.
    """
    if not checks:
        raise ValueError("a verdict needs one check at least: a claim that nothing can refute says nothing")
    verdicts = [check.verdict for check in checks]
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    return Verdict.UNKNOWN if Verdict.UNKNOWN in verdicts else Verdict.HOLDS
