"""Next-scale order: an image as one token, then as a 2 x 2 grid, and so on to the finest grid (VAR, arXiv 2404.02905).

The scales are those of a multi-scale tokenizer, whose codes add up; or averages of continuous tokens on one grid, each twice as fine as the
one before (FlowAR, arXiv 2412.15205), with any tokenizer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import Config
from jielong.core.medium import ALONG_ROWS, Axes
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.networks.embedding import SoftCodeEmbedding
from jielong.orders.base import Embed, Order, OrderSettings, TrainingView
from jielong.quantizers.multi_scale import MultiScaleQuantizer
from jielong.quantizers.scales import Pyramid, Scale, check_scales, shrink

if TYPE_CHECKING:
    from jielong.tokenizers.base import Tokenizer

Up = Literal["bilinear", "nearest"]


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


class CoarserEmbedding(nn.Module):
    """Inputs of a scale: the next coarser one, interpolated to that scale, through a linear map.

    Args:
        scales: Rows and columns of each scale.
        channels: Numbers of a token.
        width: Channels of the inputs.
        up: How maps are interpolated.
    """

    def __init__(self, scales: tuple[Scale, ...], channels: int, width: int, up: Up) -> None:
        super().__init__()
        self.pyramid, self.up = Pyramid(scales), up
        self.linear = nn.Linear(channels, width)

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return f"scales={self.pyramid.scales}, up={self.up}"

    def forward(self, values: Tensor) -> Tensor:
        """Inputs of the scales in ``values`` except the first. Returns ``(B, n - positions of the first scale, width)``.

        ``values``: whole scales from the coarsest on, ``(B, n, channels)``; the last is not read.
        """
        count = sum(stop <= values.shape[1] for _, stop in self.pyramid.spans)
        parts = [values.new_zeros(len(values), 0, values.shape[2])]
        for scale, size in enumerate(self.pyramid.scales[1:count]):
            start, stop = self.pyramid.spans[scale]
            parts.append(lifted(values[:, start:stop].mT.unflatten(2, self.pyramid.scales[scale]), size, self.up).flatten(2).mT)
        vectors: Tensor = self.linear(torch.cat(parts, dim=1))
        return vectors


def lifted(maps: Tensor, size: Scale, up: Up) -> Tensor:
    """Maps ``(B, C, h, w)`` at a finer scale."""
    if up == "nearest":
        return F.interpolate(maps, size=size, mode="nearest")
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def halved(grid: Scale) -> tuple[Scale, ...]:
    """Scales from one position to the grid, each half the next along both axes, rounded up.

    >>> halved((8, 8))
    ((1, 1), (2, 2), (4, 4), (8, 8))
    """
    scales = [grid]
    while max(scales[0]) > 1:
        scales.insert(0, (-(-scales[0][0] // 2), -(-scales[0][1] // 2)))
    return tuple(scales)


class Divide(Config):
    """How continuous tokens on one grid are divided into scales.

    Attributes:
        scales: ``auto`` (each half the next, down to one position) or a list such as ``[1, 4, 16]``, of sides or of pairs of rows and
            columns, that ends at the tokenizer's grid. Each is the average of the finest over areas.
        up: How the input of a scale is made of the next coarser one.
        noise: Standard deviation of Gaussian noise on coarser scales where they are inputs in training, so that errors of drawn ones do
            less harm; in the unit of tokens, whose standard deviation is about 1 at the finest scale and less at coarser ones.
    """

    scales: Literal["auto"] | tuple[int | tuple[int, int], ...] = "auto"
    up: Up = "bilinear"
    noise: float = Field(default=0.0, ge=0)

    @field_validator("scales")
    @classmethod
    def _grow(cls, value: Literal["auto"] | tuple[int | Scale, ...]) -> Literal["auto"] | tuple[int | Scale, ...]:
        if value != "auto":
            check_scales(_pairs(value))
        return value

    def of(self, layout: Layout) -> tuple[Scale, ...]:
        """The scales of tokens of this layout.

        Raises ``ValueError`` if they are no numbers on one grid of rows and columns, or the scales end at another grid.
        """
        if layout.discrete or layout.scales or layout.axes != ("rows", "columns"):
            what = f"have {layout.describe()}" if layout.scales or not layout.discrete else "are codes, which have no averages"
            raise ValueError(
                "order.next_scale.divide: averages over areas are of numbers on one grid of rows and columns, and the tokens of this "
                f"tokenizer {what}: leave `divide` out with a multi-scale tokenizer, or take a tokenizer such as kl"
            )
        grid = (layout.grid[0], layout.grid[1])
        scales = halved(grid) if self.scales == "auto" else _pairs(self.scales)
        if scales[-1] != grid:
            raise ValueError(f"order.next_scale.divide.scales end at {scales[-1]}, but the tokens' grid is {grid}: end there, or take auto")
        return scales


def _pairs(scales: tuple[int | Scale, ...]) -> tuple[Scale, ...]:
    return tuple((each, each) if isinstance(each, int) else each for each in scales)


class NextScale(OrderSettings, family="order", name="next_scale"):
    """Settings of the next-scale order.

    Attributes:
        divide: Divides the continuous tokens of any tokenizer into scales (FlowAR); without it the scales are the tokenizer's (VAR).
        weights: Whether in the loss all ``positions`` weigh the same (VAR), or all ``scales`` (FlowAR).
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    divide: Divide | None = None
    weights: Literal["positions", "scales"] = "positions"

    def scales_of(self, layout: Layout) -> tuple[Scale, ...]:
        """See :meth:`OrderSettings.scales_of`."""
        return () if self.divide is None else self.divide.of(layout)

    def build(self) -> NextScaleOrder:
        """The order."""
        return NextScaleOrder(self)


