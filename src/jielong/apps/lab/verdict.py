"""Verdict of a claim from the confidence intervals of its checks.

With intervals at level ``statistics.level(number of checks)``, the probability of a false "holds" and that of a false "does not hold" are
at most 5% each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from jielong.apps.lab.statistics import Estimate


class Verdict(StrEnum):
    """Verdict of a check or a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Check:
    """A figure and its bound.

    Attributes:
        says: The hypothesis in words.
        estimate: The figure with its interval.
        side: Side of the bound on which the figure must lie.
        bound: Bound fixed in advance.
    """

    says: str
    estimate: Estimate
    side: Literal["above", "below"]
    bound: float

    @property
    def verdict(self) -> Verdict:
        """``holds`` if the whole interval satisfies the bound, ``does not hold`` if none of it does, else ``cannot tell``."""
        low, high, bound = self.estimate.low, self.estimate.high, self.bound
        keeps, breaks = (low > bound, high <= bound) if self.side == "above" else (high < bound, low >= bound)
        return Verdict.HOLDS if keeps else Verdict.FAILS if breaks else Verdict.UNKNOWN

    def to_json(self) -> dict[str, object]:
        """The check and its verdict as plain data."""
        return {"says": self.says, **self.estimate.to_json(), "must_be": self.side, "bound": self.bound, "verdict": str(self.verdict)}


def conclude(checks: Sequence[Check]) -> Verdict:
    """Verdict of a claim: ``holds`` if all checks hold, ``does not hold`` if one does not, else ``cannot tell``.

    Raises:
        ValueError: if there is no check.
    """
    if not checks:
        raise ValueError("a verdict needs at least one check")
    verdicts = [check.verdict for check in checks]
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    return Verdict.UNKNOWN if Verdict.UNKNOWN in verdicts else Verdict.HOLDS
