"""The layers of a transformer as a call with a cache runs them: the same numbers as the layers themselves, in fewer operations.

Drawing one token after the other costs little arithmetic and much dispatching, so here

- everything that is alike in all calls is prepared once: transposed weights, constants, memory for what lies between two operations
  and views into it;
- queries and keys leave their product with the two channels of a rotated pair side by side, as complex numbers, so that rotating them
  is one multiplication, which writes keys and values into the cache; the scores do not feel the order of channels;
- the weight of the norm before attention, and the scale of the scores, are part of the weights of that product;
- sums ride on products, in place.

``Transformer.forward`` without a cache is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.attention import attention
from jielong.networks.layers import Block, CrossAttention, modulate
from jielong.networks.norm import Norm
from jielong.networks.rope import Rotation

if TYPE_CHECKING:
    from jielong.networks.cache import Cache

# One or two rows read weights a quarter faster when these are packed; the copy pays after a few calls and may not fill the memory.
PACKED_ROWS, PACKED_CALLS, PACKED_BYTES = 2, 16, 1 << 28


@dataclass(frozen=True)
class _Linear:
    """A linear map, transposed.

    Attributes:
        weight: ``(in, out)``.
        bias: ``(out,)`` or nothing.
    """

    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(linear: nn.Linear, dtype: torch.dtype) -> _Linear:
        return _Linear(linear.weight.to(dtype).t(), None if linear.bias is None else linear.bias.to(dtype))

    def packed(self) -> _Linear:
        """The same with its weights copied, so that those that meet one input stand side by side."""
        return _Linear(self.weight.contiguous(), self.bias)

    def __call__(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        if self.bias is None:
            return torch.mm(h, self.weight, out=out)
        return torch.addmm(self.bias, h, self.weight, out=out)

    def add_to(self, x: Tensor, h: Tensor) -> None:
        """Add to ``x`` what the map makes of ``h``."""
        if self.bias is None and x.dtype == h.dtype:
            x.addmm_(h, self.weight)
        else:
            x.add_(self(h))


class _Layer:
    """What a call needs of one block."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        own, heads = block.attention, block.attention.heads
        width, head = own.qkv.in_features, own.qkv.in_features // heads
        scale = 1 / math.sqrt(head)
        # Norms with a bias, and adaptive ones, stay as they are: only a weight can be part of the next product.
        inside = block.attention_norm.weight if block.attention_norm.kind == "rms" else None
        self.attention_norm = None if inside is not None else block.attention_norm
        self.qkv = _Linear(
            _paired(own.qkv.weight, heads, 1 if own.q_norm else scale, inside).to(dtype).t(),
            None if own.qkv.bias is None else _paired(own.qkv.bias[:, None], heads, 1 if own.q_norm else scale)[:, 0].to(dtype),
        )
        self.head_weight = None
        if own.q_norm is not None and own.k_norm is not None:
            assert own.q_norm.weight is not None
            assert own.k_norm.weight is not None
            order = torch.arange(head, device=own.qkv.weight.device).view(2, -1).t().flatten()
            self.head_weight = torch.stack((own.q_norm.weight.float() * scale, own.k_norm.weight.float()))[:, order].view(2, 1, 1, 1, head)
        self.out = _Linear.of(own.out, dtype)
        self.cross, self.cross_norm = block.cross, block.cross_norm
        self.cross_q = self.cross_out = None
        if isinstance(self.cross, CrossAttention):
            self.cross_q, self.cross_out = _Linear.of(self.cross.q, dtype), _Linear.of(self.cross.out, dtype)
        self.forward_norm: Norm | None = block.forward_norm
        self.up, self.down = _Linear.of(block.feed_forward.up, dtype), _Linear.of(block.feed_forward.down, dtype)
        self.nbytes = sum(each.weight.nbytes for each in (self.qkv, self.out, self.up, self.down))
        self.gated, self.width, self.hidden = block.feed_forward.gated, width, block.feed_forward.up.out_features

    def pack(self) -> None:
        """Copy weights into the order that products with a row or two read fastest, and the weight of a norm into them."""
        norm = self.forward_norm
        if norm is not None and norm.kind == "rms" and norm.weight is not None:
            self.up = _Linear(self.up.weight * norm.weight[:, None].to(self.up.weight.dtype), self.up.bias)
            self.forward_norm = None
        self.qkv, self.out, self.up, self.down = (each.packed() for each in (self.qkv, self.out, self.up, self.down))


def _paired(weight: Tensor, heads: int, scale: float, norm: Tensor | None = None) -> Tensor:
    """The weights ``(3 D, in)`` of queries, keys and values in a new order: channels ``i`` and ``i + half`` of a head side by side.

    Queries are scaled, and the weight of the norm before is taken in.
    """
    parts = weight.detach().float().unflatten(0, (3, heads, 2, -1))  # (3, heads, 2, half, in)
    made = torch.empty_like(parts)
    made[:2].view(2, heads, -1, 2, weight.shape[1]).copy_(parts[:2].transpose(2, 3))
    made[2] = parts[2]
    made[0] *= scale
    if norm is not None:
        made *= norm.float()
    return made.flatten(0, 3)


