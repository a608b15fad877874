"""Masked order: draw everything at once, keep only a few, cover the rest again (MaskGIT, arXiv 2202.04200)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from jielong.config.sampling import Schedule
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.base import Embed, Order, OrderSettings, Step, TrainingView
from jielong.orders.ratio import Ratio, masked_share


class Masked(OrderSettings, family="order", name="masked"):
    """Settings of the masked order.

    Attributes:
        schedule: How the fraction of masked tokens falls over the steps, and the distribution of mask ratios in training.
        steps: Sampling steps, unless ``steps`` is given for a sample.
        choose: Keep the most ``confidence``-ranked draws (with annealed Gumbel noise), or ``random`` positions, chosen before anything is
            drawn. Densities of continuous tokens at several positions do not compare: choose at random there (MAR).
        choice_temperature: Scale of the Gumbel noise on confidence at the first step, falling linearly to 0.
        ratio: The distribution of mask ratios in training.
    """

    schedule: Schedule = "cosine"
    steps: int = Field(default=8, ge=1)
    choose: Literal["confidence", "random"] = "confidence"
    choice_temperature: float = Field(default=4.5, ge=0)
    ratio: Ratio = Ratio()

    @property
    def random_positions(self) -> bool:
        """See :attr:`OrderSettings.random_positions`."""
        return self.choose == "random"

    def build(self) -> MaskedOrder:
        """The order."""
        return MaskedOrder(self)


class MaskedOrder(Order):
    """One block of everything, revealed a few positions a step.

    Args:
        settings: See :class:`Masked`.
    """

    shifted = False

    def __init__(self, settings: Masked = Masked()) -> None:
        self.schedule, self.count, self.ratio = settings.schedule, settings.steps, settings.ratio
        self.choose, self.choice_temperature = settings.choose, settings.choice_temperature

    def blocks(self, layout: Layout) -> Tensor:
        """All zeros."""
        return torch.zeros(layout.positions, dtype=torch.long)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """Known tokens, and the mask embedding elsewhere."""
        shown = known[:, start:stop, None]
        vectors = embed(values[:, start:stop])
        return torch.where(shown, vectors, placeholder.to(vectors.dtype))

    def view(self, layout: Layout, rng: PerSampleRNG) -> TrainingView:
        """Mask ``ceil(ratio N)`` random positions (MaskGIT, section 3.1; MAR, section 3.4)."""
        return self.view_of(layout, rng, torch.ones(len(rng), layout.positions, dtype=torch.bool))

    def view_of(self, layout: Layout, rng: PerSampleRNG, real: Tensor) -> TrainingView:
        """Mask such a share of the positions that each item has."""
        have = real.sum(1)
        count = (self.ratio.draw(rng, self.schedule) * have).ceil().clamp(min=torch.ones_like(have), max=have)
        rank = rng.uniform(layout.positions).cpu().masked_fill(~real, torch.inf).argsort(1).argsort(1)
        masked = rank < count[:, None]
        return TrainingView(known=~masked, loss_mask=masked)

    def steps(self, unknown: int, steps: int | None, schedule: Schedule | None = None) -> Iterator[Step]:
        """Steps whose remaining masks follow the schedule; every step reveals at least one token, the last reveals all."""
        count, schedule = min(steps or self.count, unknown), schedule or self.schedule
        hidden = unknown
        for index in range(count):
            left = count - index - 1  # at least so many must stay hidden, one for each step to come
            # The hair keeps rounding errors of the share from revealing a token early: 100 (1 - 0.9) is 9.99...8.
            wanted = math.floor(unknown * masked_share((index + 1) / count, schedule) + 1e-9)
            before, hidden = hidden, max(left, min(hidden - 1, wanted)) if left else 0
            yield Step(index=index, count=count, hidden_before=before, hidden_after=hidden)

    def queue(self, unknown: Tensor, rng: PerSampleRNG) -> Tensor | None:
        """A random permutation of the unknown positions of each item, drawn once (MAR); ``None`` where confidence will choose."""
        if self.choose == "confidence":
            return None
        count = int(unknown[0].sum())
        return rng.uniform(unknown.shape[1]).masked_fill(~unknown, torch.inf).argsort(dim=1, stable=True)[:, :count]

    def reveal(self, step: Step, unknown: Tensor, confidence: Tensor | None, rng: PerSampleRNG) -> Tensor:
        """Keep the draws of highest confidence, or at random where the head has none (MAR) or the order says so."""
        keep = unknown.sum(1, keepdim=True) - step.hidden_after
        gumbel = rng.gumbel(unknown.shape[1])
        score = gumbel
        if self.choose == "confidence" and confidence is not None:
            # Noise on the log-probability, annealed: MaskGIT's released sampler.
            score = confidence + self.choice_temperature * (1 - step.progress) * gumbel
        rank = score.masked_fill(~unknown, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1)
        return unknown & (rank < keep)
