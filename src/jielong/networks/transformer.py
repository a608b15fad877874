"""A transformer that is block-causal by construction: a position sees all earlier blocks and its own.

One network serves every order. With a block a position it is Llama (the same numbers on the same weights); with one block it is a
bidirectional encoder; blocks in between are scales or frames. The condition comes in one of three ways:

- ``prefix``: its states, through a two-layer MLP, stand before all positions as a block of their own, which everything sees and
  which sees itself only. Prefix positions are not rotated (LlamaGen instead zeroes their queries and keys).
- ``cross``: attention to its states after each self-attention (states carry no rotation).
- ``adaln``: its pooled vector shifts, scales and gates each residual branch, from zero on (DiT, arXiv 2212.09748).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.config.speed import Lazy
from jielong.networks.attention import additive, structure
from jielong.networks.backbone import Backbone, BackboneInputs
from jielong.networks.cache import Cache
from jielong.networks.conditioning import Conditioning
from jielong.networks.fused_inference import cached_layers
from jielong.networks.layers import Activation, Block, ConditionPath, KeysValues, Sight, modulate
from jielong.networks.lazy import LazyCache, LazyStack
from jielong.networks.norm import Norm, NormKind
from jielong.networks.rope import Rotary


class Transformer(Backbone["Cache | LazyCache"]):
    """Inputs, coordinates and blocks to hidden states.

    Args:
        layers: Number of layers.
        width: Channels ``D`` of a position.
        heads: Attention heads; divides ``width``.
        axes: Coordinates of a position: 1 for sound, 2 for pictures, 3 for video.
        hidden: Channels inside the feed-forward part; by default ``4 D``, and for SwiGLU ``8/3 D`` rounded up to a multiple of 64.
        norm: ``rms`` or ``layer``.
        activation: ``swiglu`` or ``gelu``.
        qk_norm: Normalise queries and keys, head by head, before they are rotated.
        rope_base: Base of the rotation frequencies.
        condition: How the condition comes in, or ``None`` for no condition.
        condition_width: Channels ``W`` of the condition's states and pooled vector.
        dropout: Probability of dropping a channel of a residual branch.
        bias: Whether the linear maps of the layers have biases.
        norm_eps: Added to the variance in norms.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    supports_attention_mask: ClassVar[bool] = True

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int,
        axes: int,
        hidden: int | None = None,
        norm: NormKind = "rms",
        activation: Activation = "swiglu",
        qk_norm: bool = False,
        rope_base: float = 10_000.0,
        condition: ConditionPath | None = None,
        condition_width: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads: it must be a multiple of the number of heads")
        if condition is not None and condition_width is None:
            raise ValueError(f"a transformer with a condition ({condition}) needs the width of the condition's states")
        if hidden is None:
            hidden = math.ceil(8 * width / 3 / 64) * 64 if activation == "swiglu" else 4 * width
        self.layers, self.width, self.heads, self.axes, self.condition = layers, width, heads, axes, condition
        self.conditioned = condition is not None
        states = condition_width or 0
        self.rotary = Rotary(width // heads, axes, rope_base)
        self.prefix = self.pooled = self.last_modulation = None
        if condition == "prefix":
            self.prefix = nn.Sequential(nn.Linear(states, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))
        if condition == "adaln":
            self.pooled = nn.Sequential(nn.Linear(states, width), nn.SiLU())
            self.last_modulation = nn.Linear(width, 2 * width)
        stack = nn.ModuleList(
            Block(
                width=width,
                heads=heads,
                hidden=hidden,
                norm=norm,
                activation=activation,
                qk_norm=qk_norm,
                condition=condition,
                condition_width=states,
                dropout=dropout,
                bias=bias,
                norm_eps=norm_eps,
            )
            for _ in range(layers)
        )
        self.blocks = cast("Sequence[Block]", stack)
        self.norm = Norm(width, norm, norm_eps, affine=condition != "adaln")
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw all weights anew.

        ============================================  ================================
        weights of linear maps                        N(0, 0.02)
        maps that end a residual branch               N(0, 0.02 / sqrt(2 layers))
        adaptive shifts, scales and gates             0 (a block starts as the identity)
        biases                                        0
        norms                                         weight 1, bias 0
        ============================================  ================================
        """
        for name, module in self.named_modules():
            if isinstance(module, Norm):
                if module.weight is not None:
                    nn.init.ones_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                if name.endswith("modulation"):
                    nn.init.zeros_(module.weight)
                elif name.endswith((".out", ".down")):
                    nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * self.layers))
                else:
                    nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, inputs: BackboneInputs, cache: Cache | LazyCache | None = None, commit: bool = True) -> Tensor:
        """Hidden states after the last norm, ``(B, n, D)``; lazy steps ignore the attention mask."""
        self.check(inputs, cache)
        if inputs.coords.shape[1] != self.axes:
            n = len(inputs.coords)
            raise ValueError(f"coordinates of {n} positions must be ({n}, {self.axes}), not {tuple(inputs.coords.shape)}")
        if cache is None:
            return self._whole(inputs)
        with torch.no_grad():
            return self._lazily(inputs, cache) if isinstance(cache, LazyCache) else self._cached(inputs, cache, commit)

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Cache:
        """A static cache for ``positions`` positions and a condition of ``prefix`` states (counted for the prefix path only)."""
        weight = self.blocks[0].attention.qkv.weight
        capacity = positions + (prefix if self.condition == "prefix" else 0)
        dtype = dtype or self.compute_dtype(weight)
        return Cache.allocate(self.layers, batch, self.heads, capacity, self.width // self.heads, dtype, device or weight.device)

    def new_lazy_cache(self, lazy: Lazy, batch: int, positions: int, prefix: int = 0) -> LazyCache:
        """Keys, values and hidden states of all positions, of which a lazy step computes some anew."""
        places = positions + (prefix if self.condition == "prefix" else 0)
        weight = self.blocks[0].attention.qkv.weight
        stack = LazyStack.allocate(self.layers, batch, self.heads, places, self.width, weight, self.compute_dtype(weight))
        return _LazyCache(lazy, batch, stack=stack)

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes the keys and values of ``new_cache(batch, positions, prefix)`` take: ``2 layers B (prefix + N) D`` numbers."""
        slots = positions + (prefix if self.condition == "prefix" else 0)
        return 2 * self.layers * batch * slots * self.width * dtype.itemsize

    def parameter_count(self) -> int:
        """Number of trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def flops(self, positions: int, prefix: int = 0) -> int:
        """Floating-point operations of one uncached forward pass of one item (training takes three times as many).

        Two a weight and position, and ``4 D`` a pair of positions for the two products of attention; pairs a causal mask hides are
        counted, norms and activations are not. ``prefix`` counts the condition's states.
        """
        own = sum(block.attention.qkv.weight.numel() + block.attention.out.weight.numel() for block in self.blocks)
        own += sum(block.feed_forward.up.weight.numel() + block.feed_forward.down.weight.numel() for block in self.blocks)
        if self.condition == "prefix":
            positions += prefix
        total = 2 * own * positions + 4 * self.layers * positions**2 * self.width
        for block in self.blocks:
            if block.cross is not None:
                total += 2 * positions * (block.cross.q.weight.numel() + block.cross.out.weight.numel())
                total += 2 * prefix * block.cross.kv.weight.numel() + 4 * positions * prefix * self.width
        return int(total)

    # --- one pass without a cache, one with -------------------------------------------------------------------------------------

    def _whole(self, given: BackboneInputs) -> Tensor:
        inputs, conditioning, blocks = given.embeddings, given.conditioning, given.blocks
        device, dtype = inputs.device, self.compute_dtype(inputs)
        sees = structure(blocks, device)
        prefix, allowed = 0, sees.allowed
        mask: Tensor | None = additive(allowed, dtype) if sees.kind == "blocks" else None
        if given.attention_mask is not None:
            # A masked position sees itself too, only so that its softmax, which nobody reads, has something to stand on.
            allowed = allowed & given.attention_mask[:, None] | torch.eye(len(blocks), dtype=torch.bool, device=device)  # (B, n, n)
            mask = additive(allowed, dtype)[:, None]
        if self.prefix is not None and conditioning is not None:
            prefix = conditioning.states.shape[1]
            inputs = torch.cat((self._prefix(conditioning).to(inputs.dtype), inputs), dim=1)
            real = conditioning.mask[:1] if bool(conditioning.mask.all()) else conditioning.mask  # one mask for all if nothing is padded
            mask = additive(behind_prefix(allowed, real), dtype)
        cross, cross_mask, modulation = self.take_condition(conditioning, dtype)
        rotation = self.rotary(given.coords, device, dtype, prefix)
        sight = Sight(len(inputs), rotation, mask, sees.kind == "causal" and mask is None, cross, cross_mask, modulation)
        return self.through(inputs, sight)[:, prefix:]

    def _cached(self, given: BackboneInputs, cache: Cache, commit: bool) -> Tensor:
        inputs, conditioning, real = given.embeddings, given.conditioning, given.attention_mask
        if cache.layers is None:
            cache.layers = cached_layers(self.blocks, self.norm, self.heads, cache.dtype)
        if not cache.started:
            cross, cache.cross_bias, cache.modulation = self.take_condition(conditioning, cache.dtype)
            cache.cross = [(key.to(cache.dtype), value.to(cache.dtype)) for key, value in cross]
            if self.prefix is not None and conditioning is not None:
                self._take_prefix(conditioning, cache)
            cache.started = True
        mask = None
        if inputs.shape[1] > 1:
            sees = structure(given.blocks, inputs.device)
            if sees.kind != "full":
                mask = F.pad(additive(sees.allowed, cache.dtype), (cache.length, 0))
        end = cache.room(inputs.shape[1])
        if real is not None:
            if cache.bias is None:
                cache.bias = torch.zeros(cache.batch, 1, 1, cache.capacity, dtype=cache.dtype, device=cache.memory.device)
            cache.bias[:, 0, 0, cache.length : end] = additive(real, cache.dtype)
        if cache.bias is not None:
            mask = cache.bias[..., :end] if mask is None else mask + cache.bias[..., :end]
        hidden = cache.layers(inputs, self.rotary(given.coords, inputs.device, torch.float32), mask, cache)
        if commit:
            cache.length = end
        return hidden

    def _lazily(self, given: BackboneInputs, cache: LazyCache) -> Tensor:
        assert isinstance(cache, _LazyCache)
        inputs, conditioning = given.embeddings, given.conditioning
        batch, n, _ = inputs.shape
        device, dtype = inputs.device, self.compute_dtype(inputs)
        if not cache.started:
            cache.cross, cache.cross_mask, cache.modulation = self.take_condition(conditioning, dtype)
            if self.prefix is not None and conditioning is not None:
                cache.prefix, cache.real = self._prefix(conditioning).to(inputs.dtype), conditioning.mask
            cache.started = True
        prefix = 0 if cache.prefix is None else cache.prefix.shape[1]
        table = self.rotary(given.coords, device, dtype, prefix)
        sight = Sight(batch, table, None, False, cache.cross, cache.cross_mask, cache.modulation)
        if cache.fresh or cache.wanted is None:
            if cache.prefix is not None and cache.real is not None:
                inputs = torch.cat((cache.prefix, inputs), dim=1)
                sight = replace(sight, mask=additive(behind_prefix(structure(given.blocks, device).allowed, cache.real), dtype))
            x = cache.stack.whole(self.blocks, inputs, sight, cache.lazy.layers)
        else:
            if cache.real is not None and not bool(cache.real.all()):
                seen = F.pad(cache.real, (0, n), value=True)
                sight = replace(sight, mask=additive(seen, dtype)[:, None, None, :])
            index = torch.arange(prefix, prefix + n, device=device).expand(batch, n)
            x = cache.stack.some(self.blocks, inputs, sight, cache.lazy, index, cache.forced(n), table)
        return self.finish(x, cache.modulation)[:, prefix:]

    def _take_prefix(self, conditioning: Conditioning, cache: Cache) -> None:
        """Pass the prefix, a block before all others, into an empty cache."""
        assert cache.layers is not None
        prefix = self._prefix(conditioning)
        end = cache.room(prefix.shape[1])
        mask = None
        if not bool(conditioning.mask.all()):
            nothing = conditioning.mask.new_ones(0, 0)
            mask = additive(behind_prefix(nothing, conditioning.mask), cache.dtype)
            cache.bias = torch.zeros(cache.batch, 1, 1, cache.capacity, dtype=cache.dtype, device=cache.memory.device)
            cache.bias[:, 0, 0, :end] = additive(conditioning.mask, cache.dtype)
        cache.layers(prefix, None, mask, cache)
        cache.length = end

    def through(self, x: Tensor, sight: Sight) -> Tensor:
        """All layers and the last norm, ``(B, n, D)`` to ``(B, n, D)``, for networks built of transformers."""
        shape, x = x.shape, x.flatten(0, 1)
        for layer, block in enumerate(self.blocks):
            x = block(x, sight, layer)
        return self.finish(x.view(shape), sight.modulation)

    def finish(self, x: Tensor, modulation: list[tuple[Tensor, ...]]) -> Tensor:
        """The last norm, and what a condition makes of it: ``(B, n, D)`` to ``(B, n, D)``."""
        made = self.norm(x.flatten(0, 1))
        return (modulate(made, *modulation[-1]) if modulation else made).view(x.shape)

    # --- the condition ----------------------------------------------------------------------------------------------------------

    def _prefix(self, conditioning: Conditioning) -> Tensor:
        assert self.prefix is not None
        # Padding may hold anything, NaN too; no attention weight of zero would stop that.
        return self.prefix(conditioning.states.masked_fill(~conditioning.mask[..., None], 0))

    def take_condition(
        self, conditioning: Conditioning | None, dtype: torch.dtype
    ) -> tuple[list[KeysValues], Tensor | None, list[tuple[Tensor, ...]]]:
        """Keys and values and their mask for cross-attention; shifts, scales and gates for adaptive norms."""
        if conditioning is None or self.condition == "prefix":
            return [], None, []
        if self.pooled is not None and self.last_modulation is not None:
            pooled = self.pooled(conditioning.pooled)[:, None]  # (B, 1, D)
            layers = [block.modulation(pooled).chunk(6, dim=-1) for block in self.blocks if block.modulation is not None]
            return [], None, [*layers, self.last_modulation(pooled).chunk(2, dim=-1)]
        states = conditioning.states.masked_fill(~conditioning.mask[..., None], 0)
        # A condition without a single real state is read as zeros, so that its softmax has something to stand on.
        readable = conditioning.mask | ~conditioning.mask.any(-1, keepdim=True)
        mask = None if bool(readable.all()) else additive(readable, dtype)[:, None, None, :]
        return [block.cross.keys_values(states) for block in self.blocks if block.cross is not None], mask, []

    # --- small things -----------------------------------------------------------------------------------------------------------

    @staticmethod
    def compute_dtype(x: Tensor) -> torch.dtype:
        """The dtype that products come out in: autocast's, when it is on."""
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@dataclass
class _LazyCache(LazyCache):
    """What lazy steps of a transformer keep: the condition as the first call took it in, and all layers' last results."""

    stack: LazyStack = field(kw_only=True)
    prefix: Tensor | None = None
    real: Tensor | None = None
    cross: list[KeysValues] = field(default_factory=list)
    cross_mask: Tensor | None = None
    modulation: list[tuple[Tensor, ...]] = field(default_factory=list)

    def rows(self, index: slice) -> _LazyCache:
        return replace(
            cast("_LazyCache", super().rows(index)),
            stack=self.stack.rows(index),
            prefix=None if self.prefix is None else self.prefix[index],
            real=None if self.real is None else self.real[index],
            cross=[(key[index], value[index]) for key, value in self.cross],
            cross_mask=None if self.cross_mask is None else self.cross_mask[index],
            modulation=[tuple(tensor[index] for tensor in layer) for layer in self.modulation],
        )


def behind_prefix(allowed: Tensor, real: Tensor) -> Tensor:
    """What is seen when a padded prefix stands before positions: ``(B, 1, P + n, P + n)`` bool.

    Everything sees the real part of the prefix; the prefix sees nothing else. A padded prefix position sees itself too, only so
    that its softmax, which nobody reads, has something to stand on.

    Args:
        allowed: ``(n, n)`` bool, or ``(B, n, n)`` where items differ: what the positions see of each other.
        real: ``(B, P)`` bool, true where the prefix is not padding.
    """
    (batch, prefix), n = real.shape, allowed.shape[-1]
    if allowed.ndim == 3:
        batch, allowed = len(allowed), allowed[:, None]
    seen = allowed.new_zeros(batch, 1, prefix + n, prefix + n)
    seen[..., :prefix] = real[:, None, None, :]
    seen[..., :prefix, :prefix] |= torch.eye(prefix, dtype=torch.bool, device=real.device)
    seen[..., prefix:, prefix:] = allowed
    return seen
