"""Masked next-token prediction: raster order trained with dropped tokens (AudioMNTP, arXiv 2507.09834, section 3.2).

In training random tokens are dropped, and each remaining one predicts the next remaining one from its own position and that of the target.
Sampling is raster order, where the two positions are neighbours.
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
    """Embeds tokens whose last value is their position."""

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.tokens, self.places = embedding_of(layout, width), nn.Embedding(layout.positions, width)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, values: Tensor) -> Tensor:
        """``(B, n, C + 1)`` to ``(B, n, width)``."""
        vectors: Tensor = self.tokens(values[..., :-1]) + self.places(values[..., -1].long())
        return vectors


class MaskedNextOrder(RasterOrder):
    """Raster order over the remaining tokens; input: the previous one with its position, position embedding: the target's."""

    begins_once = False

    def __init__(self, settings: MaskedNext = MaskedNext()) -> None:
        super().__init__()
        self.plain, self.few, self.many = settings.plain, settings.few, settings.many

    def embedding(self, tokenizer: Tokenizer, width: int) -> nn.Module:
        """Tokens with their positions."""
        return PlacedEmbedding(tokenizer.layout, width)

    def sources(self, layout: Layout) -> Tensor | None:
        """``None``: the token before is another one in each item."""
        return None

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The last known token before each position, with its position; the placeholder where there is none."""
        positions = torch.arange(stop - 1, device=values.device)
        last = torch.where(known[:, : stop - 1], positions, -1).cummax(1).values if stop > 1 else known.new_zeros(len(known), 0).long()
        last = nn.functional.pad(last, (1, 0), value=-1)[:, start:stop]  # (B, stop - start)
        index = last.clamp_min(0)[..., None]
        before = values.gather(1, index.expand(-1, -1, values.shape[-1]))
        vectors = embed(torch.cat([before, index.to(before.dtype)], dim=-1))
        return torch.where((last < 0)[..., None], placeholder.to(vectors.dtype), vectors)

    def view(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> TrainingView:
        """Drop ``round(r n)`` of an item's ``n`` tokens, but not all: the rest are inputs and targets, dropped ones are masked."""
        if present is None:
            present = torch.ones(len(rng), layout.positions, dtype=torch.bool)
        few, many = self.few.draw(rng, "cosine"), self.many.draw(rng, "cosine")
        fraction = torch.where(rng.uniform().cpu() < self.plain, few, many)
        total = present.sum(1)
        dropped = torch.minimum((fraction * total).round(), total - 1)
        rank = rng.uniform(layout.positions).cpu().masked_fill(~present, torch.inf).argsort(1).argsort(1)
        left = present & (rank >= dropped[:, None])
        return TrainingView(known=left, loss_mask=left, attention_mask=left)
