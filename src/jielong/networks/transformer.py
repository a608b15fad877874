"""A block-causal transformer: a position attends to all earlier blocks and its own.

One network serves every order. With one block per position it is Llama (equal outputs for equal weights); with a single block it is a
bidirectional encoder; blocks in between are scales or frames. The condition enters in one of four ways:

- ``prefix``: its states, through a two-layer MLP, form a block before all positions, which all attend to and which attends to itself alone.
  Prefix positions are not rotated (LlamaGen instead zeroes their queries and keys: ``rotary_at``). A causal one is read in order (DALL-E).
- ``cross``: cross-attention to its states after each self-attention, without rotation.
- ``adaln``: its pooled vector shifts, scales and gates each residual branch, initialised to zero (DiT, arXiv 2212.09748).
- ``pooled``: its pooled vector is the chain's start, and nothing else (LlamaGen's classes).

With each, it may also be the chain's start (:mod:`jielong.networks.chain_start`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jielong.config.sampling import Lazy
from jielong.networks.attention import additive, behind_prefix, compute_dtype, structure, within
from jielong.networks.backbone import Backbone, BackboneInputs
from jielong.networks.cache import Cache
from jielong.networks.chain_start import Beginning, ConditionPrefix, Start, real_states, start_map
from jielong.networks.conditioning import Conditioning
from jielong.networks.factorized import TURNS, check_axes, factors, same
from jielong.networks.fused_inference import Masks, cached_layers
from jielong.networks.layers import AttentionContext, Block, LayerCondition, LayerConfig, modulate
from jielong.networks.lazy import LazyCache, LazyStack, LazyTransformerCache
from jielong.networks.norm import Norm
from jielong.networks.rope import Rotary, RotaryAt, Rotation


def _both(mask: Tensor | None, other: Tensor) -> Tensor:
    return other if mask is None else mask + other


def _pooled_map(condition_width: int, width: int, hidden: bool) -> nn.Sequential:
    """The pooled vector to what modulations read. Raises ``ValueError`` if it is to be read as it is and has other channels."""
    if hidden:
        return nn.Sequential(nn.Linear(condition_width, width), nn.SiLU())
    if condition_width != width:
        raise ValueError(f"adaln_hidden: false reads a condition of {width} channels, and this one has {condition_width}: set its width")
    return nn.Sequential(nn.SiLU())


class TransformerConfig(LayerConfig):
    """Sizes of a transformer.

    Attributes:
        layers: Number of layers.
        factorized: Whether layers attend within a frame and along time at one place, in turn, for tokens of clips
            (:mod:`jielong.networks.factorized`); its condition enters by ``cross`` or ``adaln``.
    """

    layers: int = Field(default=8, ge=1)
    factorized: bool = False


class Transformer(Backbone["Cache | LazyCache"]):
    """Embeddings, coordinates and blocks to hidden vectors. Raises ``ValueError`` if a head has too few channels for the axes.

    Args:
        axes: Coordinates of a position: 1 for sound, 2 for pictures, 3 for video.
        start: What stands at the first position, if there is a condition.
        rotary_at: Whose coordinates rotate queries and keys.
    """

    supports_attention_mask: ClassVar[bool] = True
    supports_window: ClassVar[bool] = True

    def __init__(
        self,
        config: TransformerConfig,
        *,
        axes: int,
        condition_width: int | None = None,
        start: Start = "placeholder",
        rotary_at: RotaryAt = "position",
    ) -> None:
        super().__init__()
        width = config.width
        self.layers, self.width, self.heads, self.axes = config.layers, width, config.heads, axes
        self.condition = None if condition_width is None else config.condition
        self.conditioned, self.prefixed = condition_width is not None, self.condition == "prefix"
        self.rotary = Rotary(width // config.heads, axes, config.rope_base) if config.rotary else None
        self.factorized, self.reads_sources = config.factorized, rotary_at == "token"
        if config.factorized:
            check_axes(axes, "backbone.transformer.factorized")
            if self.condition == "prefix":
                raise ValueError(
                    "backbone.transformer.factorized: frames attend to themselves alone and no positions stand before them: take "
                    "condition: cross or adaln"
                )
        self.start = "placeholder" if condition_width is None else start
        if self.condition == "pooled" and self.start == "placeholder":
            raise ValueError(
                "backbone.transformer.condition: pooled enters at the chain's start alone: set start: condition, or sum to add it to the "
                "placeholder"
            )
        self.prefix = self.pooled = self.last_modulation = self.shared_modulation = self.start_map = None
        if condition_width is not None and self.start != "placeholder" and config.condition != "prefix":
            self.start_map = start_map(condition_width, width)
        if condition_width is not None and config.condition == "prefix":
            self.prefix = ConditionPrefix(condition_width, width)
        if condition_width is not None and config.condition == "adaln":
            self.pooled = _pooled_map(condition_width, width, config.adaln_hidden)
            self.shared_modulation = nn.Linear(width, 6 * width) if config.adaln_shared else None
            self.last_modulation = nn.Linear(width, 2 * width)
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config, condition_width) for _ in range(config.layers)))
        self.norm = Norm(width, config.norm, config.norm_eps, affine=self.condition != "adaln")
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights.

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
        """Hidden vectors after the last norm, ``(B, n, D)``; lazy steps ignore the attention mask."""
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
        weight = next(self.parameters())
        capacity = positions + (prefix if self.condition == "prefix" else 0)
        dtype = dtype or compute_dtype(weight)
        return Cache.allocate(self.layers, batch, self.heads, capacity, self.width // self.heads, dtype, device or weight.device)

    def new_lazy_cache(self, lazy: Lazy, batch: int, positions: int, prefix: int = 0) -> LazyCache:
        """Keys, values and hidden vectors of all positions, some of which a lazy step recomputes; none with factorized attention."""
        if self.start != "placeholder":
            raise ValueError("lazy steps are for one masked block, which has no start: leave one of them out")
        if self.factorized:
            raise ValueError("lazy steps attend to all positions, and attention is factorized here: leave one of them out")
        slots = positions + (prefix if self.condition == "prefix" else 0)
        return LazyTransformerCache(lazy, batch, stack=self.lazy_stack(batch, slots))

    def lazy_stack(self, batch: int, slots: int) -> LazyStack:
        """Empty results of the layers at ``slots`` slots."""
        return LazyStack.allocate(self.layers, batch, self.heads, slots, self.width, next(self.parameters()))

    def mask_last(self, cache: Cache | LazyCache, rows: Tensor) -> None:
        """See :meth:`Backbone.mask_last`."""
        if isinstance(cache, Cache):
            cache.hide_last(rows)

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the keys and values of ``new_cache(batch, positions, prefix)``: ``2 layers B (prefix + N) D`` numbers."""
        slots = positions + (prefix if self.condition == "prefix" else 0)
        return 2 * self.layers * batch * slots * self.width * dtype.itemsize

    def flops(self, positions: int, prefix: int = 0) -> int:
        """Floating-point operations of one uncached forward pass of one item (training takes three times as many).

        Two per weight and position, and ``4 D`` per pair of positions for the two products of attention; pairs that a causal mask hides
        are counted, norms and activations are not. ``prefix`` counts the condition's states.
        """
        weights = sum(block.attention.qkv.weight.numel() + block.attention.out.weight.numel() for block in self.blocks)
        weights += sum(block.feed_forward.up.weight.numel() + block.feed_forward.down.weight.numel() for block in self.blocks)
        if self.condition == "prefix":
            positions += prefix
        total = 2 * weights * positions + 4 * self.layers * positions**2 * self.width
        for block in self.blocks:
            if block.cross is not None:
                total += 2 * positions * (block.cross.q.weight.numel() + block.cross.out.weight.numel())
                total += 2 * prefix * block.cross.kv.weight.numel() + 4 * positions * prefix * self.width
        return int(total)

    def rotation(self, inputs: BackboneInputs, device: torch.device, dtype: torch.dtype, prefix: int = 0) -> Rotation | None:
        """The rotations of positions behind a prefix, which is not rotated; ``None`` without rotary positions.

        By places of tokens, what reads none has queries and keys of zero: the prefix, and the start (LlamaGen's released weights).
        """
        if self.rotary is None:
            return None
        if not self.reads_sources or inputs.sources is None:
            return self.rotary(inputs.coords, device, dtype, prefix)
        without = int((inputs.sources[:, 0] < 0).sum())
        return self.rotary(inputs.sources[without:], device, dtype, prefix + without, zeros=True)

    def _whole(self, inputs: BackboneInputs) -> Tensor:
        """One pass over all positions, without a cache: the reference."""
        conditioning, beginning = inputs.conditioning, self._beginning(inputs.conditioning)
        x, prefix = beginning.begun(inputs.embeddings), beginning.length
        device, dtype = x.device, compute_dtype(x)
        blocks = structure(inputs.blocks, device)
        allowed, kind = blocks.allowed, blocks.kind
        if inputs.window is not None:
            allowed, kind = allowed & within(inputs.coords[:, 0], inputs.coords[:, 0], inputs.window).to(device), "blocks"
        mask: Tensor | None = additive(allowed, dtype) if kind == "blocks" else None
        if inputs.attention_mask is not None:
            # A masked position attends to itself too, so that its softmax, which is never read, is defined.
            allowed = allowed & inputs.attention_mask[:, None] | torch.eye(x.shape[1], dtype=torch.bool, device=device)  # (B, n, n)
            mask = additive(allowed, dtype)[:, None]
        if beginning.prefix is not None and beginning.real is not None:
            x = torch.cat((beginning.prefix.to(x.dtype), x), dim=1)
            real = beginning.real[:1] if bool(beginning.real.all()) else beginning.real  # one mask for all if nothing is padded
            mask = additive(behind_prefix(allowed, real, beginning.causal), dtype)
        rotation = self.rotation(inputs, device, dtype, prefix)
        causal = kind == "causal" and mask is None
        context = AttentionContext(x.shape[0], rotation, mask, causal, condition=self.layer_condition(conditioning, dtype), prefix=prefix)
        if self.factorized:
            return self.through(x, *self._factorized(inputs, allowed, context))
        return self.through(x, context)[:, 0 if inputs.keep_prefix else prefix :]

    @staticmethod
    def _factorized(inputs: BackboneInputs, allowed: Tensor, context: AttentionContext) -> list[AttentionContext]:
        """The contexts of the two kinds of layers: with frames apart where they are whole, and otherwise with masks."""
        dtype, coords = compute_dtype(inputs.embeddings), inputs.coords
        found = None if inputs.attention_mask is not None else factors(allowed, coords, dtype)
        if found is not None:
            return [replace(context, mask=None, causal=False, factor=factor) for factor in found]
        masks = [allowed & same(coords, coords, along).to(allowed.device) for along in TURNS]
        each = [additive(mask, dtype) for mask in masks]
        return [replace(context, mask=mask if mask.ndim == 2 else mask[:, None], causal=False) for mask in each]

    def _cached(self, inputs: BackboneInputs, cache: Cache, commit: bool) -> Tensor:
        x, conditioning = inputs.embeddings, inputs.conditioning
        if cache.layers is None:
            cache.layers = cached_layers(self.blocks, self.norm, self.heads, cache.dtype)
        if not cache.started:
            cache.condition = self.layer_condition(conditioning, cache.dtype).to(cache.dtype)
            beginning, cache.started = self._beginning(conditioning), True
            self._start_with_prefix(beginning, cache)
            x = beginning.begun(x)
        coords, window, noted = inputs.coords, inputs.window, inputs.window is not None or self.factorized
        if window is not None and len(cache.coords):
            cache.forget(int(coords[:, 0].min()) - window + 1)
        end = cache.room(x.shape[1])
        seen = torch.cat([cache.coords.view(-1, self.axes), coords]) if noted else coords
        mask = None
        if x.shape[1] > 1:
            blocks = structure(inputs.blocks, x.device)
            allowed = blocks.allowed if blocks.kind != "full" else None
            if window is not None and int(coords[0, 0]) != int(coords[-1, 0]):  # the later of these places see less of the cache
                allowed = F.pad(blocks.allowed, (len(seen) - len(coords), 0), value=True)
                allowed = allowed & within(coords[:, 0], seen[:, 0], window).to(x.device)
            if allowed is not None:
                mask = F.pad(additive(allowed, cache.dtype), (end - allowed.shape[1], 0))
        if inputs.attention_mask is not None:
            cache.slot_bias()[:, 0, 0, cache.length : end] = additive(inputs.attention_mask, cache.dtype)
        if cache.bias is not None:
            mask = cache.bias[..., :end] if mask is None else mask + cache.bias[..., :end]
        masks: Masks = (mask,)
        if self.factorized:
            masks = tuple(_both(mask, additive(same(coords, seen, along).to(x.device), cache.dtype)[None, None]) for along in TURNS)
        hidden = cache.layers(x, self.rotation(inputs, x.device, torch.float32), masks, cache)
        if commit:
            cache.length = end
            cache.coords = seen if noted else cache.coords
        return hidden

    def _beginning(self, conditioning: Conditioning | None) -> Beginning:
        """The condition as it stands before the first token."""
        if conditioning is None:
            return Beginning()
        if self.prefix is not None:
            return self.prefix.beginning(conditioning, self.start != "placeholder")
        return Beginning() if self.start_map is None else Beginning(start=self.start_map(conditioning.pooled)[:, None])

    def _start_with_prefix(self, beginning: Beginning, cache: Cache) -> None:
        """Pass the prefix, a block before all others, into an empty cache."""
        if (prefix := beginning.prefix) is None or (real := beginning.real) is None:
            return
        assert cache.layers is not None
        mask, end = None, cache.room(prefix.shape[1])
        if beginning.causal or not bool(real.all()):
            mask = additive(behind_prefix(real.new_ones(0, 0), real, beginning.causal), cache.dtype)
        if not bool(real.all()):
            cache.slot_bias()[:, 0, 0, :end] = additive(real, cache.dtype)
        rotation = None
        if self.rotary is not None and self.reads_sources:
            rotation = self.rotary(torch.zeros(0, self.axes), prefix.device, torch.float32, end, zeros=True)
        cache.layers(prefix, rotation, (mask,), cache)
        cache.length = cache.prefix = end

    def _lazily(self, inputs: BackboneInputs, cache: LazyCache) -> Tensor:
        assert isinstance(cache, LazyTransformerCache)
        x, conditioning = inputs.embeddings, inputs.conditioning
        batch, n, _ = x.shape
        device, dtype = x.device, compute_dtype(x)
        if not cache.started:
            cache.condition = self.layer_condition(conditioning, dtype)
            if self.prefix is not None and conditioning is not None:
                cache.prefix, cache.real, cache.causal = self.prefix(conditioning).to(x.dtype), conditioning.mask, conditioning.causal
            cache.started = True
        prefix = 0 if cache.prefix is None else cache.prefix.shape[1]
        table = self.rotation(inputs, device, dtype, prefix)
        context = AttentionContext(batch, table, condition=cache.condition)
        if cache.fresh or cache.wanted is None:
            if cache.prefix is not None and cache.real is not None:
                x = torch.cat((cache.prefix, x), dim=1)
                mask = behind_prefix(structure(inputs.blocks, device).allowed, cache.real, cache.causal)
                context = replace(context, mask=additive(mask, dtype))
            hidden = cache.stack.whole(self.blocks, x, context, cache.lazy.layers)
        else:
            if cache.real is not None and not bool(cache.real.all()):
                real = F.pad(cache.real, (0, n), value=True)
                context = replace(context, mask=additive(real, dtype)[:, None, None, :])
            index = torch.arange(prefix, prefix + n, device=device).expand(batch, n)
            hidden = cache.stack.some(self.blocks, x, context, cache.lazy, index, cache.forced(n), table)
        return self.finish(hidden, cache.condition)[:, prefix:]

    def through(self, x: Tensor, *contexts: AttentionContext) -> Tensor:
        """All layers and the last norm, ``(B, n, D)`` to ``(B, n, D)``, for networks built of transformers; layers take them in turn."""
        shape, x = x.shape, x.flatten(0, 1)
        for layer, block in enumerate(self.blocks):
            x = block(x, contexts[layer % len(contexts)], layer)
        return self.finish(x.view(shape), contexts[0].condition)

    def finish(self, x: Tensor, condition: LayerCondition) -> Tensor:
        """The last norm with its modulation: ``(B, n, D)`` to ``(B, n, D)``."""
        hidden = self.norm(x.flatten(0, 1))
        return (modulate(hidden, *condition.modulation[-1]) if condition.modulation else hidden).view(x.shape)

    def layer_condition(self, conditioning: Conditioning | None, dtype: torch.dtype) -> LayerCondition:
        """Keys, values and mask for cross-attention, or the modulation of adaptive norms."""
        if conditioning is None or self.condition in ("prefix", "pooled"):
            return LayerCondition()
        if self.pooled is not None and self.last_modulation is not None:
            pooled = self.pooled(conditioning.pooled)[:, None]  # (B, 1, D)
            read = pooled if self.shared_modulation is None else self.shared_modulation(pooled)
            layers = [block.modulation(read).chunk(6, dim=-1) for block in self.blocks if block.modulation is not None]
            return LayerCondition(modulation=[*layers, self.last_modulation(pooled).chunk(2, dim=-1)])
        states = real_states(conditioning)
        # A condition that is all padding is attended to as zeros, so that its softmax is defined.
        readable = conditioning.mask | ~conditioning.mask.any(-1, keepdim=True)
        mask = None if bool(readable.all()) else additive(readable, dtype)[:, None, None, :]
        return LayerCondition([block.cross.keys_values(states) for block in self.blocks if block.cross is not None], mask)
