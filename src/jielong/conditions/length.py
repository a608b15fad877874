"""Duration conditions: seconds as sinusoids of many periods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.inputs import ConditionInput, HeldoutItems, InputError, check_sound
from jielong.core.medium import ALONG_TIME, Axes
from jielong.networks.conditioning import Conditioning

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet

SHORTEST, LONGEST = 0.08, 500.0
"""Shortest and longest period in seconds; logarithmically spaced, so that both a frame and a minute are resolved."""


class SecondsInput(ConditionInput):
    """A duration in seconds, which generated items have exactly."""

    name = "seconds"
    noun = "a duration"
    help = "Duration in seconds; repeatable."
    metavar = "FLOAT"
    sets_duration = True

    def from_batch(self, batch: Batch, medium: Medium) -> list[float] | None:
        """The items' durations."""
        return None if batch.lengths is None else (batch.lengths.double() / medium.sample_rate).tolist()

    def from_heldout(self, items: HeldoutItems) -> list[float] | None:
        """The recordings' durations, scaled and at most the model's longest."""
        if items.batch.lengths is None:
            return None
        scaled = [items.duration_scale * length for length in items.batch.lengths.tolist()]
        return [min(items.medium.frames, length) / items.medium.sample_rate for length in scaled]

    def check(self, data: MediaSet, source: str) -> None:
        """There must be sound."""
        check_sound(self, data, source)

    def listed(self, value: object) -> list[float]:
        """Numbers of seconds."""
        values = super().listed(value.tolist() if isinstance(value, Tensor) else value)
        seconds = [each for each in values if isinstance(each, int | float)]
        if len(seconds) < len(values):
            raise InputError(f"{{seconds}}: expected numbers of seconds, not {value!r}", [self])
        return seconds

    def parse(self, text: str) -> float:
        """A number of seconds."""
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number of seconds, such as 2.5") from None

    def from_json(self, value: object) -> object:
        """A number of seconds."""
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else super().from_json(value)


SECONDS = SecondsInput()


def sinusoids(seconds: Tensor, width: int) -> Tensor:
    """``(B,)`` seconds to ``(B, width)``: cosines, then sines, of ``width / 2`` periods."""
    periods = torch.logspace(math.log10(SHORTEST), math.log10(LONGEST), width // 2, dtype=torch.float64, device=seconds.device)
    turns = seconds.double()[:, None] / periods * (2 * math.pi)
    return torch.cat((turns.cos(), turns.sin()), 1).float()


class LengthCondition(Condition[float, Tensor]):
    """One state: a small network of the duration's sinusoids."""

    def __init__(self, width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self.features = 64
        self.network = nn.Sequential(nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width))

    def prepare(self, values: Sequence[float]) -> Tensor:
        """Seconds to ``(B,)`` float64."""
        if isinstance(values, str | int | float):
            raise ValueError("a length condition reads a list of seconds, one per item, such as [2.5]")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"a duration is a positive number of seconds, not {value!r}")
        return torch.tensor(list(values), dtype=torch.float64)

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B,)`` seconds to one state each, ``(B, 1, width)``."""
        return Conditioning.single(self.network(sinusoids(prepared.to(self.null.device), self.features)))

    def describe(self) -> dict[str, object]:
        """The periods."""
        return {"unit": "seconds", "periods": [SHORTEST, LONGEST]}


class Length(ConditionSettings, family="condition", name="length"):
    """Settings of :class:`ConditionSettings`."""

    axes: ClassVar[Axes | None] = ALONG_TIME
    input: ClassVar[ConditionInput] = SECONDS
    one_vector: ClassVar[bool] = True

    def build(self, context: BuildContext = NO_CONTEXT) -> LengthCondition:
        """The condition."""
        return LengthCondition(self.width, self.cfg_dropout)
