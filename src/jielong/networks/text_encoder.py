"""A small encoder of symbols: convolutions, then a transformer. Padding has no influence."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.attention import additive
from jielong.networks.layers import AttentionContext, Block, LayerConfig
from jielong.networks.norm import Norm
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.rope import Rotary


class _Neighbours(RepeatedBlock):
    """``x + gelu(conv(norm(x)))``, with zeros at padding."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = Norm(width, "rms", 1e-5)
        self.convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, L, D)`` and ``(B, L)`` bool to ``(B, L, D)``."""
        h = self.norm(x).masked_fill(~mask[..., None], 0)
        return x + F.gelu(self.convolution(h.mT)).mT


class TextEncoder(nn.Module):
    """Symbol numbers to states. Raises ``ValueError`` if heads do not divide the width, or the kernel is even.

    Args:
        symbols: Size of the alphabet.
        convolutions: Convolutional layers before them.
        kernel: Kernel size of a convolution; odd.
    """

    def __init__(self, symbols: int, width: int, layers: int, heads: int, convolutions: int = 2, kernel: int = 5) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"{heads} heads with rotary embeddings need a width that is a multiple of {2 * heads}, not {width}")
        if kernel % 2 == 0:
            raise ValueError(f"the kernel must be odd, not {kernel}")
        self.table = nn.Embedding(symbols, width)
        self.neighbours = nn.ModuleList(_Neighbours(width, kernel) for _ in range(convolutions))
        self.blocks = nn.ModuleList(Block(LayerConfig(width=width, heads=heads)) for _ in range(layers))
        self.rotary = Rotary(width // heads, 1, 10_000.0)
        self.norm = Norm(width, "rms", 1e-5)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02 / (math.sqrt(2 * layers) if name.endswith((".out", ".down")) else 1))

    def forward(self, numbers: Tensor, mask: Tensor) -> Tensor:
        """Symbols ``(B, L)`` long, and ``(B, L)`` bool, false at padding, to states ``(B, L, D)``."""
        batch, length = numbers.shape
        x = self.table(numbers)
        for layer in self.neighbours:
            x = layer(x, mask)
        device = x.device
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else x.dtype
        seen = None if bool(mask.all()) else additive(mask, dtype)[:, None, None]  # (B, 1, 1, L)
        rotation = self.rotary(torch.arange(length)[:, None], device, dtype, 0)
        context = AttentionContext(batch, rotation, seen)
        rows = x.flatten(0, 1)
        for index, block in enumerate(self.blocks):
            rows = block(rows, context, index)
        return self.norm(rows).view(batch, length, -1)
