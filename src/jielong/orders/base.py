"""What an order is: it cuts the positions of a layout into blocks, and says what happens inside a block.

Attention is always block-causal: a position sees all earlier blocks and its own. In a *shifted* block the input at a
position is made from earlier blocks alone (raster: the previous token), so the keys and values that the block leaves in the
cache are right at once. In a *masked* block the input holds the block's own known tokens and a placeholder elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.config.sampling import Schedule
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout

if TYPE_CHECKING:
    from jielong.orders.patterns import Pattern
    from jielong.tokenizers.base import Tokenizer

Embed = Callable[[Tensor], Tensor]
"""Token values ``(B, n, C)`` to vectors ``(B, n, D)``."""


@dataclass(frozen=True)
class TrainingView:
    """The masks of a training step, ``(B, N)`` bool each.

    Attributes:
        known: Positions that hold their own token (masked blocks only).
        loss_mask: Positions whose token the loss predicts.
        attention_mask: Positions that others attend to; all that an item has by default.
    """

    known: Tensor
    loss_mask: Tensor
    attention_mask: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """One step inside a block.

    Attributes:
        index: Which step of the block, from 0.
        count: How many steps the block takes.
        hidden_before: How many of the block's positions are unknown before this step.
        hidden_after: How many stay unknown after it.
    """

    index: int
    count: int
    hidden_before: int
    hidden_after: int

    @property
    def progress(self) -> float:
        """Share of the steps done after this one, in (0, 1]."""
        return (self.index + 1) / self.count


class Order(ABC):
    """Which tokens come next, together with which."""

    shifted: bool
    """Whether the input at a position is made from earlier blocks alone."""

    @abstractmethod
    def blocks(self, layout: Layout) -> Tensor:
        """The block of every position, ``(N,)`` long, never decreasing along the sequence."""

    def embedding(self, tokenizer: Tokenizer, width: int) -> nn.Module | None:
        """The order's own map from token values to vectors of ``width`` channels, which :meth:`inputs` is then handed as ``embed``.

        ``None`` where a vector a code will do. A :class:`jielong.networks.embedding.SoftCodeEmbedding` allows soft codes.

        Raises:
            ValueError: if the tokenizer lacks what the order needs.
        """
        return None

    @abstractmethod
    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """What stands at positions ``start`` to ``stop``, before position embeddings: ``(B, stop - start, D)``.

        Args:
            embed: Maps token values to vectors.
            values: All tokens so far, ``(B, N, C)``.
            known: Which of them are known, ``(B, N)``.
            placeholder: The learned vector for what is not known, ``(D,)``.
            start: First position.
            stop: One past the last position.
        """

    @abstractmethod
    def view(self, layout: Layout, rng: PerSampleRNG) -> TrainingView:
        """Draw what one training step shows and asks of each item of a batch."""

    def view_of(self, layout: Layout, rng: PerSampleRNG, real: Tensor) -> TrainingView:
        """As :meth:`view`, of items that do not have all positions: nothing is asked where ``real``, ``(B, N)`` bool, is false."""
        view = self.view(layout, rng)
        return TrainingView(view.known, view.loss_mask & real, view.attention_mask)

    def pattern(self, layout: Layout) -> Pattern | None:
        """How the order re-arranges codes of several codebooks before all else; ``layout`` is then the pattern's everywhere else.

        Raises:
            ValueError: if tokens of this layout cannot be arranged so.
        """
        return None

    def spans(self, layout: Layout) -> list[tuple[int, int]]:
        """The blocks as ``(start, stop)`` ranges of positions, in order."""
        _, sizes = torch.unique_consecutive(self.blocks(layout), return_counts=True)
        stops = sizes.cumsum(0).tolist()
        return list(zip([0, *stops[:-1]], stops, strict=True))

    def greedy_block(self, layout: Layout, start: int) -> bool:
        """Whether the block that begins at ``start`` takes its likeliest codes, however boldly others are drawn."""
        return False

    def steps(self, unknown: int, steps: int | None, schedule: Schedule | None = None) -> Iterator[Step]:
        """The steps of a block with so many unknown positions; a single one unless the order reveals gradually.

        Args:
            unknown: Positions to reveal.
            steps: How many steps; the order's own number if not given.
            schedule: How the share of unknown positions falls; the order's own if not given.
        """
        yield Step(index=0, count=1, hidden_before=unknown, hidden_after=0)

    def queue(self, unknown: Tensor, rng: PerSampleRNG) -> Tensor | None:
        """Which positions of a block come first, where that is settled before anything is drawn: the head then draws no others.

        Args:
            unknown: ``(B, n)`` bool, as many positions in every item.
            rng: Random numbers of each item.

        Returns:
            ``(B, unknown)`` long, places in the block in the order of their reveal; ``None`` where :meth:`reveal` decides.
        """
        return None

    def reveal(self, step: Step, unknown: Tensor, confidence: Tensor | None, rng: PerSampleRNG) -> Tensor:
        """Which of the drawn tokens to keep: ``(B, n)`` bool, a subset of ``unknown``; all of them unless overridden."""
        return unknown


class OrderSettings(Part):
    """Settings of an order."""

    @property
    def random_positions(self) -> bool:
        """Whether the positions of a step are chosen before anything is drawn there."""
        return False

    @abstractmethod
    def build(self) -> Order:
        """The order."""
