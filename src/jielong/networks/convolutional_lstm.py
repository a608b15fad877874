"""A convolutional LSTM: an LSTM over time at every place of a map, whose maps are 3x3 convolutions (arXiv 1506.04214; peepholes: none)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jielong.networks.gated import initialise
from jielong.networks.recurrence import lstm


@dataclass(frozen=True)
class LSTMState:
    """State and cell after some frames, ``(B, F, H, W)`` float32 each."""

    hidden: Tensor
    cell: Tensor

    def rows(self, index: slice) -> LSTMState:
        """The state of some items."""
        return LSTMState(self.hidden[index], self.cell[index])


class ConvolutionalLSTM(nn.Module):
    """``(B, T, F, H, W)`` to states of the same shape; the resolution stays, and the first state is zero. ``features``: ``F``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.inputs = nn.Conv2d(features, 4 * features, 3, padding=1)
        self.state = nn.Conv2d(features, 4 * features, 3, padding=1, bias=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights N(0, 1 / (2 inputs)), as the two maps are added; biases of forget gates 1, others 0."""
        for convolution in (self.inputs, self.state):
            initialise(convolution, math.sqrt(0.5))
        assert self.inputs.bias is not None
        self.inputs.bias.view(4, -1)[1] = 1.0

    def first(self, batch: int, rows: int, columns: int) -> LSTMState:
        """The state before the first frame."""
        zero = torch.zeros(batch, self.features, rows, columns, device=self.state.weight.device)
        return LSTMState(zero, zero)

    def forward(self, x: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """The states after each frame, and the last with its cell, going on from ``state``."""
        now = self.first(len(x), *x.shape[-2:]) if state is None else state
        gates, found = self.inputs(x.flatten(0, 1)).unflatten(0, x.shape[:2]), []
        for each in gates.unbind(1):
            full = (each + self.state(now.hidden.to(each.dtype))).movedim(1, -1)
            hidden, cell = lstm(full, now.cell.movedim(1, -1), groups=1)
            now = LSTMState(hidden.movedim(-1, 1), cell.movedim(-1, 1))
            found.append(now.hidden)
        return torch.stack(found, dim=1).to(gates.dtype), now