class NextScaleOrder(Order):
    """A block per scale, coarse to fine, drawn at once given the sum of the coarser scales, or the coarser ones where they are averages.

    The first scale reads the placeholder (and the condition). Position embeddings are sums of tables of scales, rows and columns (VAR: a
    table of scales and one of slots).
    """

    shifted = True
    begins_once = True
    usual_strength = 0.6

    def __init__(self, settings: NextScale = NextScale()) -> None:
        self.divide, self.weights = settings.divide, settings.weights

    def blocks(self, layout: Layout) -> Tensor:
        """The scale of every position. Raises ``ValueError`` if the layout has no scales."""
        if not layout.scales:
            raise ValueError(_NO_SCALES if layout.discrete else _NOT_DIVIDED)
        return layout.coordinates()[:, 0]

    def view(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> TrainingView:
        """One pass predicts all scales, whose positions weigh as ``weights`` says."""
        view = super().view(layout, rng, present)
        if self.weights == "positions":
            return view
        counts = torch.tensor([rows * columns for rows, columns in layout.scales])
        return replace(view, loss_weights=(1.0 / counts)[self.blocks(layout)].expand(len(rng), -1))

    def training_values(self, values: Tensor, rng: PerSampleRNG) -> Tensor:
        """Values with the noise of :class:`Divide`."""
        if self.divide is None or not self.divide.noise:
            return values
        return values + self.divide.noise * rng.draws("coarser scales", values.device).normal(*values.shape[1:]).to(values.dtype)

    def redrawn(self, layout: Layout, unknown: Tensor, strength: float, rng: PerSampleRNG) -> Tensor:
        """Those of a share ``strength`` of the scales, the finest; see :meth:`Order.redrawn`."""
        first = len(layout.scales) - _finest(layout, strength)
        return unknown & (self.blocks(layout) >= first).to(unknown.device)

    def describe_redrawn(self, layout: Layout, count: int, strength: float) -> str:
        """See :meth:`Order.describe_redrawn`."""
        return f"the finest {_finest(layout, strength)} of {len(layout.scales)} scales are drawn"

    def embedding(self, tokenizer: Tokenizer, width: int) -> ScaleEmbedding | CoarserEmbedding:
        """See :class:`ScaleEmbedding` and :class:`CoarserEmbedding`. Raises ``ValueError`` if it has no scales."""
        layout, quantizer = tokenizer.layout, getattr(tokenizer, "quantizer", None)
        if self.divide is not None and layout.scales and not layout.discrete:
            return CoarserEmbedding(tuple((rows, columns) for rows, columns in layout.scales), layout.channels, width, self.divide.up)
        if not isinstance(quantizer, MultiScaleQuantizer):
            raise ValueError(_NO_SCALES if layout.discrete else _NOT_DIVIDED)
        return ScaleEmbedding(quantizer, width)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The embedded coarser scales; the placeholder at the first scale. ``start`` and ``stop`` are scale boundaries."""
        later = embed(values[:, :stop])
        first = stop - later.shape[1]
        if first <= 0:
            raise ValueError("the next-scale order reads coarser scales: give the generator order.embedding(tokenizer, width)")
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
_NOT_DIVIDED = (
    "the next-scale order needs several scales, but the continuous tokens of this tokenizer are on one grid: divide them, with order: "
    "{next_scale: {divide: {scales: auto}}}, or choose another order, such as masked"
)
