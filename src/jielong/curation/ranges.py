"""Limits of measured values, and what is said of a value beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import model_validator

from jielong.config.registry import Config

Values = dict[str, float | None]
"""Measured values by name; ``None``: there is nothing to measure, such as the agreement of a clip without a caption."""


class Range(Config):
    """Values that are kept; both ends are included.

    Attributes:
        min: The least; no bound by default.
        max: The greatest; no bound by default.
    """

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both, such as {min: 0.5}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}, so that nothing would be kept")
        return self


@dataclass(frozen=True)
class Measure:
    """A value that is measured of a file or a clip.

    Attributes:
        name: In limits, records and reports.
        unit: Empty for plain numbers.
        about: What it is.
        low: The reason for which less than ``min`` is dropped.
        high: The reason for which more than ``max`` is dropped.
        log: Whether its histogram has bins of equal ratios.
    """

    name: str
    unit: str
    about: str
    low: str
    high: str
    log: bool = False

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.4g} {self.unit}".strip()


@dataclass(frozen=True)
class Fault:
    """Why a file or a clip is dropped.

    Attributes:
        stage: The stage's name.
        reason: In a few words, the same for all that are dropped for it.
        detail: For this one: the value and the limit, or the error.
    """

    stage: str
    reason: str
    detail: str


def beyond(stage: str, measures: tuple[Measure, ...], limits: Mapping[str, Range], values: Values) -> Fault | None:
    """The first value that lies outside of its limits, in the order of the measures; ``None`` if all are kept.

    Raises:
        KeyError: if a value with limits was not measured.
    """
    for measure in measures:
        limit = limits.get(measure.name)
        if limit is None:
            continue
        value = values[measure.name]
        if value is None:
            continue
        if limit.min is not None and value < limit.min:
            return Fault(stage, measure.low, f"{measure.name} {measure.text(value)}, below {measure.text(limit.min)}")
        if limit.max is not None and value > limit.max:
            return Fault(stage, measure.high, f"{measure.name} {measure.text(value)}, above {measure.text(limit.max)}")
    return None
