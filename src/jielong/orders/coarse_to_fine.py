"""Coarse to fine: the first codebook token by token, then each further codebook as a whole (VALL-E, arXiv 2301.02111).

VALL-E trains one network for the first codebook and another for the rest. Here one block-causal network does both: a block per position in
the first codebook, then a block per codebook, ``T + K - 1`` steps for ``T`` positions of ``K`` codebooks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.tokens import Layout
from jielong.orders.base import Embed, Order, OrderSettings, Step
from jielong.orders.patterns import Pattern, level_by_level


class CoarseToFine(OrderSettings, family="order", name="coarse_to_fine"):
    """Settings of the coarse-to-fine order.

    Attributes:
        greedy: Take the most likely codes in all codebooks but the first, as published; otherwise they are sampled too.
    """

    greedy: bool = True

    def build(self) -> CoarseToFineOrder:
        """The order."""
        return CoarseToFineOrder(self)


class CoarseToFineOrder(Order):
    """The input in the first codebook is the previous code; in the ``j``-th the sum of the first ``j - 1`` codes of the position.

    Codes of one further codebook are drawn independently given all earlier codebooks.
    """

    shifted = True
    begins_once = True

    def __init__(self, settings: CoarseToFine = CoarseToFine()) -> None:
        self.greedy = settings.greedy

    def sampling_at(self, layout: Layout, start: int, step: Step, config: SamplingConfig, first: int = 0) -> SamplingConfig:
        """Temperature 0 in all codebooks but the first, where ``greedy``."""
        later = start >= layout.positions // layout.grid[0]
        return config.model_copy(update={"temperature": 0.0}) if self.greedy and later else config

    def pattern(self, layout: Layout) -> Pattern:
        """All positions of the first codebook, then all of the second, and so on."""
        return level_by_level(layout)

    def blocks(self, layout: Layout) -> Tensor:
        """``0 .. T - 1`` in the first codebook; ``T`` everywhere in the second, and so on."""
        count = layout.positions // layout.grid[0]
        return torch.cat([torch.arange(count), count + torch.arange(layout.grid[0] - 1).repeat_interleave(count)])

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The previous code, and the placeholder at the first position; after the first codebook the lower codes of the same position."""
        books = values.shape[2]
        count = values.shape[1] // books
        parts = []
        if start < count:
            before = embed(values[:, max(start - 1, 0) : min(stop, count) - 1])
            parts = [before] if start > 0 else [placeholder.to(before.dtype).expand(len(values), 1, -1), before]
        if stop > count:
            # Of a lower codebook, its code; of the others padding, as at the position in the first codebook.
            positions = torch.arange(max(start, count), stop, device=values.device)[:, None]
            book = torch.arange(books, device=values.device)
            index = positions % count + torch.where(book < positions // count, book * count, 0)
            parts.append(embed(values.gather(1, index.expand(len(values), -1, -1))))
        return torch.cat(parts, dim=1)
