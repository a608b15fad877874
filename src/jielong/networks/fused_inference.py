"""The layers of a transformer in a call with a cache: fused where that is possible, else one module after the other.

Sampling token by token costs little arithmetic and many operator calls. :class:`FusedLayers` therefore

- prepares once what is the same in all calls: transposed weights, constants, buffers for intermediate results and views of them;
- computes queries and keys with the two channels of a rotated pair side by side, as complex numbers: rotation is one multiplication, which
  writes keys and values into the cache (scores do not depend on the order of channels);
- merges the weight of the norm before attention, and the scale of the scores, into the weights of that product;
- adds residual branches in place, as part of the matrix product.

It reads weights and calls no module, so it serves only modules that are known (:mod:`jielong.networks.eligibility`); :class:`PlainLayers`
serves all others. ``Transformer.forward`` without a cache is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.attention import attention, compute_dtype
from jielong.networks.eligibility import can_fuse
from jielong.networks.layers import (
    AddedModulation,
    AttentionContext,
    Block,
    CrossAttention,
    FeedForward,
    KeysValues,
    SelfAttention,
    modulate,
)
from jielong.networks.norm import Norm
from jielong.networks.rope import Rotation

if TYPE_CHECKING:
    from jielong.networks.cache import Cache

# Packed weights make products with one or two rows a quarter to a half faster; the copy pays off after a few calls and is bounded in size.
PACKED_ROWS, PACKED_CALLS, PACKED_BYTES = 2, 16, 1 << 30

Masks = tuple[Tensor | None, ...]
"""Masks that layers take in turn; one for all."""
FUSED = Block, SelfAttention, CrossAttention, FeedForward, AddedModulation, Norm, nn.Linear
"""Modules whose computation fused inference replaces."""


def cached_layers(blocks: Sequence[Block], norm: Norm, heads: int, dtype: torch.dtype) -> FusedLayers | PlainLayers:
    """The layers and the last norm for calls with a cache of one dtype: fused if all of them are eligible."""
    if can_fuse((*blocks, norm), FUSED):
        return FusedLayers(blocks, norm, heads, dtype)
    return PlainLayers(blocks, norm)


@dataclass(frozen=True)
class _Linear:
    """A linear map with transposed weight ``(in, out)`` and bias ``(out,)``."""

    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(linear: nn.Linear, dtype: torch.dtype) -> _Linear:
        return _Linear(linear.weight.to(dtype).t(), None if linear.bias is None else linear.bias.to(dtype))

    def packed(self) -> _Linear:
        """With a contiguous copy of the weight."""
        return _Linear(self.weight.contiguous(), self.bias)

    def __call__(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        if self.bias is None:
            return torch.mm(h, self.weight, out=out)
        return torch.addmm(self.bias, h, self.weight, out=out)

    def add_to(self, x: Tensor, h: Tensor) -> None:
        """``x += map(h)``."""
        if self.bias is None and x.dtype == h.dtype:
            x.addmm_(h, self.weight)
        else:
            x.add_(self(h))


class _Layer:
    """The weights of one block."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        attn, heads = block.attention, block.attention.heads
        width, head = attn.qkv.in_features, attn.qkv.in_features // heads
        scale = 1 / math.sqrt(head)
        # Only a weight can be merged into the next product: norms with a bias, and adaptive ones, stay.
        merged = block.attention_norm.weight if block.attention_norm.kind == "rms" else None
        self.attention_norm = None if merged is not None else block.attention_norm
        bias, unit = attn.bias, attn.scale
        merged_scale = scale if attn.q_norm is None and unit is None else 1
        self.qkv = _Linear(
            _paired(attn.qkv.weight, heads, merged_scale, merged).to(dtype).t(),
            None if bias is None else _paired(bias[:, None], heads, merged_scale)[:, 0].to(dtype),
        )
        self.head_weight, self.head_eps = None, math.sqrt(head * block.attention_norm.eps)
        if attn.q_norm is not None and attn.k_norm is not None:
            assert attn.q_norm.weight is not None
            assert attn.k_norm.weight is not None
            order = torch.arange(head, device=attn.qkv.weight.device).view(2, -1).t().flatten()
            qk_weight = torch.stack((attn.q_norm.weight.float() * scale, attn.k_norm.weight.float()))
            self.head_weight = qk_weight[:, order].view(2, 1, 1, 1, head)
        elif unit is not None:  # of length 1, as root mean squares of 1 / sqrt(head width)
            unit = unit.detach().float() * scale
            self.head_weight, self.head_eps = torch.stack((unit, torch.full_like(unit, scale))).view(2, 1, heads, 1, 1), attn.qk_norm_eps
        self.head_floor = torch.tensor([self.head_eps], device=attn.qkv.weight.device)
        self.out = _Linear.of(attn.out, dtype)
        self.cross, self.cross_norm = block.cross, block.cross_norm
        self.cross_q = self.cross_out = None
        if isinstance(self.cross, CrossAttention):
            self.cross_q, self.cross_out = _Linear.of(self.cross.q, dtype), _Linear.of(self.cross.out, dtype)
        self.forward_norm: Norm | None = block.forward_norm
        self.up, self.down = _Linear.of(block.feed_forward.up, dtype), _Linear.of(block.feed_forward.down, dtype)
        self.nbytes = sum(each.weight.nbytes for each in (self.qkv, self.out, self.up, self.down))
        self.gated, self.width, self.hidden = block.feed_forward.gated, width, block.feed_forward.up.out_features
        self.approximate = block.feed_forward.approximate

    def pack(self) -> None:
        """Copy weights into the order that is fastest for one or two rows, with the weight of the second norm merged."""
        norm = self.forward_norm
        if norm is not None and norm.kind == "rms" and norm.weight is not None:
            self.up = _Linear(self.up.weight * norm.weight[:, None].to(self.up.weight.dtype), self.up.bias)
            self.forward_norm = None
        self.qkv, self.out, self.up, self.down = (each.packed() for each in (self.qkv, self.out, self.up, self.down))


