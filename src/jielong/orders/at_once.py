"""At once: one block of all positions, drawn together (latent diffusion, arXiv 2112.10752; spectrograms, arXiv 2105.06337)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.orders.base import Embed, Order, OrderSettings, TrainingView
from jielong.orders.tasks import Tasks

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


class AtOnce(OrderSettings, family="order", name="at_once"):
    """Settings of the order at_once.

    Attributes:
        tasks: Regions that are given in training, such as the first frame of a clip (image to video, Open-Sora 2.0, arXiv 2503.09642), by
            their weights; none by default. At the input of a given position is its clean token, and its loss is left out.
    """

    tasks: Tasks | None = None

    def build(self) -> AtOnceOrder:
        """The order."""
        return AtOnceOrder(self)


class AtOnceOrder(Order):
    """The input is the position embedding alone, and with tasks the given tokens too.

    A joint head draws all tokens together; other heads draw them independently.
    """

    shifted = True
    usual_strength = 0.6

    def __init__(self, settings: AtOnce = AtOnce()) -> None:
        self.tasks = settings.tasks
        self.reads_known, self.predicts_all = settings.tasks is not None, settings.tasks is None

    def blocks(self, layout: Layout) -> Tensor:
        """All zeros. Raises ``ValueError`` if a task has no meaning for such tokens."""
        if self.tasks is not None:
            self.tasks.check(layout)
        return torch.zeros(layout.positions, dtype=torch.long)

    def view(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> TrainingView:
        """One pass predicts all positions that items have, and with tasks those that are not given."""
        view = super().view(layout, rng, present)
        if self.tasks is None:
            return view
        given = self.tasks.draw(layout, rng, present)
        return TrainingView(known=given, loss_mask=view.loss_mask & ~given)

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
        """An identity without parameters where no token is ever an input; the default with tasks."""
        return nn.Identity() if self.tasks is None else None

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The placeholder, but for given tokens where there are tasks."""
        if self.tasks is None:
            return placeholder.expand(len(values), stop - start, -1)
        vectors = embed(values[:, start:stop])
        return torch.where(known[:, start:stop, None], vectors, placeholder.to(vectors.dtype))
