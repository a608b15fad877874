"""Layers of the transformer, up to the block.

Inside, a batch is a list of rows, ``(B n, D)``: all maps but attention work row by row, and products of matrices need no reshaping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from jielong.networks.attention import attention
from jielong.networks.eligibility import is_exactly
from jielong.networks.norm import Norm, NormKind
from jielong.networks.rope import Rotation

Activation = Literal["swiglu", "gelu"]
ConditionPath = Literal["prefix", "cross", "adaln"]
KeysValues = tuple[Tensor, Tensor]  # each (B, heads, length, head width)
Remember = Callable[[Tensor, Tensor], KeysValues]
"""Takes the keys and values of this pass, and gives those that attention is to see."""


@dataclass(frozen=True)
class Sight:
    """What one pass without a cache may see: made once, shared by all layers.

    Attributes:
        batch: Items ``B`` that the rows belong to, ``n`` rows each.
        rotation: Rotations of the positions; ``None`` leaves them as they are.
        mask: Added to the scores of self-attention.
        causal: Whether self-attention is causal (then there is no mask).
        cross: A layer's keys and values of the condition.
        cross_mask: Added to the scores of cross-attention.
        modulation: A layer's shifts, scales and gates, and those of the last norm.
        memory: Keys and values of places that this pass does not compute.
    """

    batch: int
    rotation: Rotation | None
    mask: Tensor | None
    causal: bool
    cross: list[KeysValues]
    cross_mask: Tensor | None
    modulation: list[tuple[Tensor, ...]]
    memory: Remember | None = None


def add_linear(x: Tensor, linear: nn.Linear, h: Tensor, dropout: float = 0.0) -> Tensor:
    """``x + dropout(linear(h))`` on rows, in one operation where that is possible."""
    autocast = torch.is_autocast_enabled(x.device.type)
    if not dropout and not autocast and is_exactly(linear, nn.Linear) and linear.bias is None and x.dtype == h.dtype:
        return torch.addmm(x, h, linear.weight.t())
    return x + F.dropout(linear(h), dropout)


class SelfAttention(nn.Module):
    """Multi-head attention of positions to each other, one product for queries, keys and values; :attr:`out` is left to the caller."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool, bias: bool, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.q_norm = Norm(width // heads, "rms", norm_eps) if qk_norm else None
        self.k_norm = Norm(width // heads, "rms", norm_eps) if qk_norm else None

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        """``(B n, D)`` to ``(B n, D)``."""
        rows, width = x.shape
        qkv = self.qkv(x).view(sight.batch, rows // sight.batch, 3, self.heads, width // self.heads)
        if sight.rotation is not None and self.q_norm is None:
            q, k, v = sight.rotation.of_projection(qkv)
        else:
            q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().unbind(0)  # (B, heads, n, head width) each
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
            if sight.rotation is not None:
                q, k = sight.rotation(q), sight.rotation(k)
        if sight.memory is not None:
            k, v = sight.memory(k, v)
        return attention(q, k, v, sight.mask, sight.causal).transpose(1, 2).reshape(rows, width)


class CrossAttention(nn.Module):
    """Multi-head attention of positions to the states of the condition; :attr:`out` is left to the caller."""

    def __init__(self, width: int, heads: int, states: int, *, qk_norm: bool, bias: bool, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(states, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.q_norm = Norm(width // heads, "rms", norm_eps) if qk_norm else None
        self.k_norm = Norm(width // heads, "rms", norm_eps) if qk_norm else None

    def keys_values(self, states: Tensor) -> KeysValues:
        """Keys and values of the condition's ``(B, L, W)`` states: the same at every step of sampling."""
        k, v = self.kv(states).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        return (k if self.k_norm is None else self.k_norm(k)), v

    def forward(self, x: Tensor, sight: Sight, layer: int) -> Tensor:
        """``(B n, D)`` to ``(B n, D)``."""
        rows, width = x.shape
        q = self.q(x).view(sight.batch, rows // sight.batch, self.heads, width // self.heads).transpose(1, 2)
        if self.q_norm is not None:
            q = self.q_norm(q)
        return attention(q, *sight.cross[layer], sight.cross_mask).transpose(1, 2).reshape(rows, width)


class _GatedSiLU(Function):
    """``silu(gate) * value`` of rows ``(gate | value)``, whose gradient is written in one piece instead of two that are joined."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        gate, value = h.chunk(2, dim=-1)
        swish = F.silu(gate)
        ctx.save_for_backward(h, swish)
        return swish * value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        h, swish = ctx.saved_tensors
        gate, value = h.chunk(2, dim=-1)
        made = torch.empty_like(h)
        of_gate, of_value = made.chunk(2, dim=-1)
        torch.mul(gradient, swish, out=of_value)
        torch.mul(gradient, value, out=of_gate)
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return made


class FeedForward(nn.Module):
    """``act(W1 x)``, or SwiGLU ``silu(Wg x) * Wu x`` (arXiv 2002.05202) with one product for both; :attr:`down` is left to the caller."""

    def __init__(self, width: int, hidden: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.gated = activation == "swiglu"
        self.up = nn.Linear(width, hidden * (2 if self.gated else 1), bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., hidden)``."""
        h = self.up(x)
        if self.gated:
            made: Tensor = _GatedSiLU.apply(h)
            return made
        return F.gelu(h, approximate="tanh")


class Block(nn.Module):
    """Pre-norm residual branches: self-attention, attention to the condition if there is any, feed-forward."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        hidden: int,
        norm: NormKind,
        activation: Activation,
        qk_norm: bool,
        condition: ConditionPath | None,
        condition_width: int,
        dropout: float,
        bias: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        adaptive = condition == "adaln"
        self.attention_norm = Norm(width, norm, norm_eps, affine=not adaptive)
        self.attention = SelfAttention(width, heads, qk_norm=qk_norm, bias=bias, norm_eps=norm_eps)
        self.cross_norm = self.cross = None
        if condition == "cross":
            self.cross_norm = Norm(width, norm, norm_eps)
            self.cross = CrossAttention(width, heads, condition_width, qk_norm=qk_norm, bias=bias, norm_eps=norm_eps)
        self.forward_norm = Norm(width, norm, norm_eps, affine=not adaptive)
        self.feed_forward = FeedForward(width, hidden, activation, bias)
        self.modulation = nn.Linear(width, 6 * width) if adaptive else None
        self.dropout = dropout

    def forward(self, x: Tensor, sight: Sight, layer: int) -> Tensor:
        """``(B n, D)`` to ``(B n, D)``."""
        if self.modulation is not None:
            return self._adaptive(x, sight, layer)
        dropout = self.dropout if self.training else 0.0
        x = add_linear(x, self.attention.out, self.attention(self.attention_norm(x), sight), dropout)
        if self.cross is not None and self.cross_norm is not None:
            x = add_linear(x, self.cross.out, self.cross(self.cross_norm(x), sight, layer), dropout)
        return add_linear(x, self.feed_forward.down, self.feed_forward(self.forward_norm(x)), dropout)

    def _adaptive(self, x: Tensor, sight: Sight, layer: int) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = sight.modulation[layer]
        h = self.attention.out(self.attention(modulate(self.attention_norm(x), shift, scale), sight))
        x = self._gated(x, gate, h)
        h = self.feed_forward.down(self.feed_forward(modulate(self.forward_norm(x), shift2, scale2)))
        return self._gated(x, gate2, h)

    def _gated(self, x: Tensor, gate: Tensor, h: Tensor) -> Tensor:
        h = F.dropout(h, self.dropout, self.training).to(x.dtype).view(len(gate), -1, x.shape[-1])
        return torch.addcmul(x.view_as(h), gate.to(x.dtype), h).flatten(0, 1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x (1 + scale) + shift`` on rows ``(B n, D)``, with one ``(B, 1, D)`` shift and scale an item."""
    items = x.view(len(shift), -1, x.shape[-1])
    return torch.addcmul(shift.to(x.dtype), items, 1 + scale.to(x.dtype)).flatten(0, 1)
