"""At once: one block of all positions, drawn together (latent diffusion, arXiv 2112.10752; spectrograms, arXiv 2105.06337)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.base import Embed, Order, OrderSettings

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


class AtOnce(OrderSettings, family="order", name="at_once"):
    """The order at_once has no settings."""

    def build(self) -> AtOnceOrder:
        """The order."""
        return AtOnceOrder()


class AtOnceOrder(Order):
    """The input is the position embedding alone. A joint head draws all tokens together; other heads draw them independently."""

    shifted = True
    usual_strength = 0.6

    def blocks(self, layout: Layout) -> Tensor:
        """All zeros."""
        return torch.zeros(layout.positions, dtype=torch.long)

    def redrawn(self, layout: Layout, unknown: Tensor, strength: float, rng: PerSampleRNG) -> Tensor:
        """All: the head begins at noised tokens instead; see :meth:`Order.redrawn`."""
        return unknown

    def head_strength(self, strength: float) -> float:
        """All of it; see :meth:`Order.head_strength`."""
        return strength

    def describe_redrawn(self, layout: Layout, count: int, strength: float) -> str:
        """See :meth:`Order.describe_redrawn`."""
        return f"drawing begins {strength:.0%} of the way from the picture to noise"

    def embedding(self, tokenizer: Tokenizer, width: int) -> nn.Module | None:
        """An identity without parameters: no token is ever an input."""
        return nn.Identity()

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The placeholder everywhere."""
        return placeholder.expand(len(values), stop - start, -1)
