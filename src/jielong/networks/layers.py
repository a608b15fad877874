"""Layers of the transformer, up to the block.

Inside, a batch is flattened to rows, ``(B n, D)``: all maps but attention work row by row, and matrix products need no reshaping.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from jielong.config.registry import Config
from jielong.networks.attention import attention
from jielong.networks.autograd import GradContext
from jielong.networks.dropout import DropoutSite, current_streams, dropout
from jielong.networks.eligibility import is_exactly
from jielong.networks.factorized import Factor
from jielong.networks.norm import Norm, NormKind
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.rope import Rotation

Activation = Literal["swiglu", "gelu", "gelu_erf"]
QKNorm = bool | Literal["l2"]
ConditionPath = Literal["prefix", "cross", "adaln", "pooled"]
_MAX_LOG_SCALE = math.log(100.0)
KeysValues = tuple[Tensor, Tensor]  # each (B, heads, length, head width)
KeyValueStore = Callable[[Tensor, Tensor], KeysValues]
"""Stores the keys and values of this pass, and returns those that it attends to."""


class LayerConfig(Config):
    """What all layers of a transformer share.

    Attributes:
        width: Channels ``D`` of a position.
        heads: Attention heads of a layer.
        hidden: Channels inside the feed-forward part; by default ``4 D``, and for SwiGLU ``8/3 D`` rounded up to a multiple of 64.
        norm: ``rms`` or ``layer``.
        activation: ``swiglu``, ``gelu`` by the approximation with tanh (VAR, GPT-2), or ``gelu_erf``, the exact one (MAR, TiTok).
        qk_norm: Normalise queries and keys, head by head, before rotation: root-mean-square norms (``true``), or to length 1 with one
            learned scale a head in place of ``1 / sqrt(head width)``, ``exp(min(s, ln 100))`` with ``s`` from ``ln 4`` (``l2``, VAR).
        qk_norm_eps: Least length that ``l2`` divides by.
        rotary: Whether coordinates rotate queries and keys; off in models that learn their positions alone (VAR, MAR).
        rope_base: Longest wavelength of rotary positions over ``2 pi``.
        condition: How a condition enters: its states before the tokens (``prefix``), by cross-attention (``cross``), its pooled vector in
            adaptive norms (``adaln``), or that vector alone where there is a place for it, without states (``pooled``): at the chain's
            start of the transformer (LlamaGen), in the buffer of ``mar`` (MAR); unused without one.
        dropout: Probability of dropping a channel of a residual branch.
        adaln_hidden: Whether ``adaln`` reads the pooled vector through a linear map and SiLU, or SiLU alone, for a condition of the width
            of the layers (VAR).
        adaln_shared: Whether one map gives the modulation of all layers, each of which adds a vector of its own (VAR of 36 layers).
        bias: Whether linear maps have a bias.
        key_bias: Whether keys of self-attention have one too; off in VAR.
        norm_eps: Added to the variance in norms.
    """

    width: int = Field(default=256, ge=2)
    heads: int = Field(default=4, ge=1)
    hidden: int | None = Field(default=None, ge=1)
    norm: NormKind = "rms"
    activation: Activation = "swiglu"
    qk_norm: QKNorm = False
    qk_norm_eps: float = Field(default=1e-12, gt=0)
    rotary: bool = True
    rope_base: float = Field(default=10_000.0, gt=1)
    condition: ConditionPath = "prefix"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    adaln_hidden: bool = True
    adaln_shared: bool = False
    bias: bool = False
    key_bias: bool = True
    norm_eps: float = Field(default=1e-5, gt=0)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}, so that each head has an even width")
        return self

    @model_validator(mode="after")
    def _options_have_what_they_change(self) -> Self:
        if (not self.adaln_hidden or self.adaln_shared) and self.condition != "adaln":
            raise ValueError(f"adaln_hidden and adaln_shared are of condition: adaln, and condition is {self.condition}: leave them out")
        if not self.key_bias and not self.bias:
            raise ValueError("key_bias: false leaves out one of three biases, and there is none: set bias: true, or leave key_bias out")
        if self.qk_norm == "l2" and self.condition == "cross":
            raise ValueError("qk_norm: l2 is of self-attention alone: take qk_norm: true with condition: cross")
        return self

    @property
    def feed_forward_width(self) -> int:
        """Channels inside the feed-forward part."""
        if self.hidden is not None:
            return self.hidden
        return math.ceil(8 * self.width / 3 / 64) * 64 if self.activation == "swiglu" else 4 * self.width


@dataclass(frozen=True)
class LayerCondition:
    """A condition as the layers read it; the same at every step of sampling."""

    cross: list[KeysValues] = field(default_factory=list)  # keys and values of each layer's cross-attention, each (B, heads, L, head width)
    mask: Tensor | None = None  # added to the scores of cross-attention, (B, 1, 1, L); None where nothing is padded
    # Shifts, scales and gates of each layer's adaptive norms, then shift and scale of the last norm, (B, 1, D) each.
    modulation: list[tuple[Tensor, ...]] = field(default_factory=list)

    def rows(self, index: slice) -> LayerCondition:
        """The condition of some items."""
        return LayerCondition(
            [(key[index], value[index]) for key, value in self.cross],
            None if self.mask is None else self.mask[index],
            [tuple(tensor[index] for tensor in layer) for layer in self.modulation],
        )

    def to(self, dtype: torch.dtype) -> LayerCondition:
        """Keys, values and mask in another dtype."""
        cross = [(key.to(dtype), value.to(dtype)) for key, value in self.cross]
        return LayerCondition(cross, None if self.mask is None else self.mask.to(dtype), self.modulation)


@dataclass(frozen=True)
class AttentionContext:
    """What the layers of one pass attend to, shared by all layers."""

    batch: int  # items B that the rows belong to, n rows each
    rotation: Rotation | None = None  # rotary embedding of the positions; None for none
    mask: Tensor | None = None  # added to the scores of self-attention
    causal: bool = False  # whether self-attention is causal (then there is no mask)
    factor: Factor | None = None  # instead of all of these, attention within frames or along time
    condition: LayerCondition = field(default_factory=LayerCondition)
    prefix: int = 0  # first rows of an item that are a condition's states, as many as the longest of the batch has
    store: KeyValueStore | None = None  # keys and values of positions that this pass does not compute


def add_linear(x: Tensor, linear: nn.Linear, h: Tensor) -> Tensor:
    """``x + linear(h)`` on rows, in one operation where that is possible."""
    autocast = torch.is_autocast_enabled(x.device.type)
    if not autocast and is_exactly(linear, nn.Linear) and linear.bias is None and x.dtype == h.dtype:
        return torch.addmm(x, h, linear.weight.t())
    return x + cast("Tensor", linear(h))


class SelfAttention(nn.Module):
    """Multi-head self-attention with one product for queries, keys and values; :attr:`out` is applied by the caller."""

    def __init__(
        self, width: int, heads: int, *, qk_norm: QKNorm, bias: bool, norm_eps: float, key_bias: bool = True, qk_norm_eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.heads, self.head_width, self.qk_norm_eps = heads, width // heads, qk_norm_eps
        self.qkv = nn.Linear(width, 3 * width, bias=bias and key_bias)
        self.qv_bias = None if key_bias else nn.Parameter(torch.zeros(2 * width))
        self.out = nn.Linear(width, width, bias=bias)
        self.q_norm = Norm(width // heads, "rms", norm_eps) if qk_norm is True else None
        self.k_norm = Norm(width // heads, "rms", norm_eps) if qk_norm is True else None
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(4.0))) if qk_norm == "l2" else None

    @property
    def bias(self) -> Tensor | None:
        """Biases of queries, keys and values, ``(3 D,)``."""
        if self.qv_bias is None:
            return self.qkv.bias
        q, v = self.qv_bias.chunk(2)
        return torch.cat((q, torch.zeros_like(q), v))

    @property
    def scale(self) -> Tensor | None:
        """What multiplies the cosines of queries and keys, ``(heads,)``, where they have length 1."""
        return None if self.log_scale is None else self.log_scale.clamp_max(_MAX_LOG_SCALE).exp()

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """``(B n, D)`` to ``(B n, D)``."""
        rows, width = x.shape
        qkv = self.qkv(x)
        if self.qv_bias is not None and (bias := self.bias) is not None:
            qkv = qkv + bias.to(qkv.dtype)
        qkv = qkv.view(context.batch, rows // context.batch, 3, self.heads, self.head_width)
        if context.rotation is not None and self.q_norm is None and self.log_scale is None:
            q, k, v = context.rotation.of_projection(qkv)
        else:
            q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().unbind(0)  # (B, heads, n, head width) each
            q, k = self._normed(q, k)
            if context.rotation is not None:
                q, k = context.rotation(q), context.rotation(k)
        if context.store is not None:
            k, v = context.store(k, v)
        mixed = attention(q, k, v, context.mask, context.causal) if context.factor is None else context.factor(q, k, v)
        return mixed.transpose(1, 2).reshape(rows, width)

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys as they are compared, but for rotation and the factor ``1 / sqrt(head width)`` of attention."""
        if self.q_norm is not None and self.k_norm is not None:
            return self.q_norm(q), self.k_norm(k)
        if (scale := self.scale) is None:
            return q, k
        scale = scale[:, None, None].float() * math.sqrt(self.head_width)
        units = (F.normalize(each.float(), dim=-1, eps=self.qk_norm_eps) for each in (q, k))
        q_unit, k_unit = units
        return (q_unit * scale).to(q.dtype), k_unit.to(k.dtype)


