"""Mask schedules and the distribution of mask ratios in training."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from jielong.config.registry import Config
from jielong.config.sampling import Schedule
from jielong.core.rng import PerSampleRNG


def masked_share(progress: float, schedule: Schedule) -> float:
    """Fraction of tokens still masked when a fraction ``progress`` of the steps is done: 1 at 0, 0 at 1.

    cosine: ``cos(pi r / 2)`` (MaskGIT, eq. 3); arccos: ``2 arccos(r) / pi``; linear: ``1 - r``; square: ``1 - r^2``; cubic: ``1 - r^3``
    (the concave schedules of MaskGIT's table 3: few tokens first).
    """
    if schedule == "cosine":
        return math.cos(math.pi / 2 * progress)
    if schedule == "arccos":
        return 2 / math.pi * math.acos(progress)
    return 1.0 - progress ** {"linear": 1, "square": 2, "cubic": 3}[schedule]


def progress_at(share: float, schedule: Schedule) -> float:
    """The inverse of :func:`masked_share`."""
    if schedule == "cosine":
        return 2 / math.pi * math.acos(share)
    if schedule == "arccos":
        return math.cos(math.pi / 2 * share)
    return float((1.0 - share) ** (1 / {"linear": 1, "square": 2, "cubic": 3}[schedule]))


class Ratio(Config):
    """The distribution of mask ratios in training.

    Attributes:
        kind: ``schedule``: the order's schedule at uniform progress (MaskGIT); ``truncated_normal``: mostly near 1 (MAR, arXiv 2406.11838).
        low: The lowest ratio; by default 0 for ``schedule``, 0.7 for ``truncated_normal`` (MAR). GIVT's ``cos(pi u / 2)`` with ``u`` up to
            0.7 is the cosine schedule from 0.454 on.
        high: The highest ratio.
        mean: Mean of the normal distribution before truncation.
        std: Its standard deviation.
        per: A ratio per ``item``, or one per ``batch``, so that items have equally many known tokens (MAR). By default ``batch`` for
            ``truncated_normal`` and ``item`` for ``schedule``.
    """

    kind: Literal["schedule", "truncated_normal"] = "schedule"
    low: float | None = Field(default=None, ge=0, lt=1)
    high: float = Field(default=1.0, gt=0, le=1)
    mean: float = 1.0
    std: float = Field(default=0.25, gt=0)
    per: Literal["item", "batch"] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Ratio:
        if self.lowest >= self.high:
            raise ValueError(f"low must be below high, but low is {self.lowest} and high {self.high}")
        return self

    @property
    def lowest(self) -> float:
        """``low``, or the default of the kind."""
        return self.low if self.low is not None else 0.7 if self.kind == "truncated_normal" else 0.0

    def draw(self, rng: PerSampleRNG, schedule: Schedule) -> Tensor:
        """Ratios of a batch, ``(B,)``, by inverting the cumulative distribution at a uniform number per item or one for all."""
        shared = self.per == "batch" or (self.per is None and self.kind == "truncated_normal")
        uniform = rng.shared("ratio").uniform().expand(len(rng)) if shared else rng.uniform().cpu()
        if self.kind == "schedule":
            first, last = progress_at(self.high, schedule), progress_at(self.lowest, schedule)
            return torch.tensor([masked_share(first + (last - first) * u, schedule) for u in uniform.tolist()])
        below, above = (torch.special.ndtr(torch.tensor((end - self.mean) / self.std).double()) for end in (self.lowest, self.high))
        standard = torch.special.ndtri(below + (above - below) * uniform.double())
        return (self.mean + self.std * standard).clamp(self.lowest, self.high).float()
