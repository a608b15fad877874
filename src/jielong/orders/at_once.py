"""At once: one block of everything, drawn together (latent diffusion, arXiv 2112.10752; spectrograms of a sentence, arXiv 2105.06337)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.base import Embed, Order, OrderSettings, TrainingView

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


class AtOnce(OrderSettings, family="order", name="at_once"):
    """The order at_once has no settings."""

    def build(self) -> AtOnceOrder:
        """The order."""
        return AtOnceOrder()


class AtOnceOrder(Order):
    """What stands at a position is the position alone. A joint head then draws all tokens as one; others draw them independently."""

    shifted = True

    def blocks(self, layout: Layout) -> Tensor:
        """All zeros."""
        return torch.zeros(layout.positions, dtype=torch.long)

    def embedding(self, tokenizer: Tokenizer, width: int) -> nn.Module | None:
        """No token is ever read, so nothing is learned to read one by."""
        return nn.Identity()

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The placeholder everywhere."""
        return placeholder.expand(len(values), stop - start, -1)

    def view(self, layout: Layout, rng: PerSampleRNG) -> TrainingView:
        """Everything is asked."""
        everything = torch.ones(len(rng), layout.positions, dtype=torch.bool)
        return TrainingView(known=everything, loss_mask=everything)