def _paired(weight: Tensor, heads: int, scale: float, norm: Tensor | None = None) -> Tensor:
    """Weights ``(3 D, in)`` of queries, keys and values with channels ``i`` and ``i + half`` of a head of queries and keys side by side.

    Queries are scaled, and the weight of the preceding norm is merged.
    """
    parts = weight.detach().float().unflatten(0, (3, heads, 2, -1))  # (3, heads, 2, half, in)
    paired = torch.empty_like(parts)
    paired[:2].view(2, heads, -1, 2, weight.shape[1]).copy_(parts[:2].transpose(2, 3))
    paired[2] = parts[2]
    paired[0] *= scale
    if norm is not None:
        paired *= norm.float()
    return paired.flatten(0, 3)


class _Workspace:
    """Buffers for the intermediate results of a call with ``batch`` items of ``n`` positions, and views of them."""

    def __init__(self, batch: int, n: int, heads: int, layer: _Layer, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self.key = batch, n
        rows, width, head = batch * n, layer.width, layer.width // heads
        wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32  # of norms, rotations and sums
        # The D channels of a row are followed by sqrt(D eps), so that its norm is sqrt(sum x^2 + D eps).
        self.extended = torch.full((rows, width + 1), math.sqrt(width * eps), dtype=wide, device=device)
        self.x = self.extended[:, :-1]
        self.items = self.x.unflatten(0, (batch, n))
        self.normed = torch.empty(rows, width, dtype=dtype, device=device)
        self.length = torch.empty(rows, 1, dtype=wide, device=device)
        self.qkv = torch.empty(rows, 3 * width, dtype=dtype, device=device)
        self.rotated = self.qkv if wide == dtype else torch.empty(rows, 3 * width, dtype=wide, device=device)
        parts = self.rotated.view(batch, n, 3, heads, head).permute(2, 0, 3, 1, 4)  # (3, B, heads, n, head width)
        self.qk, self.unrotated_q, self.unrotated_kv = parts[:2], parts[0], parts[1:]
        pairs = torch.view_as_complex(self.rotated.view(batch, n, 3, heads, head // 2, 2)).permute(2, 0, 3, 1, 4)
        self.pairs_q, self.pairs_kv = pairs[0], pairs[1:]
        self.q = torch.empty(batch, heads, n, head, dtype=dtype, device=device)
        self.q_rows = self.q.view(batch * heads, n, head)
        self.q_complex = torch.view_as_complex(self.q.view(batch, heads, n, head // 2, 2)) if wide == dtype else None
        self.mixed = torch.empty(batch * heads, 1, head, dtype=dtype, device=device) if n == 1 else None
        self.mixed_rows = None if self.mixed is None else self.mixed.view(rows, width)
        self.up = torch.empty(rows, layer.hidden, dtype=dtype, device=device)
        self.gate, self.value = self.up.chunk(2, dim=-1)


class FusedLayers:
    """Layers and last norm, prepared for cached calls in ``dtype``; later changes of weights have no effect, nor has dropout."""

    def __init__(self, blocks: Sequence[Block], norm: Norm, heads: int, dtype: torch.dtype) -> None:
        self.layers = [_Layer(block, dtype) for block in blocks]
        self.norm, self.heads, self.dtype = norm, heads, dtype
        self.device = self.layers[0].qkv.weight.device
        # One query is fastest with plain products on the CPU; elsewhere the fused kernel saves launches.
        self.plain = self.device.type == "cpu"
        width = self.layers[0].width
        self._zero = torch.zeros(1, device=self.device)
        self._root = math.sqrt(width)
        self._workspace: _Workspace | None = None
        self._may_pack = self.plain and sum(layer.nbytes for layer in self.layers) <= PACKED_BYTES
        self._single_before = False

    def __call__(self, inputs: Tensor, rotation: Rotation | None, masks: Masks, cache: Cache) -> Tensor:
        """Hidden states ``(B, n, D)``; keys and values are written after the cache's cursor, which does not move.

        Args:
            inputs: ``(B, n, D)``.
            rotation: Of the positions; ``None`` for none.
            masks: Added to the scores of the layers, in turn: broadcastable to ``(B, heads, n, length)``, for one position of four axes.
            cache: Keys and values of earlier positions.
        """
        (batch, n, _), start = inputs.shape, cache.length
        space = self._workspace
        if space is None or space.key != (batch, n):
            space = self._workspace = _Workspace(batch, n, self.heads, self.layers[0], self.norm.eps, self.dtype, self.device)
        space.items.copy_(inputs)
        single = self.plain and n == 1
        # A second single position distinguishes sampling token by token from the first of a few growing scales.
        if self._may_pack and single and self._single_before and batch <= PACKED_ROWS and cache.capacity - start >= PACKED_CALLS:
            for layer in self.layers:
                layer.pack()
            self._may_pack = False
        self._single_before = single
        visible = cache.memory[..., : start + n, :]  # (layers, 2, B, heads, length, head width)
        keys, values = visible.select(1, 0), visible.select(1, 1)
        if single:  # matrix products take transposed keys, and heads as items
            keys, values = keys.flatten(1, 2).mT, values.flatten(1, 2)
            masks = tuple(None if mask is None else mask.expand(batch, self.heads, -1, -1).flatten(0, 1) for mask in masks)
        if rotation is not None and space.q_complex is not None:
            slots = cache.pairs[..., start : start + n, :]
        else:
            slots = cache.memory[..., start : start + n, :]
        modulation = cache.condition.modulation
        for index, (layer, slot, k, v) in enumerate(zip(self.layers, slots.unbind(0), keys.unbind(0), values.unbind(0), strict=True)):
            shift = scale = gate = shift2 = scale2 = gate2 = None
            if modulation:
                shift, scale, gate, shift2, scale2, gate2 = modulation[index]
            h = self._normed(space, layer.attention_norm, shift, scale)
            self._project(space, layer, h, rotation, slot)
            self._add(space, layer.out, self._attend(space, k, v, masks[index % len(masks)], single), gate)
            if layer.cross is not None:
                self._add(space, layer.cross_out, self._cross(space, layer, cache, index), None)
            h = self._normed(space, layer.forward_norm, shift2, scale2)
            self._add(space, layer.down, self._feed_forward(space, layer, h), gate2)
        hidden = self.norm(space.x)
        if modulation:
            hidden = modulate(hidden, *modulation[-1])
        return hidden.view(inputs.shape).to(inputs.dtype)

    def _normed(self, space: _Workspace, norm: Norm | None, shift: Tensor | None, scale: Tensor | None) -> Tensor:
        """The normalised residual stream; ``None`` is a root-mean-square norm whose weight is merged into the next product."""
        x, out = space.x, space.normed
        kind, eps = (self.norm.kind, self.norm.eps) if norm is None else (norm.kind, norm.eps)
        weight = None if norm is None else norm.weight
        if kind == "layer" or not self.plain:
            bias = None if norm is None else norm.bias
            h = F.layer_norm(x, x.shape[1:], weight, bias, eps) if kind == "layer" else F.rms_norm(x, x.shape[1:], weight, eps)
            out = h.to(self.dtype)
        else:
            torch.linalg.vector_norm(space.extended, dim=-1, keepdim=True, out=space.length)
            torch.addcdiv(self._zero, x, space.length, value=self._root, out=out)
            if weight is not None:
                out.mul_(weight)
        return out if shift is None or scale is None else modulate(out, shift, scale)

    def _project(self, space: _Workspace, layer: _Layer, h: Tensor, rotation: Rotation | None, slot: Tensor) -> None:
        """Queries into the workspace, keys and values into the cache."""
        layer.qkv(h, space.qkv)
        if space.rotated is not space.qkv:
            space.rotated.copy_(space.qkv)
        if layer.head_weight is not None:
            length = torch.linalg.vector_norm(space.qk, dim=-1, keepdim=True).hypot_(layer.head_floor)
            space.qk.div_(length).mul_(layer.head_weight).mul_(math.sqrt(space.q.shape[-1]))
        if rotation is None:
            space.q.copy_(space.unrotated_q)
            slot.copy_(space.unrotated_kv)
        elif space.q_complex is not None:
            torch.mul(space.pairs_q, rotation.pairs, out=space.q_complex)
            torch.mul(space.pairs_kv, rotation.pairs_of_keys_values, out=slot)
        else:  # PyTorch has no complex numbers of low precision
            space.q.copy_(torch.view_as_real(space.pairs_q * rotation.pairs).flatten(-2))
            slot.copy_(torch.view_as_real(space.pairs_kv * rotation.pairs_of_keys_values).flatten(-2))

    @staticmethod
    def _attend(space: _Workspace, k: Tensor, v: Tensor, mask: Tensor | None, single: bool) -> Tensor:
        if single and space.mixed is not None and space.mixed_rows is not None:
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
        return attention(q, *cache.condition.cross[index], cache.condition.mask).transpose(1, 2).reshape(space.x.shape)

    @staticmethod
    def _feed_forward(space: _Workspace, layer: _Layer, h: Tensor) -> Tensor:
        layer.up(h, space.up)
        if layer.gated:
            return F.silu(space.gate, inplace=True).mul_(space.value)
        return F.gelu(space.up, approximate=layer.approximate)

    @staticmethod
    def _add(space: _Workspace, linear: _Linear | None, h: Tensor, gate: Tensor | None) -> None:
        assert linear is not None
        if gate is None:
            linear.add_to(space.x, h)
        else:
            space.items.addcmul_(gate.to(space.x.dtype), linear(h).view(space.items.shape))


class PlainLayers:
    """The same call as :class:`FusedLayers`, through the modules themselves."""

    def __init__(self, blocks: Sequence[Block], norm: Norm) -> None:
        self.blocks, self.norm = blocks, norm

    def __call__(self, inputs: Tensor, rotation: Rotation | None, masks: Masks, cache: Cache) -> Tensor:
        """As :meth:`FusedLayers.__call__`."""
        dtype, modulation = compute_dtype(inputs), cache.condition.modulation
        rotation = None if rotation is None else Rotation(rotation.cosine.to(dtype), rotation.sine.to(dtype))
        masks = tuple(None if mask is None else mask.to(dtype) for mask in masks)
        context = AttentionContext(len(inputs), rotation, condition=cache.condition.to(dtype))
        x = inputs.flatten(0, 1)
        for index, (block, slots) in enumerate(zip(self.blocks, cache.memory, strict=True)):
            x = block(x, replace(context, mask=masks[index % len(masks)], store=_Slots(slots, cache.length)), index)
        hidden = self.norm(x)
        if modulation:
            hidden = modulate(hidden, *modulation[-1])
        return hidden.view(inputs.shape).to(inputs.dtype)


@dataclass(frozen=True)
class _Slots:
    """Writes one layer's keys and values into a cache ``(2, B, heads, capacity, head width)`` and returns all up to them."""

    memory: Tensor
    start: int

    def __call__(self, keys: Tensor, values: Tensor) -> KeysValues:
        end = self.start + keys.shape[2]
        self.memory[0, :, :, self.start : end] = keys
        self.memory[1, :, :, self.start : end] = values
        return self.memory[0, :, :, :end].to(keys.dtype), self.memory[1, :, :, :end].to(values.dtype)