class CrossAttention(nn.Module):
    """Multi-head attention to the states of the condition; :attr:`out` is applied by the caller."""

    def __init__(self, width: int, heads: int, states: int, *, qk_norm: bool, bias: bool, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(states, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.q_norm = Norm(width // heads, "rms", norm_eps) if qk_norm else None
        self.k_norm = Norm(width // heads, "rms", norm_eps) if qk_norm else None

    def keys_values(self, states: Tensor) -> KeysValues:
        """Keys and values of the condition's states ``(B, L, W)``."""
        k, v = self.kv(states).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        return (k if self.k_norm is None else self.k_norm(k)), v

    def forward(self, x: Tensor, context: AttentionContext, layer: int) -> Tensor:
        """``(B n, D)`` to ``(B n, D)``."""
        rows, width = x.shape
        q = self.q(x).view(context.batch, rows // context.batch, self.heads, width // self.heads).transpose(1, 2)
        if self.q_norm is not None:
            q = self.q_norm(q)
        return attention(q, *context.condition.cross[layer], context.condition.mask).transpose(1, 2).reshape(rows, width)


class _GatedSiLU(Function):
    """``silu(gate) * value`` of rows ``(gate | value)``; the gradient is written into one tensor instead of concatenated."""

    @staticmethod
    def forward(ctx: GradContext, h: Tensor) -> Tensor:
        gate, value = h.chunk(2, dim=-1)
        swish = F.silu(gate)
        ctx.save_for_backward(h, swish)
        return swish * value

    @staticmethod
    @once_differentiable
    def backward(ctx: GradContext, gradient: Tensor) -> Tensor:
        h, swish = ctx.saved_tensors
        gate, value = h.chunk(2, dim=-1)
        grad = torch.empty_like(h)
        grad_gate, grad_value = grad.chunk(2, dim=-1)
        torch.mul(gradient, swish, out=grad_value)
        torch.mul(gradient, value, out=grad_gate)
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad


class FeedForward(nn.Module):
    """``gelu(W1 x)``, or SwiGLU ``silu(Wg x) * Wu x`` (arXiv 2002.05202) in one product; :attr:`down` is applied by the caller."""

    def __init__(self, width: int, hidden: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.gated: bool = activation == "swiglu"
        self.approximate = "none" if activation == "gelu_erf" else "tanh"
        self.up = nn.Linear(width, hidden * (2 if self.gated else 1), bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., hidden)``."""
        h = self.up(x)
        if self.gated and torch.compiler.is_compiling():
            gate, value = h.chunk(2, dim=-1)
            return F.silu(gate) * value
        if self.gated:
            gated: Tensor = _GatedSiLU.apply(h)
            return gated
        return F.gelu(h, approximate=self.approximate)


class AddedModulation(nn.Module):
    """A layer's own share of a modulation that all layers have: ``shared + vector``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))

    def forward(self, shared: Tensor) -> Tensor:
        """``(B, 1, 6 D)`` to the same."""
        return shared + self.vector


class Block(RepeatedBlock, DropoutSite):
    """Pre-norm residual branches: self-attention, cross-attention if the condition enters so, feed-forward."""

    def __init__(self, config: LayerConfig, condition_width: int | None = None) -> None:
        super().__init__()
        width, condition = config.width, None if condition_width is None else config.condition
        adaptive = condition == "adaln"
        self.attention_norm = Norm(width, config.norm, config.norm_eps, affine=not adaptive)
        self.attention = SelfAttention(
            width,
            config.heads,
            qk_norm=config.qk_norm,
            bias=config.bias,
            norm_eps=config.norm_eps,
            key_bias=config.key_bias,
            qk_norm_eps=config.qk_norm_eps,
        )
        self.cross_norm = self.cross = None
        if condition == "cross" and condition_width is not None:
            self.cross_norm = Norm(width, config.norm, config.norm_eps)
            qk_norm = config.qk_norm is True
            self.cross = CrossAttention(width, config.heads, condition_width, qk_norm=qk_norm, bias=config.bias, norm_eps=config.norm_eps)
        self.forward_norm = Norm(width, config.norm, config.norm_eps, affine=not adaptive)
        self.feed_forward = FeedForward(width, config.feed_forward_width, config.activation, config.bias)
        self.modulation: nn.Linear | AddedModulation | None = None
        if adaptive:
            self.modulation = AddedModulation(6 * width) if config.adaln_shared else nn.Linear(width, 6 * width)
        self.dropout = config.dropout

    def forward(self, x: Tensor, context: AttentionContext, layer: int) -> Tensor:
        """``(B n, D)`` to ``(B n, D)``."""
        if self.modulation is not None:
            return self._adaptive(x, context, layer)
        x = self._add(x, self.attention.out, self.attention(self.attention_norm(x), context), context, 0)
        if self.cross is not None and self.cross_norm is not None:
            x = self._add(x, self.cross.out, self.cross(self.cross_norm(x), context, layer), context, 1)
        return self._add(x, self.feed_forward.down, self.feed_forward(self.forward_norm(x)), context, 2)

    def called_alone(self) -> list[nn.Module]:
        """What a pass computes of the condition, for all layers at once (:class:`LayerCondition`)."""
        cross = [] if self.cross is None else [self.cross.kv, self.cross.k_norm]
        return [part for part in (self.modulation, *cross) if part is not None]

    def _add(self, x: Tensor, linear: nn.Linear, h: Tensor, context: AttentionContext, branch: int) -> Tensor:
        if not self.dropout or not self.training:
            return add_linear(x, linear, h)
        return x + self._dropped(linear(h), context, branch)

    def _dropped(self, h: Tensor, context: AttentionContext, branch: int) -> Tensor:
        """Dropout of rows ``(B n, D)`` of a branch, of which a block has up to three."""
        if not self.dropout or not self.training:
            return h
        streams = current_streams(context.batch)
        return dropout(h, self.dropout, self.site + branch, streams, len(h) // context.batch, context.prefix)

    def _adaptive(self, x: Tensor, context: AttentionContext, layer: int) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = context.condition.modulation[layer]
        h = self.attention.out(self.attention(modulate(self.attention_norm(x), shift, scale), context))
        x = self._gated(x, gate, h, context, 0)
        h = self.feed_forward.down(self.feed_forward(modulate(self.forward_norm(x), shift2, scale2)))
        return self._gated(x, gate2, h, context, 2)

    def _gated(self, x: Tensor, gate: Tensor, h: Tensor, context: AttentionContext, branch: int) -> Tensor:
        h = self._dropped(h, context, branch).to(x.dtype).view(len(gate), -1, x.shape[-1])
        return torch.addcmul(x.view_as(h), gate.to(x.dtype), h).flatten(0, 1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x (1 + scale) + shift`` on rows ``(B n, D)``, with one ``(B, 1, D)`` shift and scale an item."""
    items = x.view(len(shift), -1, x.shape[-1])
    return torch.addcmul(shift.to(x.dtype), items, 1 + scale.to(x.dtype)).flatten(0, 1)
