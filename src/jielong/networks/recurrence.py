"""The two recurrent layers of PixelRNN (arXiv 1601.06759, section 3): the row LSTM and the diagonal BiLSTM.

Maps are channels-last, ``(B, H, W, F)``. With several colours the channels are in ``G`` contiguous groups, and so are the gates; a group of
a pixel reads earlier groups of that pixel and itself (mask B). State-to-state weights need no mask: they read complete pixels.

The input-to-state part of the gates is one product for the whole map. The rest is sequential: a product for each row, or diagonal, of the
whole batch. Diagonals are not skewed and padded: pixels are sorted by their diagonal, and only those that exist are computed.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.eligibility import can_fuse
from jielong.networks.masked_convolution import colour_mask


class GroupedLinear(nn.Linear):
    """A linear map ``(..., inputs) -> (..., outputs)`` under mask B: a 1x1 convolution that keeps colours in their order.

    ``groups``: colour groups ``G``; ``before``: leading input channels, of pixels to the left, which all groups may read.
    """

    mask: Tensor | None

    def __init__(self, inputs: int, outputs: int, groups: int, before: int = 0) -> None:
        super().__init__(before + inputs, outputs)
        mask = F.pad(colour_mask(outputs, inputs, groups, mask_b=True), (before, 0), value=1.0)
        self.register_buffer("mask", mask if groups > 1 else None, persistent=False)

    def masked(self) -> Tensor:
        """The masked weight, ``(outputs, before + inputs)``."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """``W x + b`` with the masked weight."""
        return F.linear(x, self.masked(), self.bias)


def lstm(gates: Tensor, cell: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """One step of an LSTM in float32 (eq. 3): ``c = f c' + i g``, ``h = o tanh(c)``. Returns state and cell, ``(..., G n)``.

    Args:
        gates: ``(..., G 4 n)`` before their non-linearities: in every group the output, forget and input gates and the content.
        cell: ``(..., G n)``, the previous cell.
    """
    with torch.autocast(gates.device.type, enabled=False):
        parts = gates.float().unflatten(-1, (groups, 4, -1))
        output, forget, enter = parts[..., :3, :].sigmoid().unbind(-2)
        cell = torch.addcmul(enter * parts[..., 3, :].tanh(), forget, cell.unflatten(-1, (groups, -1)))
        return (output * cell.tanh()).flatten(-2), cell.flatten(-2)


class Direction(nn.Module):
    """The weights of one direction of an LSTM.

    Args:
        left: Pixels to the left in the kernel of the input-to-state convolution.
        neighbours: States that the state-to-state convolution reads.
        condition_width: Channels of a pooled condition, which is a bias of all gates; ``None`` for none.
    """

    def __init__(self, features: int, hidden: int, groups: int, left: int, neighbours: int, condition_width: int | None) -> None:
        super().__init__()
        self.hidden, self.groups = hidden, groups
        self.inputs = GroupedLinear(features, 4 * hidden, groups, before=left * features)
        self.state = nn.Linear(neighbours * hidden, 4 * hidden, bias=False)
        self.condition = nn.Linear(condition_width, 4 * hidden, bias=False) if condition_width is not None else None
        self.first = nn.Parameter(torch.zeros(2, hidden))
        """Initial state and cell."""

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights N(0, 1 / inputs), those of the condition 0; biases of forget gates 1, other biases 0."""
        for layer in (self.inputs, self.state):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
        nn.init.zeros_(self.inputs.bias)
        self.inputs.bias.view(self.groups, 4, -1)[:, 1] = 1.0
        if self.condition is not None:
            nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.first)

    def shift(self, pooled: Tensor | None) -> Tensor:
        """What the condition adds to every pixel's gates: ``(B, 4 hidden)``, or a zero that broadcasts."""
        if self.condition is None or pooled is None:
            return self.inputs.bias.new_zeros(1, 4 * self.hidden)
        return self.condition(pooled)


class Recurrence(nn.Module, ABC):
    """A recurrent layer over maps: features ``(B, H, W, F)`` to states ``(B, H, W, hidden)``."""

    margin: int
    """Additional columns of the map on the right."""
    left: int
    """Pixels to the left in the kernel of the input-to-state convolution."""
    directions: nn.ModuleList

    @property
    def both(self) -> list[Direction]:
        """Its directions: the one that follows the order, then, if there is one, the one from the right."""
        return [cast("Direction", item) for item in self.directions]

    @abstractmethod
    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """States of the whole map. ``x``: ``(B, H, W + margin, F)``; ``pooled``: the condition, ``(B, condition width)``."""


