"""Next-scale order: the whole picture as one token, then again with four, and so on to the finest grid (VAR, arXiv 2404.02905)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.networks.embedding import SoftCodeEmbedding
from jielong.orders.base import Embed, Order, OrderSettings, TrainingView
from jielong.quantizers.multi_scale import MultiScaleQuantizer
from jielong.quantizers.scales import shrink

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer


class ScaleEmbedding(SoftCodeEmbedding):
    """What stands at a scale's positions: the sum of all coarser scales, averaged down to that scale, through a linear map.

    Codebook and convolutions are copies of the tokenizer's. They are buffers that no checkpoint of a generator stores: a generator is
    always built on its tokenizer, and refuses another.

    Args:
        quantizer: The trained tokenizer's.
        width: Channels of the vectors.
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
        """Tokens of the first scales to the vectors at all positions of these scales but the first.

        Args:
            values: Whole scales from the coarsest on, ``(B, n, 1)`` codes or ``(B, n, dim)`` vectors; the last of them is not read.

        Returns:
            ``(B, n - positions of the first scale, width)``.
        """
        given = sum(stop <= values.shape[1] for _, stop in self.pyramid.spans)
        known = self.vectors(values[:, : self.pyramid.spans[given - 1][0]])
        with torch.autocast(values.device.type, enabled=False):
            totals = self.pyramid.running(known, list(zip(self.weights, self.biases, strict=True)))
            sizes = self.pyramid.scales[1:given]
            maps = [shrink(total, size).flatten(2).transpose(1, 2) for total, size in zip(totals, sizes, strict=True)]
        return self.linear(torch.cat(maps, dim=1) if maps else known.new_zeros(len(values), 0, self.dim))


class NextScale(OrderSettings, family="order", name="next_scale"):
    """Next-scale order has no settings: the scales are the tokenizer's."""

    def build(self) -> NextScaleOrder:
        """The order."""
        return NextScaleOrder()


class NextScaleOrder(Order):
    """A block a scale, coarse to fine; inside a block everything at once, knowing the coarser scales added up.

    The condition and the placeholder begin the chain: they are all that the first scale knows. Position embeddings are sums of a table
    of scales, one of rows and one of columns (VAR has a table of scales and one vector a slot).
    """

    shifted = True

    def blocks(self, layout: Layout) -> Tensor:
        """The scale of every position.

        Raises:
            ValueError: if the layout has no scales.
        """
        if not layout.scales:
            raise ValueError(_NO_SCALES)
        return layout.coordinates()[:, 0]

    def embedding(self, tokenizer: Tokenizer, width: int) -> ScaleEmbedding:
        """The sum of the coarser scales, as this tokenizer adds them up.

        Raises:
            ValueError: if it has no scales.
        """
        quantizer = getattr(tokenizer, "quantizer", None)
        if not isinstance(quantizer, MultiScaleQuantizer):
            raise ValueError(_NO_SCALES)
        return ScaleEmbedding(quantizer, width)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The coarser scales, added up and averaged down; the placeholder at the first scale. ``start`` and ``stop`` are ends of scales."""
        behind = embed(values[:, :stop])
        first = stop - behind.shape[1]
        if first <= 0:
            raise ValueError("the next-scale order reads sums of scales: build the generator with the order's own embedding")
        if start >= first:
            return behind[:, start - first :]
        return torch.cat([placeholder.to(behind.dtype).expand(len(values), first, -1), behind], dim=1)

    def view(self, layout: Layout, rng: PerSampleRNG) -> TrainingView:
        """Everything is asked: one pass trains all scales in parallel."""
        everything = torch.ones(len(rng), layout.positions, dtype=torch.bool)
        return TrainingView(known=everything, loss_mask=everything)


_NO_SCALES = (
    "the next-scale order needs a tokenizer whose tokens stand on several scales, but this one's stand on one grid: train one with "
    "quantizer: multi_scale (jielong train var-tokenizer), or choose another order, such as masked"
)
