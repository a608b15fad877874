"""PixelRNN one value at a time: the state that finished pixels leave, and the step that continues from it.

Every step costs the same. At the beginning of a row all that depends on the rows above is computed for the whole row and all layers at
once: the upper part of the first convolution, the state-to-state products from above, and, for the diagonal BiLSTM, the states from the
right of the previous row. What is left for a value is its share of every map, the group of its colour, which reads a prefix of the channels
because groups are contiguous and in order.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.networks.recurrence import Direction, GroupedLinear, around, lstm

if TYPE_CHECKING:
    from jielong.networks.pixelrnn import PixelRNN


class _Scan:
    """The weights of one direction of all ``L`` layers, stacked: one product for a row of all layers."""

    def __init__(self, directions: Sequence[Direction]) -> None:
        self.inputs = torch.stack([item.inputs.masked() for item in directions]).transpose(1, 2).contiguous()  # (L, taps F, 4h)
        self.states = torch.stack([item.state.weight for item in directions]).transpose(1, 2).contiguous()  # (L, neighbours h, 4h)
        self.bias = torch.stack([item.inputs.bias for item in directions])  # (L, 4h)
        self.first = torch.stack([item.first for item in directions], dim=1)  # (state and cell, L, h)
        self.shifts = [item.shift for item in directions]

    def shift(self, pooled: Tensor | None) -> Tensor:
        """Bias and condition of the gates, ``(L, B or 1, 1, 4h)``."""
        return (self.bias[:, None] + torch.stack([each(pooled) for each in self.shifts]))[:, :, None]

    def start(self, which: int, batch: int, columns: int) -> Tensor:
        """The learned initial state (0) or cell (1) as a row, ``(L, B, W, h)``."""
        return self.first[which, :, None, None].expand(-1, batch, columns, -1)


class _Weights:
    """A network's weights, masked once and sliced for each colour group."""

    def __init__(self, net: PixelRNN) -> None:
        self.grid, self.columns = net.grid, net.grid.columns
        self.groups, self.width, self.features, self.hidden = net.groups, net.width, net.features, net.hidden
        self.reach, self.margin, self.layers = net.input.reach, net.margin, len(net.stack)
        self.left, self.diagonal = net.stack[0].states.left, net.kind == "diagonal"
        directions = [layer.states.both for layer in net.stack]
        self.scans = [_Scan(items) for items in zip(*directions, strict=True)]
        self.input = net.input
        wide, colours = self.groups * self.width, range(self.groups)
        beside, bias = net.input.beside.matrix().T, cast("Tensor", net.input.beside.bias)
        parts = [self.part(k, self.features) for k in colours]
        self.beside = [(beside[parts[k], : self.reach * wide + k * self.width].contiguous(), bias[parts[k]]) for k in colours]
        ahead = [scans[0] for scans in directions]  # the direction that follows the order, of every layer
        self.near = [[self._near(item.inputs.masked(), k) for k in colours] for item in ahead]
        self.states = [[item.state.weight[self.part(k, 4 * self.hidden), : self.hidden].contiguous() for k in colours] for item in ahead]
        self.out = [[self._slice(layer.out, k) for k in colours] for layer in net.stack]
        self.head = [[self._slice(layer, k) for k in colours] for layer in (net.first, net.second)]

    def part(self, group: int, channels: int) -> slice:
        """The channels of a group."""
        each = channels // self.groups
        return slice(group * each, (group + 1) * each)

    def _near(self, weight: Tensor, group: int) -> Tensor:
        read = self.left * self.features + self.part(group, self.features).stop
        return weight[self.part(group, len(weight)), :read].contiguous()

    def _slice(self, layer: GroupedLinear, group: int) -> tuple[Tensor, Tensor]:
        outputs, inputs = layer.weight.shape
        rows = self.part(group, outputs)
        return layer.weight[rows, : self.part(group, inputs).stop].contiguous(), layer.bias[rows]