class RowLSTM(Recurrence):
    """An LSTM down the rows: a pixel reads three states above; its receptive field is a triangle (section 3.1); ``kernel`` is odd."""

    margin = 0

    def __init__(self, features: int, hidden: int, groups: int = 1, condition_width: int | None = None, kernel: int = 3) -> None:
        super().__init__()
        self.left = kernel // 2  # the mask zeroes the right half of the kernel, so only the left one is kept
        self.directions = nn.ModuleList([Direction(features, hidden, groups, self.left, 3, condition_width)])

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """States of the whole map, row by row."""
        (down,) = self.both
        batch, _, columns, _ = x.shape
        padded = F.pad(x, (0, 0, self.left, 0))
        near = torch.cat([padded[:, :, tap : tap + columns] for tap in range(self.left + 1)], dim=-1) if self.left else x
        gates = down.inputs(near) + down.shift(pooled)[:, None, None]
        hidden, cell = (item.expand(batch, columns, -1) for item in down.first)
        rows = []
        for row in gates.unbind(1):
            hidden, cell = lstm(row + down.state(around(hidden)), cell, down.groups)
            rows.append(hidden)
        return torch.stack(rows, dim=1)


def around(row: Tensor) -> Tensor:
    """A row's states with their left and right neighbours, zero-padded: ``(..., W, h) -> (..., W, 3 h)``."""
    columns, padded = row.shape[-2], F.pad(row, (0, 0, 1, 1))
    return torch.cat([padded[..., tap : tap + columns, :] for tap in range(3)], dim=-1)


class DiagonalBiLSTM(Recurrence):
    """Two LSTMs along the diagonals, from the left and from the right; their receptive field is all above and to the left (section 3.2).

    A state reads the one beside it and the one above it. The states from the right are shifted down by one row before they are added: in
    the pixel's row they depend on later pixels. The map is one column wider than the picture: features depend only on columns to their
    left, so the additional column alone depends on the last pixel of its row, which the next row could not read otherwise.
    """

    margin, left = 1, 0

    def __init__(self, features: int, hidden: int, groups: int = 1, condition_width: int | None = None) -> None:
        super().__init__()
        self.directions = nn.ModuleList(Direction(features, hidden, groups, 0, 2, condition_width) for _ in range(2))

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """States of the whole map, one diagonal of both directions after the other."""
        (batch, rows, columns, _), both = x.shape, self.both
        hidden, groups = both[0].hidden, both[0].groups
        order, inverse, sizes = diagonals(rows, columns)
        pixels = x.flatten(1, 2).transpose(0, 1)[order.to(x.device).flatten()].unflatten(0, (2, -1))  # (2, HW, B, F)
        between: Tensor | None = None  # (2, 2h, 4h)
        if can_fuse(both, (Direction, GroupedLinear, nn.Linear)):
            weights = torch.stack([item.inputs.masked().T for item in both])
            shifts = torch.stack([item.inputs.bias + item.shift(pooled) for item in both])  # (2, B or 1, 4h)
            gates = (torch.bmm(pixels.flatten(1, 2), weights).unflatten(1, (-1, batch)) + shifts[:, None]).flatten(1, 2)
            between = torch.stack([item.state.weight.T for item in both])
        else:
            gates = torch.stack([item.inputs(p) + item.shift(pooled) for item, p in zip(both, pixels, strict=True)]).flatten(1, 2)
        start, first = (item[:, None, None].expand(2, 1, batch, hidden) for item in torch.stack([item.first for item in both], dim=1))
        # States of the previous diagonal from its top row to its bottom row, preceded by the row above that, if there is one.
        states, cells, outputs = start, first[:, :0], []
        for number, now in enumerate(gates.split([size * batch for size in sizes], dim=1)):
            if number < rows:  # a new row begins
                states, cells = torch.cat([states, start], dim=1), torch.cat([cells, first], dim=1)
            near = torch.cat([states[:, 1:], states[:, :-1]], dim=-1)  # beside, above
            if between is None:
                full = now + torch.stack([item.state(n) for item, n in zip(both, near.flatten(1, 2), strict=True)])
            else:
                full = torch.baddbmm(now, near.flatten(1, 2), between)
            state, cell = lstm(full.unflatten(1, (-1, batch)), cells, groups)
            outputs.append(state)
            # The top row reads the learned start; when a row is complete, its last state is read by the row below.
            whole = number < columns - 1
            states = torch.cat([start, state], dim=1) if whole else state
            cells = cell if whole else cell[:, 1:]
        from_left, from_right = torch.cat(outputs, dim=1)
        after, before = inverse.to(x.device)
        below = F.pad(from_right[before[: (rows - 1) * columns]], (0, 0, 0, 0, columns, 0))
        return (from_left[after] + below).transpose(0, 1).unflatten(1, (rows, columns))


@functools.lru_cache(maxsize=64)
def diagonals(rows: int, columns: int) -> tuple[Tensor, Tensor, list[int]]:
    """The pixels of a map sorted by diagonals, top row first, from the left and from the right.

    Returns the pixel at every index of the sorted sequence, ``(2, H W)``; the inverse; and the number of pixels of each diagonal.
    """
    with torch.inference_mode(False):
        down, right = torch.arange(rows)[:, None], torch.arange(columns)[None]
        number = torch.stack([(down + right).flatten(), (down + columns - 1 - right).flatten()])
        order = number.argsort(dim=1, stable=True)
        return order, order.argsort(dim=1), number[0].bincount().tolist()