class _Workspace:
    """Memory for what lies between the operations of a call with ``batch`` items of ``n`` positions, and views into it."""

    def __init__(self, batch: int, n: int, heads: int, layer: _Layer, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self.key = batch, n
        rows, width, head = batch * n, layer.width, layer.width // heads
        wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32  # of norms, rotations and sums
        # Behind the D channels of a row stands sqrt(D eps), so that its norm is sqrt(sum x^2 + D eps).
        self.longer = torch.full((rows, width + 1), math.sqrt(width * eps), dtype=wide, device=device)
        self.x = self.longer[:, :-1]
        self.items = self.x.unflatten(0, (batch, n))
        self.normed = torch.empty(rows, width, dtype=dtype, device=device)
        self.length = torch.empty(rows, 1, dtype=wide, device=device)
        self.qkv = torch.empty(rows, 3 * width, dtype=dtype, device=device)
        self.turning = self.qkv if wide == dtype else torch.empty(rows, 3 * width, dtype=wide, device=device)
        parts = self.turning.view(batch, n, 3, heads, head).permute(2, 0, 3, 1, 4)  # (3, B, heads, n, head width)
        self.drawn_qk, self.drawn_q, self.drawn_kv = parts[:2], parts[0], parts[1:]
        pairs = torch.view_as_complex(self.turning.view(batch, n, 3, heads, head // 2, 2)).permute(2, 0, 3, 1, 4)
        self.pairs_q, self.pairs_kv = pairs[0], pairs[1:]
        self.q = torch.empty(batch, heads, n, head, dtype=dtype, device=device)
        self.q_rows = self.q.view(batch * heads, n, head)
        self.q_complex = torch.view_as_complex(self.q.view(batch, heads, n, head // 2, 2)) if wide == dtype else None
        self.mixed = torch.empty(batch * heads, 1, head, dtype=dtype, device=device) if n == 1 else None
        self.mixed_rows = None if self.mixed is None else self.mixed.view(rows, width)
        self.up = torch.empty(rows, layer.hidden, dtype=dtype, device=device)
        self.gate, self.value = self.up.chunk(2, dim=-1)


class Prepared:
    """The layers and the last norm, prepared for calls with a cache of one dtype; weights changed afterwards are not noticed.

    Dropout is not applied, and no gradients are kept.

    Args:
        blocks: The layers.
        norm: The last norm.
        heads: Attention heads.
        dtype: Of keys, values and products.
    """

    def __init__(self, blocks: Sequence[Block], norm: Norm, heads: int, dtype: torch.dtype) -> None:
        self.layers = [_Layer(block, dtype) for block in blocks]
        self.norm, self.heads, self.dtype = norm, heads, dtype
        self.device = self.layers[0].qkv.weight.device
        # One query is fastest with plain products on the CPU; elsewhere the fused kernel saves launches.
        self.plain = self.device.type == "cpu"
        width = self.layers[0].width
        self._zero = torch.zeros(1, device=self.device)
        self._root = math.sqrt(width)
        self._head_floor = torch.tensor([math.sqrt(width // heads * norm.eps)], device=self.device)
        self._workspace: _Workspace | None = None
        self._may_pack = self.plain and sum(layer.nbytes for layer in self.layers) <= PACKED_BYTES
        self._alone_before = False

    def __call__(self, inputs: Tensor, rotation: Rotation | None, mask: Tensor | None, cache: Cache) -> Tensor:
        """Hidden states ``(B, n, D)`` of inputs ``(B, n, D)``; keys and values go behind the cache's cursor, which stays.

        Args:
            inputs: What stands at the positions.
            rotation: Of the positions; ``None`` leaves them as they are.
            mask: Added to the scores: broadcastable to ``(B, heads, n, length)``, for one position to ``(B, heads, 1, length)``.
            cache: What came before.
        """
        (batch, n, _), start = inputs.shape, cache.length
        space = self._workspace
        if space is None or space.key != (batch, n):
            space = self._workspace = _Workspace(batch, n, self.heads, self.layers[0], self.norm.eps, self.dtype, self.device)
        space.items.copy_(inputs)
        alone = self.plain and n == 1
        # A second position by itself tells a chain of many calls from the first of a few growing scales.
        if self._may_pack and alone and self._alone_before and batch <= PACKED_ROWS and cache.capacity - start >= PACKED_CALLS:
            for layer in self.layers:
                layer.pack()
            self._may_pack = False
        self._alone_before = alone
        seen = cache.memory[..., : start + n, :]  # (layers, 2, B, heads, length, head width)
        keys, values = seen.select(1, 0), seen.select(1, 1)
        if alone:  # products of matrices take keys transposed, and heads as items
            keys, values = keys.flatten(1, 2).mT, values.flatten(1, 2)
            mask = None if mask is None else mask.expand(-1, self.heads, -1, -1).flatten(0, 1)
        if rotation is not None and space.q_complex is not None:
            slots = cache.pairs[..., start : start + n, :]
        else:
            slots = cache.memory[..., start : start + n, :]
        modulation = cache.modulation
        for index, (layer, slot, k, v) in enumerate(zip(self.layers, slots.unbind(0), keys.unbind(0), values.unbind(0), strict=True)):
            shift = scale = gate = shift2 = scale2 = gate2 = None
            if modulation:
                shift, scale, gate, shift2, scale2, gate2 = modulation[index]
            h = self._normed(space, layer.attention_norm, shift, scale)
            self._project(space, layer, h, rotation, slot)
            self._add(space, layer.out, self._attend(space, k, v, mask, alone), gate)
            if layer.cross is not None:
                self._add(space, layer.cross_out, self._cross(space, layer, cache, index), None)
            h = self._normed(space, layer.forward_norm, shift2, scale2)
            self._add(space, layer.down, self._inside(space, layer, h), gate2)
        hidden = self.norm(space.x)
        if modulation:
            hidden = modulate(hidden, *modulation[-1])
        return hidden.view(inputs.shape).to(inputs.dtype)

    def _normed(self, space: _Workspace, norm: Norm | None, shift: Tensor | None, scale: Tensor | None) -> Tensor:
        """The residual stream, normalised; a norm of ``None`` is a root-mean-square norm whose weight is applied later."""
        x, out = space.x, space.normed
        kind, eps = (self.norm.kind, self.norm.eps) if norm is None else (norm.kind, norm.eps)
        weight = None if norm is None else norm.weight
        if kind == "layer" or not self.plain:
            bias = None if norm is None else norm.bias
            h = F.layer_norm(x, x.shape[1:], weight, bias, eps) if kind == "layer" else F.rms_norm(x, x.shape[1:], weight, eps)
            out = h.to(self.dtype)
        else:
            torch.linalg.vector_norm(space.longer, dim=-1, keepdim=True, out=space.length)
            torch.addcdiv(self._zero, x, space.length, value=self._root, out=out)
            if weight is not None:
                out.mul_(weight)
        return out if shift is None or scale is None else modulate(out, shift, scale)

    def _project(self, space: _Workspace, layer: _Layer, h: Tensor, rotation: Rotation | None, slot: Tensor) -> None:
        """Queries into the workspace, keys and values into the cache."""
        layer.qkv(h, space.qkv)
        if space.turning is not space.qkv:
            space.turning.copy_(space.qkv)
        if layer.head_weight is not None:
            length = torch.linalg.vector_norm(space.drawn_qk, dim=-1, keepdim=True).hypot_(self._head_floor)
            space.drawn_qk.div_(length).mul_(layer.head_weight).mul_(math.sqrt(space.q.shape[-1]))
        if rotation is None:
            space.q.copy_(space.drawn_q)
            slot.copy_(space.drawn_kv)
        elif space.q_complex is not None:
            torch.mul(space.pairs_q, rotation.pairs, out=space.q_complex)
            torch.mul(space.pairs_kv, rotation.pairs_of_keys_values, out=slot)
        else:  # there are no complex numbers of low precision
            space.q.copy_(torch.view_as_real(space.pairs_q * rotation.pairs).flatten(-2))
            slot.copy_(torch.view_as_real(space.pairs_kv * rotation.pairs_of_keys_values).flatten(-2))

    @staticmethod
    def _attend(space: _Workspace, k: Tensor, v: Tensor, mask: Tensor | None, alone: bool) -> Tensor:
        if alone and space.mixed is not None and space.mixed_rows is not None:
            scores = torch.bmm(space.q_rows, k) if mask is None else torch.baddbmm(mask, space.q_rows, k)
            torch.bmm(scores.softmax(-1), v, out=space.mixed)
            return space.mixed_rows
        return F.scaled_dot_product_attention(space.q, k, v, mask, scale=1.0).transpose(1, 2).reshape(space.x.shape)

    def _cross(self, space: _Workspace, layer: _Layer, cache: Cache, index: int) -> Tensor:
        assert layer.cross is not None
        assert layer.cross_q is not None
        assert layer.cross_norm is not None
        batch, n = space.key
        q = layer.cross_q(self._normed(space, layer.cross_norm, None, None)).view(batch, n, self.heads, -1).transpose(1, 2)
        if layer.cross.q_norm is not None:
            q = layer.cross.q_norm(q)
        return attention(q, *cache.cross[index], cache.cross_bias).transpose(1, 2).reshape(space.x.shape)

    @staticmethod
    def _inside(space: _Workspace, layer: _Layer, h: Tensor) -> Tensor:
        layer.up(h, space.up)
        if layer.gated:
            return F.silu(space.gate, inplace=True).mul_(space.value)
        return F.gelu(space.up, approximate="tanh")

    @staticmethod
    def _add(space: _Workspace, linear: _Linear | None, h: Tensor, gate: Tensor | None) -> None:
        assert linear is not None
        if gate is None:
            linear.add_to(space.x, h)
        else:
            space.items.addcmul_(gate.to(space.x.dtype), linear(h).view(space.items.shape))