class PixelRNNCache:
    """The last rows of a batch of pictures that are sampled value by value, in float32, and the network's weights, masked and sliced.

    Attributes:
        started: Whether the first call, which takes the condition in, has been made.
    """

    _buffers = ("pixels", "above", "x", "base", "hidden", "cells", "carried", "right", "head", "start")

    def __init__(self, net: PixelRNN, batch: int, device: torch.device | str) -> None:
        with torch.no_grad():
            self.weights = w = _Weights(net)
        self.length, self.started = 0, False
        columns, colours = w.columns + w.margin, w.groups * w.width

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        # The batch is axis 1 of each. States and cells have a column before the first; features have as many as are read to the left.
        self.pixels = zeros(w.reach + 1, batch, columns + 2 * w.reach, colours)  # the rows that the first convolution reads
        self.above = zeros(1, batch, columns, w.features)  # its contribution from the rows above to this row
        self.x = zeros(w.layers + 1, batch, w.left + columns, w.features)  # this row, before every layer and after the last
        self.base = zeros(w.layers, batch, columns, 4 * w.hidden)  # gates, from the row above and the condition
        self.hidden = zeros(w.layers, batch, 1 + columns, w.hidden)  # this row's states; right of the current pixel, the row above's
        self.cells = zeros(w.layers, batch, 1 + columns, w.hidden)
        self.carried = zeros(w.layers, batch, 0 if w.diagonal else columns, w.hidden)  # row LSTM: the cells of the row above
        self.right = zeros(w.layers, batch, columns if w.diagonal else 0, w.hidden)  # states from the right, of the row above
        self.head = zeros(1, batch, colours)  # between the last two layers, this pixel
        self.start = zeros(1, batch, w.width)  # the first embedding
        self.shifts: list[Tensor] = []  # bias and condition of each direction, (L, B or 1, 1, 4h)

    @property
    def batch(self) -> int:
        """Number of items ``B``."""
        return self.head.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows held."""
        return sum(getattr(self, name).nbytes for name in self._buffers)

    def rows(self, index: slice) -> PixelRNNCache:
        """A cache of some items that shares this one's memory but has its own cursor."""
        part = copy.copy(self)
        for name in self._buffers:
            setattr(part, name, getattr(self, name)[:, index])
        part.shifts = [shift if shift.shape[1] == 1 else shift[:, index] for shift in self.shifts]
        return part

    def begin(self, first: Tensor, pooled: Tensor | None) -> None:
        """Store the first embedding, ``(B, D)``, and the condition, ``(B, condition width)``."""
        self.start[0] = first
        self.shifts = [scan.shift(pooled) for scan in self.weights.scans]
        self.started = True

    def step(self, before: Tensor) -> Tensor:
        """The hidden vector of the next value, given the vector of the value before it: ``(B, D)`` to ``(B, D)``."""
        w = self.weights
        row, column, colour = w.grid.place(self.length)
        if self.length:
            past_row, past_column, past_colour = w.grid.place(self.length - 1)
            self.pixels[-1][:, past_column + w.reach, w.part(past_colour, w.groups * w.width)] = before
            if past_row < row and w.diagonal:
                for each in range(w.groups):
                    self._features(w.columns, each)  # the column after the last, which depends on the whole row
                self._from_right(first=past_row == 0)
        if (column, colour) == (0, 0):
            self._begin_row(first=row == 0)
        self._features(column, colour)
        (weight, bias), (last, last_bias) = (layer[colour] for layer in w.head)
        features = F.relu(self.x[-1][:, column + w.left, : weight.shape[1]])
        self.head[0][:, w.part(colour, w.groups * w.width)] = F.relu(F.linear(features, weight, bias))
        self.length += 1
        return F.linear(self.head[0][:, : last.shape[1]], last, last_bias)

    def _features(self, column: int, colour: int) -> None:
        """One colour group of one pixel through all layers, into this row's maps."""
        w = self.weights
        feature_part, gate_part, state_part = (w.part(colour, channels) for channels in (w.features, 4 * w.hidden, w.hidden))
        weight, bias = w.beside[colour]
        window = self.pixels[-1][:, column : column + w.reach + 1].flatten(1)[:, : weight.shape[1]]
        x = self.above[0][:, column, feature_part] + F.linear(window, weight, bias)
        # Cells come from the pixel to the left, or from the row above.
        cells_before = self.cells if w.diagonal else self.carried
        for layer in range(w.layers):
            self.x[layer][:, column + w.left, feature_part] = x
            weight = w.near[layer][colour]
            near = self.x[layer][:, column : column + w.left + 1].flatten(1)[:, : weight.shape[1]]
            gates = self.base[layer][:, column, gate_part] + F.linear(near, weight)
            if w.diagonal:
                gates = gates + F.linear(self.hidden[layer][:, column], w.states[layer][colour])
            state, cell = lstm(gates, cells_before[layer][:, column, state_part], 1)
            self.hidden[layer][:, column + 1, state_part] = state
            self.cells[layer][:, column + 1, state_part] = cell
            weight, bias = w.out[layer][colour]
            hidden = self.hidden[layer][:, column + 1, : weight.shape[1]]
            if w.diagonal:
                hidden = hidden + self.right[layer][:, column, : weight.shape[1]]
            x = x + F.linear(hidden, weight, bias)
        self.x[-1][:, column + w.left, feature_part] = x

    def _begin_row(self, first: bool) -> None:
        """All that depends on the rows above, for the whole row and all layers."""
        w = self.weights
        scan, columns = w.scans[0], w.columns + w.margin
        if not first:
            self.pixels[:-1] = self.pixels[1:].clone()
            self.pixels[-1] = 0
        before = self.pixels[:-1, :, w.reach : w.reach + columns].permute(1, 3, 0, 2)
        self.above[0] = w.input.above.row(before).transpose(1, 2)
        states = scan.start(0, self.batch, columns) if first else self.hidden[:, :, 1:]
        between = scan.states
        if w.diagonal:
            between = between[:, w.hidden :]
            self.hidden[:, :, :1], self.cells[:, :, :1] = scan.start(0, self.batch, 1), scan.start(1, self.batch, 1)
        else:
            self.carried.copy_(scan.start(1, self.batch, columns) if first else self.cells[:, :, 1:])
            states = around(states)
        self.base.copy_(torch.bmm(states.flatten(1, 2), between).view_as(self.base) + self.shifts[0])

    def _from_right(self, first: bool) -> None:
        """The states from the right of the finished row, for all layers; ``first``: it is the picture's first row."""
        w, scan = self.weights, self.weights.scans[1]
        columns = w.columns + w.margin
        above = scan.start(0, self.batch, columns) if first else self.right
        gates = torch.bmm(self.x[:-1].flatten(1, 2), scan.inputs) + torch.bmm(above.flatten(1, 2), scan.states[:, w.hidden :])
        gates = gates.unflatten(1, (self.batch, columns)) + self.shifts[1]
        state, cell = (scan.start(which, self.batch, 1)[:, :, 0] for which in (0, 1))
        for column in reversed(range(columns)):
            state, cell = lstm(torch.baddbmm(gates[:, :, column], state, scan.states[:, : w.hidden]), cell, w.groups)
            self.right[:, :, column] = state
