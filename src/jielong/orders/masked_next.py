"""Masked next-token prediction: raster order that learns to reach over gaps (AudioMNTP, arXiv 2507.09834, section 3.2).

In training a random part of an item's tokens is dropped, and each that is left predicts the next one left, told where it stands itself and
where that one does. Far jumps teach structure, short ones detail. Sampling is raster order, in which the two places are neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.networks.embedding import embedding_of
from jielong.orders.base import Embed, OrderSettings, TrainingView
from jielong.orders.raster import RasterOrder
from jielong.orders.ratio import Ratio

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


class MaskedNext(OrderSettings, family="order", name="masked_next"):
    """Settings of masked next-token prediction.

    Attributes:
        plain: Probability of drawing the fraction of dropped tokens from ``few``, which includes 0; otherwise it is drawn from ``many``.
        few: The distribution of small fractions.
        many: The distribution of large fractions.
    """

    plain: float = Field(default=0.5, ge=0, le=1)
    few: Ratio = Ratio(kind="truncated_normal", mean=0.0, low=0.0, high=0.7, per="item")
    many: Ratio = Ratio(kind="truncated_normal", mean=1.0, low=0.7, high=1.0, per="item")

    def build(self) -> MaskedNextOrder:
        """The order."""
        return MaskedNextOrder(self)


class PlacedEmbedding(nn.Module):
    """Vectors of tokens that say where they stand: the last value of a token is its position.

    Args:
        layout: The tokens.
        width: Channels.
    """

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.tokens, self.places = embedding_of(layout, width), nn.Embedding(layout.positions, width)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, values: Tensor) -> Tensor:
        """``(B, n, C + 1)`` to ``(B, n, width)``."""
        vectors: Tensor = self.tokens(values[..., :-1]) + self.places(values[..., -1].long())
        return vectors


class MaskedNextOrder(RasterOrder):
    """Raster order over the tokens that are left; what stands at a position is the last of them before it, and its place.

    The generator's own place of a position is the one to be predicted, as in raster order.

    Args:
        settings: See :class:`MaskedNext`.
    """

    def __init__(self, settings: MaskedNext = MaskedNext()) -> None:
        super().__init__()
        self.plain, self.few, self.many = settings.plain, settings.few, settings.many

    def embedding(self, tokenizer: Tokenizer, width: int) -> nn.Module:
        """Tokens with their places."""
        return PlacedEmbedding(tokenizer.layout, width)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The last known token before each position, with its place; the placeholder where there is none."""
        places = torch.arange(stop - 1, device=values.device)
        last = torch.where(known[:, : stop - 1], places, -1).cummax(1).values if stop > 1 else known.new_zeros(len(known), 0).long()
        last = nn.functional.pad(last, (1, 0), value=-1)[:, start:stop]  # (B, stop - start)
        index = last.clamp_min(0)[..., None]
        before = values.gather(1, index.expand(-1, -1, values.shape[-1]))
        vectors = embed(torch.cat([before, index.to(before.dtype)], dim=-1))
        return torch.where((last < 0)[..., None], placeholder.to(vectors.dtype), vectors)

    def view(self, layout: Layout, rng: PerSampleRNG) -> TrainingView:
        """See :meth:`view_of`, of items that have all positions."""
        return self.view_of(layout, rng, torch.ones(len(rng), layout.positions, dtype=torch.bool))

    def view_of(self, layout: Layout, rng: PerSampleRNG, real: Tensor) -> TrainingView:
        """Drop ``round(r n)`` of an item's ``n`` tokens, but not all: what is left is shown and asked, and nothing sees the others."""
        few, many = self.few.draw(rng, "cosine"), self.many.draw(rng, "cosine")
        share = torch.where(rng.uniform().cpu() < self.plain, few, many)
        count = real.sum(1)
        dropped = torch.minimum((share * count).round(), count - 1)
        chance = rng.uniform(layout.positions).cpu().masked_fill(~real, torch.inf)
        left = real & (chance.argsort(1).argsort(1) >= dropped[:, None])
        return TrainingView(known=left, loss_mask=left, attention_mask=left)
