"""Depth transformer over the codebooks of one position (RQ-Transformer, arXiv 2203.01941; per-codebook weights: Moshi, 2410.00037)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.attention import attention
from jielong.networks.norm import Norm
from jielong.networks.repeated import RepeatedBlock

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values ``(M, heads, k, head width)`` of the codebooks so far, one pair per layer."""


class PerCodebook(nn.Module):
    """One linear map per codebook, or one for all. ``shared``: one map for all codebooks; ``std``: of the initial weights."""

    def __init__(self, codebooks: int, inputs: int, outputs: int, shared: bool = False, std: float = 0.02) -> None:
        super().__init__()
        self.shared = shared
        self.weight = nn.Parameter(torch.randn(1 if shared else codebooks, inputs, outputs) * std)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """``(M, k, inputs)`` to ``(M, k, outputs)``, for codebooks ``first`` to ``first + k``."""
        if self.shared:
            return x @ self.weight[0]
        return torch.bmm(x.transpose(0, 1), self.weight[first : first + x.shape[1]]).transpose(0, 1)


class DepthLayer(RepeatedBlock):
    """Causal attention over the codebooks and SwiGLU, both pre-norm and residual, without position embeddings."""

    def __init__(self, codebooks: int, width: int, heads: int, hidden: int, shared: bool, end_std: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.forward_norm = Norm(width, "rms", 1e-5), Norm(width, "rms", 1e-5)
        self.qkv = PerCodebook(codebooks, width, 3 * width, shared)
        self.out = PerCodebook(codebooks, width, width, shared, end_std)
        self.up = PerCodebook(codebooks, width, 2 * hidden, shared)
        self.down = PerCodebook(codebooks, hidden, width, shared, end_std)

    def forward(self, x: Tensor, first: int, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``(M, k, D)`` from codebook ``first`` on, and keys and values before them; the output, and keys and values up to them."""
        rows, count, width = x.shape
        parts = self.qkv(self.attention_norm(x), first).view(rows, count, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if before is not None:
            k, v = torch.cat((before[0], k), dim=2), torch.cat((before[1], v), dim=2)
        mixed = attention(q, k, v, causal=before is None and count > 1)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, count, width), first)
        gate, value = self.up(self.forward_norm(x), first).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * value, first), (k, v)


class DepthTransformer(nn.Module):
    """Inputs of the codebooks of ``M`` positions to hidden vectors, causal over codebooks.

    ``shared``: one set of weights for all codebooks instead of one for each (Moshi). Raises ``ValueError`` if ``heads`` does not divide
    ``width``.
    """

    def __init__(self, codebooks: int, layers: int, width: int, heads: int, shared: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads: it must be a multiple of the number of heads")
        hidden, end_std = math.ceil(8 * width / 3 / 16) * 16, 0.02 / math.sqrt(2 * layers)
        self.layers = nn.ModuleList(DepthLayer(codebooks, width, heads, hidden, shared, end_std) for _ in range(layers))
        self.norm = Norm(width, "rms", 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """All codebooks in one pass: ``(M, K, D)`` to ``(M, K, D)``."""
        for layer in self.layers:
            x, _ = layer(x, 0, None)
        return self.norm(x)

    def step(self, x: Tensor, codebook: int, memory: Memory) -> Tensor:
        """One codebook: ``(M, 1, D)`` to ``(M, 1, D)``; ``memory``, empty at the first, is extended by its keys and values."""
        for index, layer in enumerate(self.layers):
            x, keys_values = layer(x, codebook, memory[index] if codebook else None)
            memory[index : index + 1] = [keys_values]
        return self.norm(x)
