"""Cache of a PixelCNN: a few rows of every layer, and the current row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from jielong.networks.masked_convolution import HorizontalConvolution


@dataclass(frozen=True)
class Map:
    """A linear map to one colour's outputs, with transposed weight ``(inputs, outputs)`` and bias ``(outputs,)``."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """``(B, inputs)`` to ``(B, outputs)``."""
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


def by_colour(convolution: HorizontalConvolution, colours: int, parts: int = 1) -> list[Map]:
    """A horizontal convolution as one map per colour, with the outputs of its ``parts`` concatenated."""

    def split(x: Tensor) -> list[Tensor]:
        return [each.flatten(-2).contiguous() for each in x.unflatten(-1, (parts, colours, -1)).unbind(-2)]

    biases = [None] * colours if convolution.bias is None else split(convolution.bias)
    return [Map(weight, bias) for weight, bias in zip(split(convolution.matrix()), biases, strict=True)]


@dataclass(frozen=True)
class Maps:
    """The horizontal stack's weights, masked, for each block and each colour."""

    first: list[Map]
    horizontal: list[list[Map]]
    residual: list[list[Map]]
    out: list[Map]


@dataclass(frozen=True)
class Views:
    """Views of the buffers, created once: for a single pixel slicing takes as long as computing."""

    windows: list[list[Tensor]]  # of each layer and column the inputs of its horizontal convolution, (B, taps I)
    inputs: list[list[list[Tensor]]]  # of each layer, column and colour its input, (B, I / colours); then the output of the last block
    gates: list[list[Tensor]]  # of each block and colour its gated features, (B, F / colours)
    gated: tuple[Tensor, Tensor, Tensor]  # before the gate: all of it, (B, 2 F / colours), and its halves


@dataclass
class PixelCache:
    """Buffers of one batch. Layer 0 is the first convolution, layer ``l + 1`` block ``l``."""

    start: Tensor  # the first embedding, (B, D)
    above: list[Tensor]  # of each layer the rows that its vertical convolution reads, (B, I, height, W)
    beside: list[Tensor]  # of each layer the row that its horizontal convolution reads, (B, reach + W, I), zero-padded on the left
    # Of each block, colour and column the sum of vertical stack, condition and bias, (B, 2 F / colours).
    links: list[list[tuple[Tensor, ...]]]
    gates: list[Tensor]  # of each block the gated features of the current pixel, (B, F)
    last: Tensor  # the last block's output for it, (B, F)
    taps: list[int]  # of each layer the pixels in the kernel of its horizontal convolution
    colours: int  # positions of a pixel
    capacity: int  # positions of the picture
    length: int = 0
    started: bool = False  # whether the first call, which takes the condition and the weights in, has been made
    # Of each block what the condition adds to the vertical stack (if anything), and to the horizontal one with its bias.
    shifts: list[tuple[Tensor | None, Tensor]] = field(default_factory=list)
    maps: Maps | None = None
    views: Views | None = None

    @property
    def batch(self) -> int:
        """Number of items ``B``."""
        return len(self.start)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        links = [link for block in self.links for colour in block for link in colour]
        return sum(tensor.nbytes for tensor in (self.start, self.last, *self.above, *self.beside, *self.gates, *links))

    def push(self, layer: int, row: Tensor) -> Tensor:
        """Append a finished row, ``(B, I, W)``, to those that the layer's vertical convolution reads, and return them."""
        self.above[layer] = torch.cat([self.above[layer][:, :, 1:], row[:, :, None]], dim=2)
        return self.above[layer]

    def cut(self) -> Views:
        """Views of the buffers, created at the first call."""
        if self.views is None:
            columns = self.above[0].shape[3]
            last = [list(self.last.chunk(self.colours, dim=-1))] * columns
            rows = [row[:, -columns:].unbind(1) for row in self.beside]
            gated = self.last.new_empty(self.batch, 2 * self.last.shape[1] // self.colours)
            self.views = Views(
                windows=[[row[:, at : at + n].flatten(1) for at in range(columns)] for row, n in zip(self.beside, self.taps, strict=True)],
                inputs=[*([list(pixel.chunk(self.colours, dim=-1)) for pixel in row] for row in rows), last],
                gates=[list(each.chunk(self.colours, dim=-1)) for each in self.gates],
                gated=(gated, *cast("tuple[Tensor, Tensor]", gated.chunk(2, dim=-1))),
            )
        return self.views

    def rows(self, index: slice) -> PixelCache:
        """A cache of some items that shares this one's memory; only one of the two may be continued."""
        return self._of(lambda x: x[index])

    def clone(self) -> PixelCache:
        """A copy that is continued independently."""
        return self._of(Tensor.clone)

    def _of(self, part: Callable[[Tensor], Tensor]) -> PixelCache:
        return replace(
            self,
            start=part(self.start),
            above=[part(rows) for rows in self.above],
            beside=[part(row) for row in self.beside],
            links=[[tuple(part(link) for link in colour) for colour in block] for block in self.links],
            gates=[part(gates) for gates in self.gates],
            last=part(self.last),
            shifts=[(None if above is None else part(above), part(beside)) for above, beside in self.shifts],
            views=None,
        )
