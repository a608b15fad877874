"""Next-scale order: an image as one token, then as a 2 x 2 grid, and so on to the finest grid (VAR, arXiv 2404.02905)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.medium import ALONG_ROWS, Axes
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.networks.embedding import SoftCodeEmbedding
from jielong.orders.base import Embed, Order, OrderSettings
from jielong.quantizers.multi_scale import MultiScaleQuantizer
from jielong.quantizers.scales import shrink

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


class ScaleEmbedding(SoftCodeEmbedding):
    """Inputs of a scale: the sum of all coarser scales, averaged down to that scale, through a linear map.

    Codebook and convolutions are copies of the tokenizer's, in non-persistent buffers: a generator is always built on its tokenizer.

    ``quantizer``: the trained tokenizer's.
    """

    codes: Tensor
    weights: Tensor
    biases: Tensor

    def __init__(self, quantizer: MultiScaleQuantizer, width: int) -> None:
        super().__init__()
        self.pyramid, self.dim = quantizer.pyramid, quantizer.dim
        self.register_buffer("codes", quantizer.codebook.current.detach().clone(), persistent=False)
        kernels = [(weight.detach().clone(), bias.detach().clone()) for weight, bias in quantizer.kernels]
        self.register_buffer("weights", torch.stack([weight for weight, _ in kernels]) if kernels else torch.empty(0), persistent=False)
        self.register_buffer("biases", torch.stack([bias for _, bias in kernels]) if kernels else torch.empty(0), persistent=False)
        self.linear = nn.Linear(self.dim, width)

    def vectors(self, values: Tensor) -> Tensor:
        """See :meth:`SoftCodeEmbedding.vectors`."""
        return values if values.is_floating_point() else F.embedding(values[..., 0], self.codes)

    def mix(self, weights: Tensor) -> Tensor:
        """See :meth:`SoftCodeEmbedding.mix`."""
        return weights[..., 0, :] @ self.codes

    def forward(self, values: Tensor) -> Tensor:
        """Inputs of the scales in ``values`` except the first. Returns ``(B, n - positions of the first scale, width)``.

        Args:
            values: Whole scales from the coarsest on, ``(B, n, 1)`` codes or ``(B, n, dim)`` vectors; the last is not read.
        """
        count = sum(stop <= values.shape[1] for _, stop in self.pyramid.spans)
        known = self.vectors(values[:, : self.pyramid.spans[count - 1][0]])
        with torch.autocast(values.device.type, enabled=False):
            totals = self.pyramid.running(known, list(zip(self.weights, self.biases, strict=True)))
            sizes = self.pyramid.scales[1:count]
            maps = [shrink(total, size).flatten(2).transpose(1, 2) for total, size in zip(totals, sizes, strict=True)]
        return self.linear(torch.cat(maps, dim=1) if maps else known.new_zeros(len(values), 0, self.dim))


class NextScale(OrderSettings, family="order", name="next_scale"):
    """Next-scale order has no settings: the scales are the tokenizer's."""

    axes: ClassVar[Axes | None] = ALONG_ROWS

    def build(self) -> NextScaleOrder:
        """The order."""
        return NextScaleOrder()


class NextScaleOrder(Order):
    """A block per scale, coarse to fine, drawn at once given the sum of the coarser scales.

    The first scale reads the placeholder (and the condition). Position embeddings are sums of tables of scales, rows and columns (VAR: a
    table of scales and one of slots).
    """

    shifted = True
    usual_strength = 0.6

    def blocks(self, layout: Layout) -> Tensor:
        """The scale of every position. Raises ``ValueError`` if the layout has no scales."""
        if not layout.scales:
            raise ValueError(_NO_SCALES)
        return layout.coordinates()[:, 0]

    def redrawn(self, layout: Layout, unknown: Tensor, strength: float, rng: PerSampleRNG) -> Tensor:
        """Those of a share ``strength`` of the scales, the finest; see :meth:`Order.redrawn`."""
        first = len(layout.scales) - _finest(layout, strength)
        return unknown & (self.blocks(layout) >= first).to(unknown.device)

    def describe_redrawn(self, layout: Layout, count: int, strength: float) -> str:
        """See :meth:`Order.describe_redrawn`."""
        return f"the finest {_finest(layout, strength)} of {len(layout.scales)} scales are drawn"

    def embedding(self, tokenizer: Tokenizer, width: int) -> ScaleEmbedding:
        """See :class:`ScaleEmbedding`. Raises ``ValueError`` if it has no scales."""
        quantizer = getattr(tokenizer, "quantizer", None)
        if not isinstance(quantizer, MultiScaleQuantizer):
            raise ValueError(_NO_SCALES)
        return ScaleEmbedding(quantizer, width)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The embedded sum of coarser scales; the placeholder at the first scale. ``start`` and ``stop`` are scale boundaries."""
        later = embed(values[:, :stop])
        first = stop - later.shape[1]
        if first <= 0:
            raise ValueError("the next-scale order reads sums of scales: give the generator order.embedding(tokenizer, width)")
        if start >= first:
            return later[:, start - first :]
        return torch.cat([placeholder.to(later.dtype).expand(len(values), first, -1), later], dim=1)


def _finest(layout: Layout, strength: float) -> int:
    """How many scales an edit draws."""
    return max(1, round(strength * len(layout.scales)))


_NO_SCALES = (
    "the next-scale order needs a multi-scale tokenizer, but the tokens of this one are on one grid: train one with "
    "quantizer: multi_scale (jielong train var-tokenizer), or choose another order, such as masked"
)
