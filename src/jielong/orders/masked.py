"""Masked order: draw all tokens, keep the most confident, re-mask the rest (MaskGIT, arXiv 2202.04200)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from jielong.config.sampling import SamplingConfig, Schedule
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.base import Embed, Order, OrderSettings, Step, TrainingView
from jielong.orders.ratio import Ratio, masked_share
from jielong.orders.tasks import Tasks

if TYPE_CHECKING:
    from jielong.heads.base import HeadSettings

NO_CONFIDENCE = (
    "order.masked.choose: confidence keeps the draws of highest probability, and the head {} gives none for its draws: write "
    "order: {{masked: {{choose: random}}}}, or take a head with a likelihood of each token, such as softmax or gaussian_mixture"
)


class Masked(OrderSettings, family="order", name="masked"):
    """Settings of the masked order.

    Attributes:
        schedule: How the fraction of masked tokens falls over the steps, and the distribution of mask ratios in training.
        steps: Sampling steps, unless ``steps`` is given for a sample.
        choose: Keep the draws of highest ``confidence`` (with annealed Gumbel noise), or ``random`` positions, chosen before sampling.
            Densities of continuous tokens at different positions do not compare: choose at random there (MAR).
        choice_temperature: Scale of the Gumbel noise on the confidence: times ``1 - r``, where ``r`` is the fraction of steps done.
        softmax_temperature: Start and end of a factor of the sampling temperature, ``end + (start - end) (1 - r)`` (TiTok, arXiv
            2406.07550: 1.3 and 0.5). The noise on the confidence has the same factor.
        annealed_draws: Multiply the sampling temperature by ``choice_temperature (1 - r)`` too, so that the last step is greedy (TiTok).
        ratio: The distribution of mask ratios in training.
        unmasked_weight: Loss weight of unmasked positions relative to masked ones (TiTok: 0.1).
        tasks: Regions that are known in training and never predicted, such as the first frames of a clip (MAGVIT, arXiv 2212.05199), by
            their weights; none by default. Masks are of the rest.
    """

    schedule: Schedule = "cosine"
    steps: int = Field(default=8, ge=1)
    choose: Literal["confidence", "random"] = "confidence"
    choice_temperature: float = Field(default=4.5, ge=0)
    softmax_temperature: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.0)
    annealed_draws: bool = False
    ratio: Ratio = Ratio()
    unmasked_weight: float = Field(default=0.0, ge=0)
    tasks: Tasks | None = None

    @property
    def random_positions(self) -> bool:
        """See :attr:`OrderSettings.random_positions`."""
        return self.choose == "random"

    def check_head(self, head: HeadSettings) -> None:
        """Raise ``ValueError`` if the most confident draws are kept, and those of the head have no confidence."""
        if self.choose == "confidence" and not head.gives_confidence:
            raise ValueError(NO_CONFIDENCE.format(head.name))

    def build(self) -> MaskedOrder:
        """The order."""
        return MaskedOrder(self)


class MaskedOrder(Order):
    """One block of all positions, revealed a few per step."""

    shifted = False
    usual_strength = 0.8

    def __init__(self, settings: Masked = Masked()) -> None:
        self.schedule, self.count, self.ratio = settings.schedule, settings.steps, settings.ratio
        self.choose, self.choice_temperature = settings.choose, settings.choice_temperature
        self.softmax_temperature, self.annealed_draws = settings.softmax_temperature, settings.annealed_draws
        self.unmasked_weight, self.tasks = settings.unmasked_weight, settings.tasks

    def blocks(self, layout: Layout) -> Tensor:
        """All zeros. Raises ``ValueError`` if a task has no meaning for such tokens."""
        if self.tasks is not None:
            self.tasks.check(layout)
        return torch.zeros(layout.positions, dtype=torch.long)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """Known tokens, and the mask embedding elsewhere."""
        shown = known[:, start:stop, None]
        vectors = embed(values[:, start:stop])
        return torch.where(shown, vectors, placeholder.to(vectors.dtype))

    def view(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> TrainingView:
        """Mask ``ceil(ratio n)`` random positions of the ``n`` that an item has (MaskGIT, section 3.1; MAR, section 3.4).

        With tasks, ``n`` are those that the item's task does not give.
        """
        if present is None:
            present = torch.ones(len(rng), layout.positions, dtype=torch.bool)
        if self.tasks is not None:
            present = present & ~self.tasks.draw(layout, rng, present)
        total = present.sum(1)
        count = (self.ratio.draw(rng, self.schedule) * total).ceil().clamp(min=torch.ones_like(total), max=total)
        rank = rng.uniform(layout.positions).cpu().masked_fill(~present, torch.inf).argsort(1).argsort(1)
        masked = rank < count[:, None]
        if not self.unmasked_weight:
            return TrainingView(known=~masked, loss_mask=masked)
        return TrainingView(~masked, present, loss_weights=torch.where(masked, 1.0, self.unmasked_weight))

    def steps(self, unknown: int, steps: int | None, schedule: Schedule | None = None) -> Iterator[Step]:
        """Steps whose remaining masks follow the schedule; every step reveals at least one token, the last reveals all."""
        count, schedule = min(steps or self.count, unknown), schedule or self.schedule
        hidden = unknown
        for index in range(count):
            left = count - index - 1  # one unknown position per later step must remain
            # The tolerance keeps rounding errors from revealing a token early: 100 (1 - 0.9) is 9.99...8.
            target = math.floor(unknown * masked_share((index + 1) / count, schedule) + 1e-9)
            before, hidden = hidden, max(left, min(hidden - 1, target)) if left else 0
            yield Step(index=index, count=count, hidden_before=before, hidden_after=hidden)

    def queue(self, unknown: Tensor, rng: PerSampleRNG) -> Tensor | None:
        """A random permutation of the unknown positions of each item, drawn once (MAR); ``None`` with ``choose: confidence``."""
        if self.choose == "confidence":
            return None
        count = int(unknown[0].sum())
        return rng.uniform(unknown.shape[1]).masked_fill(~unknown, torch.inf).argsort(dim=1, stable=True)[:, :count]

    def redrawn(self, layout: Layout, unknown: Tensor, strength: float, rng: PerSampleRNG) -> Tensor:
        """A share ``strength`` of them at random, and at least one; see :meth:`Order.redrawn`."""
        if strength == 1:
            return unknown
        count = torch.tensor([[_part(strength, each)] for each in unknown.sum(1).tolist()], device=unknown.device)
        return unknown & (rng.uniform(unknown.shape[1]).masked_fill(~unknown, torch.inf).argsort(1).argsort(1) < count)

    def describe_redrawn(self, layout: Layout, count: int, strength: float) -> str:
        """See :meth:`Order.describe_redrawn`."""
        return f"{_part(strength, count):,} of {count:,} tokens, at random, are drawn"

    def sampling_at(self, layout: Layout, start: int, step: Step, config: SamplingConfig, first: int = 0) -> SamplingConfig:
        """The annealed temperature; see :class:`Masked`."""
        factor = self._annealing(step) * (self._noise(step) if self.annealed_draws else 1.0)
        return config if factor == 1.0 else config.model_copy(update={"temperature": config.temperature * factor})

    def _annealing(self, step: Step) -> float:
        first, last = self.softmax_temperature
        return last + (first - last) * (1 - step.progress)

    def _noise(self, step: Step) -> float:
        return self.choice_temperature * (1 - step.progress)

    def reveal(self, step: Step, unknown: Tensor, confidence: Tensor | None, rng: PerSampleRNG) -> Tensor:
        """Keep the draws of highest confidence; random ones with ``choose: random``. Raises ``ValueError`` if there is no confidence."""
        if self.choose == "confidence" and confidence is None:
            raise ValueError(NO_CONFIDENCE.format("here"))
        keep = unknown.sum(1, keepdim=True) - step.hidden_after
        gumbel = rng.gumbel(unknown.shape[1])
        score = gumbel
        if confidence is not None and self.choose == "confidence":
            # As MaskGIT's released sampler. Dividing by the softmax temperature, as TiTok does with its logits, would not change the ranks.
            score = confidence + self._noise(step) * self._annealing(step) * gumbel
        rank = score.masked_fill(~unknown, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1)
        return unknown & (rank < keep)


def _part(strength: float, count: int) -> int:
    """Tokens of a region that are drawn; a product such as 0.6 * 5 is not rounded up for its last bit."""
    return max(1, math.ceil(strength * count - 1e-9))
