"""What gated networks (PixelCNN, WaveNet) share: the gate, input scaling and initial weights.

============================================  ================================
weights                                       N(0, 1 / inputs)
the two maps that are added before a gate     N(0, 1 / (2 inputs))
maps that end a residual branch               N(0, 1 / (layers inputs))
maps of the condition                         0
biases                                        0
============================================  ================================
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from jielong.networks.norm import rms_norm


def gate(x: Tensor, dim: int) -> Tensor:
    """``tanh(x_1) sigmoid(x_2)`` of the two halves of an axis (arXiv 1606.05328, eq. 2)."""
    first, second = x.chunk(2, dim=dim)
    return torch.tanh(first) * torch.sigmoid(second)


def unit_rms(vectors: Tensor) -> Tensor:
    """Vectors ``(..., D)`` scaled to a root mean square of 1; embeddings start small, and no norm follows. Zero stays zero."""
    return rms_norm(vectors, None, 1e-6)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Disables autocast for the device of ``x``; free of cost where it is off, which matters when positions are sampled one by one."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


@torch.no_grad()
def initialise(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Weights N(0, gain^2 / inputs of a unit); biases 0."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
