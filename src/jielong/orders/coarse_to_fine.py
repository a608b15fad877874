"""Level by level: the first codebook one token after the other, then each further one as a whole (VALL-E, arXiv 2301.02111).

VALL-E trains a network for the first codebook and another for the rest. Here one block-causal network does both: a block a position in the
first codebook, then a block a codebook. ``T + K - 1`` steps draw ``T`` positions of ``K`` codebooks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.base import Embed, Order, OrderSettings, TrainingView
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
    """In the first codebook the previous code stands at a position; in the ``j``-th the sum of the first ``j - 1`` codes of that position.

    Codes of one further codebook are independent of each other, given all codebooks before.

    Args:
        settings: See :class:`CoarseToFine`.
    """

    shifted = True

    def __init__(self, settings: CoarseToFine = CoarseToFine()) -> None:
        self.greedy = settings.greedy

    def greedy_block(self, layout: Layout, start: int) -> bool:
        """In further codebooks, if so asked."""
        return self.greedy and start >= layout.positions // layout.grid[0]

    def pattern(self, layout: Layout) -> Pattern:
        """All positions of the first codebook, then all of the second, and so on."""
        return level_by_level(layout)

    def blocks(self, layout: Layout) -> Tensor:
        """``0 .. T - 1`` in the first codebook; ``T`` everywhere in the second, and so on."""
        count = layout.positions // layout.grid[0]
        return torch.cat([torch.arange(count), count + torch.arange(layout.grid[0] - 1).repeat_interleave(count)])

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The code before, and the placeholder at the first position; behind the first codebook the lower codes of the same position."""
        books = values.shape[2]
        count = values.shape[1] // books
        parts = []
        if start < count:
            before = embed(values[:, max(start - 1, 0) : min(stop, count) - 1])
            parts = [before] if start > 0 else [placeholder.to(before.dtype).expand(len(values), 1, -1), before]
        if stop > count:
            # Of a lower codebook, the code where it stands; of the others nothing, as at the position in the first codebook.
            places = torch.arange(max(start, count), stop, device=values.device)[:, None]
            book = torch.arange(books, device=values.device)
            index = places % count + torch.where(book < places // count, book * count, 0)
            parts.append(embed(values.gather(1, index.expand(len(values), -1, -1))))
        return torch.cat(parts, dim=1)

    def view(self, layout: Layout, rng: PerSampleRNG) -> TrainingView:
        """Everything is asked: one pass trains all codebooks in parallel."""
        everything = torch.ones(len(rng), layout.positions, dtype=torch.bool)
        return TrainingView(known=everything, loss_mask=everything)
