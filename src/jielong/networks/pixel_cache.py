"""What a PixelCNN remembers of the positions it has passed: a few rows of every layer, and the row being drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from jielong.networks.masked_convolution import HorizontalConvolution


@dataclass(frozen=True)
class Map:
    """A linear map of one colour's outputs, laid out for a single pixel.

    Attributes:
        weight: ``(inputs, outputs)``.
        bias: ``(outputs,)``, if there is one.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """``(B, inputs)`` to ``(B, outputs)``."""
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


def by_colour(convolution: HorizontalConvolution, colours: int, parts: int = 1) -> list[Map]:
    """A horizontal convolution as a map for each colour, with the outputs of its ``parts`` side by side."""

    def apart(x: Tensor) -> list[Tensor]:
        return [each.flatten(-2).contiguous() for each in x.unflatten(-1, (parts, colours, -1)).unbind(-2)]

    biases = [None] * colours if convolution.bias is None else apart(convolution.bias)
    return [Map(weight, bias) for weight, bias in zip(apart(convolution.matrix()), biases, strict=True)]


@dataclass(frozen=True)
class Maps:
    """The horizontal stack's weights, masked, for each block and each colour."""

    first: list[Map]
    horizontal: list[list[Map]]
    residual: list[list[Map]]
    out: list[Map]


@dataclass(frozen=True)
class Views:
    """Every place of the buffers that a pixel reads or writes, cut out once: cutting takes as long as computing, for a single pixel.

    Attributes:
        windows: Of each layer and column what its horizontal convolution sees, ``(B, taps I)``.
        slots: Of each layer, column and colour where its input goes, ``(B, I / colours)``; of one layer more, what the last block made.
        gates: Of each block and colour where its gated features go, ``(B, F / colours)``.
        gated: Before the gate: all of it, ``(B, 2 F / colours)``, and its halves.
    """

    windows: list[list[Tensor]]
    slots: list[list[list[Tensor]]]
    gates: list[list[Tensor]]
    gated: tuple[Tensor, Tensor, Tensor]


@dataclass
class PixelCache:
    """Buffers of one batch. Layer 0 is the first convolution, layer ``l + 1`` block ``l``.

    Attributes:
        start: The input that begins the chain, ``(B, D)``.
        above: Of each layer the rows that its vertical convolution sees, ``(B, I, height, W)``.
        beside: Of each layer the row that its horizontal convolution sees, ``(B, reach + W, I)``; zeros stand left of the picture.
        links: Of each block, colour and column what the vertical stack, the condition and the bias add, ``(B, 2 F / colours)``.
        gates: Of each block the gated features of the pixel being drawn, ``(B, F)``.
        last: What the last block made of it, ``(B, F)``.
        taps: Of each layer the pixels that its horizontal convolution sees.
        colours: Positions of a pixel.
        capacity: Positions of the picture.
        length: Positions passed.
        started: Whether the first call has been made, which takes the condition and the weights in.
        shifts: Of each block what the condition adds to the vertical stack (if anything), and to the horizontal one with its bias.
        maps: The weights.
        views: Places in the buffers.
    """

    start: Tensor
    above: list[Tensor]
    beside: list[Tensor]
    links: list[list[tuple[Tensor, ...]]]
    gates: list[Tensor]
    last: Tensor
    taps: list[int]
    colours: int
    capacity: int
    length: int = 0
    started: bool = False
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
        return sum(tensor.nbytes for value in vars(self).values() for tensor in _tensors(value))

    def push(self, layer: int, row: Tensor) -> Tensor:
        """A row, ``(B, I, W)``, is done: it takes its place below those that the layer's vertical convolution sees, which are returned."""
        self.above[layer] = torch.cat([self.above[layer][:, :, 1:], row[:, :, None]], dim=2)
        return self.above[layer]

    def cut(self) -> Views:
        """The places in the buffers; cut out at the first call."""
        if self.views is None:
            columns = self.above[0].shape[3]
            last = [list(self.last.chunk(self.colours, dim=-1))] * columns
            rows = [row[:, -columns:].unbind(1) for row in self.beside]
            gated = self.last.new_empty(self.batch, 2 * self.last.shape[1] // self.colours)
            self.views = Views(
                windows=[[row[:, at : at + n].flatten(1) for at in range(columns)] for row, n in zip(self.beside, self.taps, strict=True)],
                slots=[*([list(pixel.chunk(self.colours, dim=-1)) for pixel in row] for row in rows), last],
                gates=[list(each.chunk(self.colours, dim=-1)) for each in self.gates],
                gated=(gated, *cast("tuple[Tensor, Tensor]", gated.chunk(2, dim=-1))),
            )
        return self.views

    def rows(self, index: slice) -> PixelCache:
        """A cache of some items, which shares this one's memory: go on with one of the two."""
        return replace(self, **self._each(index), views=None)

    def clone(self) -> PixelCache:
        """A cache that goes on from here by itself."""
        return replace(self, **self._each(slice(None), copied=True), views=None)

    def _each(self, index: slice, copied: bool = False) -> dict[str, Any]:
        return {name: _rows(value, index, copied) for name, value in vars(self).items() if name not in ("maps", "views")}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _rows(value: Any, index: slice, copied: bool = False) -> Any:
    """Rows of every tensor in nested lists; anything else as it is."""
    if isinstance(value, Tensor):
        return value[index].clone() if copied else value[index]
    if isinstance(value, list | tuple):
        return type(value)(cast("Any", (_rows(item, index, copied) for item in value)))
    return value
