"""How long items are: durations of aligned states, predicted lengths and the stop head, behind one interface.

A generator, its sampler and its training call :class:`Durations` alone. The base class is for items that always have all positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jielong.conditions.base import Condition
from jielong.config.ending import StopHeadSettings
from jielong.core.tokens import Layout
from jielong.generation.plan import SequencePlan
from jielong.networks.conditioning import Conditioning
from jielong.networks.length_regulator import LengthRegulator
from jielong.networks.monotonic_alignment import MonotonicAlignment
from jielong.networks.stop import StopHead


class Durations(nn.Module):
    """No model of durations: nothing is added, predicted or stopped.

    Attributes:
        ends_items: Whether :meth:`finished` ends items for which no length is given.
        predicts_lengths: Whether :meth:`predict_lengths` may say how long items are.
    """

    ends_items: bool = False
    predicts_lengths: bool = False

    def training_inputs(
        self, conditioning: Conditioning | None, values: Tensor, lengths: Tensor, plan: SequencePlan
    ) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the embeddings in training, ``(B, N, D)``, and a loss to add.

        Args:
            conditioning: The condition.
            values: Tokens ``(B, T, C)``, in the tokenizer's layout.
            lengths: ``(B,)`` tokens of each item.
            plan: The order's positions.
        """
        return None, None

    def loss(self, hidden: Tensor, lengths: Tensor, plan: SequencePlan) -> Tensor | None:
        """A loss to add, of hidden vectors ``(B, N, D)``."""
        return None

    def inputs(self, conditioning: Conditioning | None, lengths: Tensor, plan: SequencePlan, prompt: Tensor | None = None) -> Tensor | None:
        """What is added to the embeddings in sampling, ``(B, N, D)``; ``prompt`` are the given first tokens, ``(B, P, C)``."""
        return None

    def predict_lengths(self, conditioning: Conditioning) -> Tensor | None:
        """Tokens that each item takes when no length is given, ``(B,)`` float; ``None`` if nothing predicts them."""
        return None

    def finished(self, hidden: Tensor) -> Tensor:
        """Which items ended before the position of these hidden vectors, ``(B, D)`` to ``(B,)`` bool."""
        return torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)

    def fit(self, condition: Condition | None, values: Sequence[object], lengths: Tensor) -> None:
        """Fit what is estimated from a training set and not learned: conditions and numbers of tokens ``(n,)`` of its items."""


class LearnedDurations(Durations):
    """A stop head, a length regulator, or both.

    Args:
        stop_head: Predicts where items end.
        regulator: Spreads aligned states over positions.
    """

    def __init__(self, stop_head: StopHead | None, regulator: LengthRegulator | None) -> None:
        super().__init__()
        self.stop_head, self.regulator = stop_head, regulator
        self.ends_items, self.predicts_lengths = stop_head is not None, regulator is not None

    def training_inputs(
        self, conditioning: Conditioning | None, values: Tensor, lengths: Tensor, plan: SequencePlan
    ) -> tuple[Tensor | None, Tensor | None]:
        """See :meth:`Durations.training_inputs`."""
        if self.regulator is None or conditioning is None or conditioning.aligned_states is None:
            return None, None
        padding = torch.arange(values.shape[1]) >= lengths[:, None]
        values, lengths = values.masked_fill(padding.to(values.device)[..., None], 0), lengths.to(values.device)
        durations, loss = self.regulator.learn(conditioning.aligned_states, values, lengths)
        return self.regulator(conditioning.aligned_states, durations, plan.last_times), loss

    def loss(self, hidden: Tensor, lengths: Tensor, plan: SequencePlan) -> Tensor | None:
        """See :meth:`Durations.loss`."""
        if self.stop_head is None:
            return None
        return self.stop_head.settings.weight * self.stop_head.loss(hidden, plan.times[:, 0], lengths)

    def inputs(self, conditioning: Conditioning | None, lengths: Tensor, plan: SequencePlan, prompt: Tensor | None = None) -> Tensor | None:
        """See :meth:`Durations.inputs`."""
        if self.regulator is None or conditioning is None or conditioning.aligned_states is None:
            return None
        durations = self.regulator.durations(conditioning.aligned_states, lengths.to(conditioning.aligned_states.states.device), prompt)
        spread: Tensor = self.regulator(conditioning.aligned_states, durations, plan.last_times)
        return spread

    def predict_lengths(self, conditioning: Conditioning) -> Tensor | None:
        """See :meth:`Durations.predict_lengths`."""
        states = conditioning.aligned_states
        return None if self.regulator is None or states is None else self.regulator.predict_lengths(states)

    def finished(self, hidden: Tensor) -> Tensor:
        """See :meth:`Durations.finished`."""
        return super().finished(hidden) if self.stop_head is None else self.stop_head.over(hidden)

    def fit(self, condition: Condition | None, values: Sequence[object], lengths: Tensor) -> None:
        """See :meth:`Durations.fit`."""
        counts = None if condition is None else condition.count_aligned(values)
        if self.regulator is not None and counts is not None:
            self.regulator.fit(torch.tensor(counts), lengths)


def build_durations(
    layout: Layout, plan: SequencePlan, shifted: bool, width: int, condition: Condition | None, stop_head: StopHeadSettings | None
) -> Durations:
    """The model of durations that a generator needs.

    Args:
        layout: The tokenizer's layout.
        plan: The order's positions.
        shifted: Whether the order predicts a position from earlier ones alone.
        width: Width ``D`` of the hidden vectors.
        condition: The generator's condition, which may be aligned with the tokens.
        stop_head: Settings of the stop head, if items end by themselves.

    Raises:
        ValueError: if the layout or the order does not fit.
    """
    aligned = None if condition is None else condition.alignment
    if stop_head is None and aligned is None:
        return Durations()
    layout.check_lengths([layout.positions])
    if stop_head is not None and not (shifted and plan.single_first):
        raise ValueError(
            "stop_head needs an order that draws the first codebook one token after the other: choose order: raster or coarse_to_fine"
        )
    head = None if stop_head is None else StopHead(width, stop_head)
    regulator: LengthRegulator | None = None
    if condition is not None and aligned is not None:
        search = aligned == "search"
        regulator = MonotonicAlignment(condition.width, width, layout) if search else LengthRegulator(condition.width, width)
    return LearnedDurations(head, regulator)
