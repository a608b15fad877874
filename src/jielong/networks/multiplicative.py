"""Multiplicative units and the residual blocks of the video pixel network (arXiv 1610.00527, section 4.1).

A unit has four maps of its input ``h``, of as many channels each, and gates like an LSTM's without a recurrence:

    g_1 = sigmoid(W_1 * h)    g_2 = sigmoid(W_2 * h)    g_3 = sigmoid(W_3 * h)    u = tanh(W_4 * h)
    MU(h) = g_1 tanh(g_2 h + g_3 u)

A block is ``x + W_2 MU(MU(W_1 x))``, with 1x1 convolutions to half of the channels and back. The ablation's unit is ``relu(W * h)`` in the
same block.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.gated import initialise
from jielong.networks.repeated import RepeatedBlock

Unit = Literal["multiplicative", "relu"]
MAPS: dict[Unit, int] = {"multiplicative": 4, "relu": 1}
"""Maps of its input that a unit reads."""


def activate(unit: Unit, maps: Tensor, h: Tensor, dim: int = 1) -> Tensor:
    """The output of a unit from its maps, before their non-linearities and one after the other along ``dim``, and its input ``h``."""
    if unit == "relu":
        return F.relu(maps)
    size = h.shape[dim]
    gates, content = maps.narrow(dim, 0, 3 * size).sigmoid(), maps.narrow(dim, 3 * size, size).tanh()
    leave, keep, enter = gates.chunk(3, dim)
    return leave * torch.addcmul(keep * h, enter, content).tanh()


@torch.no_grad()
def initialise_unit(convolution: nn.Conv2d, unit: Unit, gain: float = 1.0) -> None:
    """Weights of :func:`initialise`; biases of gates 1, as of an LSTM's forget gate, so that a new unit lets most of its input pass."""
    initialise(convolution, gain * (math.sqrt(2) if unit == "relu" else 1.0))
    if unit == "multiplicative" and convolution.bias is not None:
        convolution.bias[: 3 * convolution.out_channels // 4] = 1.0


class MultiplicativeBlock(RepeatedBlock):
    """A residual multiplicative block, ``(B, F, H, W)`` to the same; nothing is masked.

    Args:
        features: Channels ``F``, even; inside the block there are half as many.
        unit: ``multiplicative`` or ``relu``.
        dilation: Distance of the taps of both 3x3 convolutions.
        depth: Blocks of the stack that this one is in, for its first weights.
    """

    def __init__(self, features: int, unit: Unit, dilation: int = 1, depth: int = 1) -> None:
        super().__init__()
        inner, self.unit = features // 2, unit
        self.enter, self.leave = nn.Conv2d(features, inner, 1), nn.Conv2d(inner, features, 1)
        self.units = nn.ModuleList(nn.Conv2d(inner, MAPS[unit] * inner, 3, padding=dilation, dilation=dilation) for _ in range(2))
        initialise(self.enter)
        initialise(self.leave, 1 / math.sqrt(depth))
        for convolution in self.units:
            assert isinstance(convolution, nn.Conv2d)
            initialise_unit(convolution, unit)

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        h = self.enter(x)
        for convolution in self.units:
            h = activate(self.unit, convolution(h), h)
        return x + self.leave(h)
