"""How long it is to be: seconds, as sines and cosines of many periods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from jielong.conditions.base import Condition, ConditionSettings
from jielong.networks.conditioning import Conditioning

SHORTEST, LONGEST = 0.08, 500.0
"""Seconds: the periods run from one to the other, evenly in their logarithm, so that a frame and a minute can both be told apart."""


def sinusoids(seconds: Tensor, width: int) -> Tensor:
    """``(B,)`` seconds to ``(B, width)``: cosines, then sines, of ``width / 2`` periods."""
    periods = torch.logspace(math.log10(SHORTEST), math.log10(LONGEST), width // 2, dtype=torch.float64, device=seconds.device)
    turns = seconds.double()[:, None] / periods * (2 * math.pi)
    return torch.cat((turns.cos(), turns.sin()), 1).float()


class LengthCondition(Condition):
    """One state, and the pooled vector: a small network's view of the asked length."""

    def __init__(self, width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self.features = 64
        self.network = nn.Sequential(nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width))

    def prepare(self, values: Sequence[float] | Tensor) -> Tensor:
        """Seconds to ``(B,)`` float64."""
        if values is None or isinstance(values, str | int | float):
            raise ValueError("a length condition reads a list of seconds, one an item, such as [2.5]")
        seconds = values.tolist() if isinstance(values, Tensor) else list(values)
        for value in seconds:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"a length is a positive number of seconds, not {value!r}")
        return torch.tensor(seconds, dtype=torch.float64)

    def embed(self, prepared: Tensor) -> Conditioning:
        """``(B,)`` seconds to one state each, ``(B, 1, width)``."""
        vectors = self.network(sinusoids(prepared.to(self.null.device), self.features))
        return Conditioning(vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device), vectors)

    def describe(self) -> dict[str, Any]:
        """The periods."""
        return {"unit": "seconds", "periods": [SHORTEST, LONGEST]}


class Length(ConditionSettings, family="condition", name="length"):
    """Settings: ``width`` of the state, ``cfg_dropout`` share of lengths replaced by the null in training."""

    reads: ClassVar[str] = "seconds"
    width: int = Field(default=256, ge=1)
    cfg_dropout: float = Field(default=0.1, ge=0, lt=1)

    def build(self, classes: Sequence[str] = ()) -> LengthCondition:
        """The condition; classes are not used."""
        return LengthCondition(self.width, self.cfg_dropout)
