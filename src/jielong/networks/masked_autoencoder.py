"""An encoder-decoder over one masked block (MAR, arXiv 2406.11838, after MAE, arXiv 2111.06377).

The encoder reads the known tokens alone, so it is cheap at a high mask ratio; the decoder reads all positions, with a placeholder at
unknown ones. Both are bidirectional transformers. In both, the tokens are preceded by

- the states of the condition, if it enters as a prefix;
- ``buffer`` positions, each the sum of a learned vector and the pooled condition (as a prefix, or ``pooled`` alone), so that the encoder
  has inputs even where nothing is known.

There are three position embeddings: of the inputs (the generator's), of the decoder's inputs, and one that is added to the hidden vectors
at the end, because unknown positions share one placeholder and a head has no position embedding. Beside them ``rotary`` rotates queries and
keys by coordinates, which MAR does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jielong.config.sampling import Lazy
from jielong.networks.attention import additive, compute_dtype
from jielong.networks.backbone import Backbone, BackboneInputs
from jielong.networks.chain_start import ConditionPrefix, start_map
from jielong.networks.conditioning import Conditioning
from jielong.networks.embedding import PositionEmbedding, Positions, SlotEmbedding
from jielong.networks.layers import Activation, AttentionContext, LayerConfig
from jielong.networks.lazy import LazyStack, take_rows
from jielong.networks.masked_cache import LazyMaskedCache, MaskedCache, MaskedCondition
from jielong.networks.norm import Norm, NormKind
from jielong.networks.rope import Rotation
from jielong.networks.transformer import Transformer, TransformerConfig


class MaskedAutoencoderConfig(LayerConfig):
    """Sizes of MAR's encoder-decoder.

    Attributes:
        encoder_layers: Layers of the encoder, which reads known tokens.
        decoder_layers: Layers of the decoder, which reads all positions.
        buffer: Learned positions before the tokens; MAR has 64 before 256 tokens.
        mask_positions: Whether the vector at unknown positions has the inputs' position embedding, beside the decoder's; MAR's has not.
        positions: What is added to the inputs of a position, in encoder, decoder and before the head: a sum of tables, one an axis
            (``axes``), or a free vector (``slots``, MAR).
    """

    encoder_layers: int = Field(default=4, ge=1)
    decoder_layers: int = Field(default=4, ge=1)
    buffer: int = Field(default=16, ge=0)
    mask_positions: bool = True
    positions: Positions = "axes"
    norm: NormKind = "layer"
    activation: Activation = "gelu"
    bias: bool = True
    norm_eps: float = Field(default=1e-6, gt=0)

    def half(self, layers: int) -> TransformerConfig:
        """Of the encoder or the decoder."""
        return TransformerConfig(layers=layers, **{name: getattr(self, name) for name in LayerConfig.model_fields})


class MaskedAutoencoder(Backbone["MaskedCache | LazyMaskedCache"]):
    """Embeddings, and which of them are of known tokens, to hidden vectors."""

    supports_attention_mask: ClassVar[bool] = True

    def __init__(self, config: MaskedAutoencoderConfig, *, extents: Sequence[int], condition_width: int | None = None) -> None:
        super().__init__()
        self.width = width = config.width
        self.buffer_size = config.buffer
        self.condition = None if condition_width is None else config.condition
        self.conditioned = condition_width is not None
        self.mask_positions = config.mask_positions
        if self.condition == "pooled" and not config.buffer:
            raise ValueError(
                "backbone.mar.condition: pooled enters in the buffer, and there is none: set buffer, such as 64, or take prefix"
            )
        layer_width = None if config.condition in ("prefix", "pooled") else condition_width
        self.encoder = Transformer(config.half(config.encoder_layers), axes=len(extents), condition_width=layer_width)
        self.decoder = Transformer(config.half(config.decoder_layers), axes=len(extents), condition_width=layer_width)
        self.enter = Norm(width, config.norm, config.norm_eps)
        self.between = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.between.weight)
        nn.init.zeros_(self.between.bias)
        self.buffer_places = nn.Parameter(torch.randn(config.buffer, width) * 0.02)
        self.decoder_buffer_places = nn.Parameter(torch.randn(config.buffer, width) * 0.02)
        self.positions = config.positions
        places = PositionEmbedding if config.positions == "axes" else SlotEmbedding
        self.decoder_places, self.head_places = places(extents, width), places(extents, width)
        self.prefix: ConditionPrefix | None = None
        self.pooled: nn.Module | None = None
        if self.condition == "prefix" and condition_width is not None:
            self.prefix = ConditionPrefix(condition_width, width)
            self.pooled = nn.Linear(condition_width, width)
        if self.condition == "pooled" and condition_width is not None:
            self.pooled = start_map(condition_width, width)

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` unless the order is one masked block."""
        if shifted or bool((blocks != blocks[0]).any()):
            raise ValueError(
                "a MaskedAutoencoder encodes the known tokens of one block and decodes the others, and so needs order: masked; "
                "or choose the backbone transformer"
            )

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> MaskedCache:
        """A cache of the condition."""
        return MaskedCache(batch)

    def new_lazy_cache(self, lazy: Lazy, batch: int, positions: int, prefix: int = 0) -> LazyMaskedCache:
        """Keys, values and hidden vectors of all positions in both halves."""
        slots = positions + self.buffer_size + (prefix if self.condition == "prefix" else 0)
        encoder, decoder = (half.lazy_stack(batch, slots) for half in (self.encoder, self.decoder))
        encoded = self.buffer_places.new_zeros(batch, slots, self.width)
        return LazyMaskedCache(lazy, batch, encoder=encoder, decoder=decoder, encoded=encoded)

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the positions before the tokens: keys and values change with every step, so none are kept."""
        return batch * (self.buffer_size + (prefix if self.condition == "prefix" else 0)) * self.width * dtype.itemsize

    def forward(self, inputs: BackboneInputs, cache: MaskedCache | LazyMaskedCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, N, D)``; lazy steps ignore the attention mask. Raises as :meth:`Backbone.forward`, or without ``known``."""
        self.check(inputs, cache)
        x, known = inputs.embeddings, inputs.known
        if known is None or known.shape != x.shape[:2]:
            shape = None if known is None else tuple(known.shape)
            raise ValueError(
                f"a MaskedAutoencoder needs to know which tokens are known: `known` must be bool {tuple(x.shape[:2])}, not {shape}"
            )
        if cache is None:
            return self._whole(x, inputs.coords, known, self._condition(inputs.conditioning, x), inputs.attention_mask)
        with torch.no_grad():
            if cache.condition is None:
                cache.condition, cache.started = self._condition(inputs.conditioning, x), True
            if not isinstance(cache, LazyMaskedCache):
                return self._whole(x, inputs.coords, known, cache.condition, inputs.attention_mask)
            if cache.fresh or cache.wanted is None:
                return self._whole(x, inputs.coords, known, cache.condition, cache=cache)
            return self._lazily(x, inputs.coords, known, cache.condition, cache)

    def _whole(
        self,
        x: Tensor,
        coords: Tensor,
        known: Tensor,
        condition: MaskedCondition,
        attention_mask: Tensor | None = None,
        cache: LazyMaskedCache | None = None,
    ) -> Tensor:
        """A full pass; its results are stored in a cache of lazy steps."""
        if attention_mask is not None:
            known = known & attention_mask
        front, dtype = condition.front.shape[1], compute_dtype(x)
        table = self._table(coords, x.device, dtype, front)
        encoded, index = self._encode(x, known, condition, table, cache)
        if cache is not None and encoded.shape[1]:
            cache.encoded.scatter_(1, index[..., None].expand_as(encoded), encoded)
        tokens = x.scatter(1, (index[:, front:] - front)[..., None].expand(-1, -1, self.width), encoded[:, front:])
        z = self._decoder_inputs(encoded[:, :front], torch.where(known[..., None], tokens, x), coords)
        visible = None if condition.real is None else F.pad(condition.real, (0, known.shape[1]), value=True)
        if attention_mask is not None:
            visible = torch.cat((condition.real_front(), attention_mask), dim=1)
        prefix = front - self.buffer_size
        context = AttentionContext(len(x), table, _mask(visible, dtype), condition=condition.decoder, prefix=prefix)
        hidden = self._through(self.decoder, z, context, None if cache is None else cache.decoder, cache, None)
        return hidden[:, front:] + self.head_places(coords)

    def _encode(
        self, x: Tensor, known: Tensor, condition: MaskedCondition, table: Rotation | None, cache: LazyMaskedCache | None
    ) -> tuple[Tensor, Tensor]:
        """What the encoder computes for the front and the known tokens, ``(B, F + k, D)``, and their slots, ``(B, F + k)``."""
        batch, front, dtype = len(x), condition.front.shape[1], compute_dtype(x)
        # Known tokens first, in their order; items with fewer known tokens are padded by unknown ones, which are masked.
        counts = known.sum(1)
        most, even = int(counts.max()), bool((counts == counts[0]).all())
        where = (~known).int().argsort(dim=1, stable=True)[:, :most]  # (B, most)
        index = torch.cat((torch.arange(front, device=x.device).expand(batch, -1), front + where), dim=1)
        inputs = torch.cat((condition.front, take_rows(x, where)), dim=1)
        if not inputs.shape[1]:
            return inputs, index
        visible = None if condition.real is None and even else torch.cat((condition.real_front(), known.gather(1, where)), dim=1)
        rotation = None if table is None else table.at(index)
        prefix = front - self.buffer_size
        context = AttentionContext(batch, rotation, _mask(visible, dtype), condition=condition.encoder, prefix=prefix)
        hidden = self._through(self.encoder, self.enter(inputs), context, None if cache is None else cache.encoder, cache, index)
        return self.between(hidden).to(x.dtype), index

    def _lazily(self, x: Tensor, coords: Tensor, known: Tensor, condition: MaskedCondition, cache: LazyMaskedCache) -> Tensor:
        """The encoder at positions just revealed; the decoder at those that changed most."""
        batch, front, dtype = len(x), condition.front.shape[1], compute_dtype(x)
        assert cache.revealed is not None
        table = self._table(coords, x.device, dtype, front)
        real = condition.real_front()
        index = torch.cat((torch.arange(front, device=x.device).expand(batch, -1), front + cache.revealed), dim=1)
        inputs = self.enter(torch.cat((condition.front, take_rows(x, cache.revealed)), dim=1))
        context = AttentionContext(batch, None, _mask(torch.cat((real, known), dim=1), dtype), condition=condition.encoder)
        all_forced = torch.ones_like(index, dtype=torch.bool)
        hidden = cache.encoder.some(self.encoder.blocks, inputs, context, cache.lazy, index, all_forced, table)
        encoded = self.between(self.encoder.finish(take_rows(hidden, index), condition.encoder)).to(x.dtype)
        cache.encoded.scatter_(1, index[..., None].expand_as(encoded), encoded)
        tokens = torch.where(known[..., None], cache.encoded[:, front:], x)
        z = self._decoder_inputs(cache.encoded[:, :front], tokens, coords)
        forced = cache.forced(z.shape[1], front)
        forced[:, front - self.buffer_size : front] = True
        visible = None if condition.real is None else F.pad(real, (0, known.shape[1]), value=True)
        context = AttentionContext(batch, None, _mask(visible, dtype), condition=condition.decoder)
        slots = torch.arange(z.shape[1], device=x.device).expand(batch, -1)
        hidden = cache.decoder.some(self.decoder.blocks, z, context, cache.lazy, slots, forced, table)
        return self.decoder.finish(hidden, condition.decoder)[:, front:] + self.head_places(coords)

    def _through(
        self,
        half: Transformer,
        x: Tensor,
        context: AttentionContext,
        stack: LazyStack | None,
        cache: LazyMaskedCache | None,
        index: Tensor | None,
    ) -> Tensor:
        if stack is None or cache is None:
            return half.through(x, context)
        return half.finish(stack.whole(half.blocks, x, context, cache.lazy.layers, index), context.condition)

    def _decoder_inputs(self, front: Tensor, tokens: Tensor, coords: Tensor) -> Tensor:
        """Encoded front ``(B, F, D)`` and tokens or placeholders ``(B, N, D)``, with the decoder's positions, ``(B, F + N, D)``."""
        front = front + F.pad(self.decoder_buffer_places, (0, 0, front.shape[1] - self.buffer_size, 0))
        return torch.cat((front, tokens + self.decoder_places(coords)), dim=1)

    def _table(self, coords: Tensor, device: torch.device, dtype: torch.dtype, front: int) -> Rotation | None:
        return None if self.encoder.rotary is None else self.encoder.rotary(coords, device, dtype, front)

    def _condition(self, conditioning: Conditioning | None, x: Tensor) -> MaskedCondition:
        front, real = self.buffer_places.expand(len(x), -1, -1), None
        if conditioning is not None and self.pooled is not None:
            front = front + self.pooled(conditioning.pooled)[:, None]
            if self.prefix is not None:
                front = torch.cat((self.prefix(conditioning), front), dim=1)
                if not bool(conditioning.mask.all()):
                    real = F.pad(conditioning.mask, (0, self.buffer_size), value=True)
            conditioning = None
        encoder, decoder = (half.layer_condition(conditioning, compute_dtype(x)) for half in (self.encoder, self.decoder))
        return MaskedCondition(front.to(x.dtype), real, encoder, decoder)


def _mask(visible: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """``(B, S)`` bool, the slots attended to, to add to scores; a row of none attends to all, so that its softmax is defined."""
    if visible is None or bool(visible.all()):
        return None
    return additive(visible | ~visible.any(1, keepdim=True), dtype)[:, None, None, :]
