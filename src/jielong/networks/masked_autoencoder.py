"""An encoder-decoder over one masked block (MAR, arXiv 2406.11838, after MAE, arXiv 2111.06377).

The encoder sees the known tokens alone: at a high mask ratio it is nearly free. The decoder sees everything, with a placeholder where
nothing is known. Both are transformers in which everything sees everything. In front of the tokens stand, in both,

- the states of the condition, if they come as a prefix;
- ``buffer`` places that hold a learned vector each and the pooled condition, copied: even where nothing is known, the encoder has
  something to compute with.

There are three position embeddings: that of the inputs, which is the generator's; one of the decoder's inputs; and one that is added to
the hidden vectors at the end. All unknown positions share one placeholder, and a head has no positions of its own: without the third it
would be told but faintly which position it serves. Coordinates turn queries and keys too (``rotary``), which MAR has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.config.speed import Lazy
from jielong.networks.attention import additive
from jielong.networks.backbone import Backbone, BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.layers import Activation, ConditionPath, KeysValues, Sight
from jielong.networks.lazy import LazyCache, LazyStack
from jielong.networks.norm import Norm, NormKind
from jielong.networks.rope import Rotation
from jielong.networks.transformer import Transformer


class PlaceEmbedding(nn.ModuleList):
    """A table an axis, whose vectors are summed.

    Args:
        extents: How many values each coordinate takes.
        width: Channels ``D``.
    """

    def __init__(self, extents: Sequence[int], width: int) -> None:
        tables = [nn.Embedding(size, width) for size in extents]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        super().__init__(tables)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Coordinates ``(n, axes)`` to vectors ``(n, D)``."""
        tables = cast("Sequence[nn.Embedding]", self)
        coordinates = coordinates.to(tables[0].weight.device)
        return torch.stack([table(coordinates[:, axis]) for axis, table in enumerate(tables)]).sum(0)


@dataclass
class _Told:
    """What the condition comes to: the same at every step.

    Attributes:
        front: ``(B, F, D)``: what stands before the tokens in the encoder, prefix and buffer.
        real: ``(B, F)`` bool: false at padding of the prefix; ``None`` where nothing is padded.
        encoder: Keys and values, their mask, and adaptive norms, of the encoder's layers.
        decoder: The same of the decoder's.
    """

    front: Tensor
    real: Tensor | None
    encoder: _Paths
    decoder: _Paths

    def rows(self, index: slice) -> _Told:
        real = None if self.real is None else self.real[index]
        return _Told(self.front[index], real, self.encoder.rows(index), self.decoder.rows(index))


@dataclass
class _Paths:
    """What :meth:`Transformer.take_condition` says."""

    cross: list[KeysValues]
    mask: Tensor | None
    modulation: list[tuple[Tensor, ...]]

    def rows(self, index: slice) -> _Paths:
        return _Paths(
            [(key[index], value[index]) for key, value in self.cross],
            None if self.mask is None else self.mask[index],
            [tuple(tensor[index] for tensor in layer) for layer in self.modulation],
        )

    def sight(self, batch: int, rotation: Rotation | None, mask: Tensor | None) -> Sight:
        return Sight(batch, rotation, mask, False, self.cross, self.mask, self.modulation)


@dataclass
class MaskedCache:
    """The condition as the first call took it in; in a masked block nothing else stays as it was."""

    batch: int
    started: bool = False
    told: _Told | None = None

    def rows(self, index: slice) -> MaskedCache:
        """The conditions of some items."""
        return MaskedCache(len(range(*index.indices(self.batch))), self.started, None if self.told is None else self.told.rows(index))


@dataclass
class LazyMaskedCache(LazyCache):
    """What lazy steps keep.

    Attributes:
        told: The condition.
        encoder: The encoder's layers over all places, of which the unknown are masked out.
        decoder: The decoder's layers over all places.
        encoded: ``(B, F + N, D)``: what the encoder said of the places known so far, as the decoder reads it.
    """

    encoder: LazyStack = field(kw_only=True)
    decoder: LazyStack = field(kw_only=True)
    encoded: Tensor = field(kw_only=True)
    told: _Told | None = None

    def rows(self, index: slice) -> LazyMaskedCache:
        """Some items, in the same memory."""
        few = super().rows(index)
        assert isinstance(few, LazyMaskedCache)
        told = None if self.told is None else self.told.rows(index)
        return replace(few, encoder=self.encoder.rows(index), decoder=self.decoder.rows(index), encoded=self.encoded[index], told=told)


class MaskedAutoencoder(Backbone["MaskedCache | LazyMaskedCache"]):
    """Inputs, and which of them are known, to hidden vectors.

    Args:
        encoder_layers: Layers that see known tokens.
        decoder_layers: Layers that see everything.
        width: Channels ``D``.
        heads: Attention heads; divides ``width``.
        extents: How many values each coordinate of a position takes.
        buffer: Learned places before the tokens.
        condition: How the condition comes in: ``prefix`` (its states stand before the tokens, its pooled vector is added to the buffer),
            ``cross`` or ``adaln``, as in :class:`Transformer`; ``None`` for no condition.
        condition_width: Channels ``W`` of the condition.
        rotary: Whether coordinates turn queries and keys.
        hidden: As in :class:`Transformer`, and so the arguments behind it.
        norm: Kind of norms.
        activation: Of the feed-forward parts.
        qk_norm: Normalise queries and keys.
        rope_base: Base of the rotation frequencies.
        dropout: Probability of dropping a channel of a residual branch.
        bias: Whether the linear maps of the layers have biases.
        norm_eps: Added to the variance in norms.
    """

    supports_attention_mask: ClassVar[bool] = True

    def __init__(
        self,
        *,
        encoder_layers: int,
        decoder_layers: int,
        width: int,
        heads: int,
        extents: Sequence[int],
        buffer: int,
        condition: ConditionPath | None = None,
        condition_width: int | None = None,
        rotary: bool = True,
        hidden: int | None = None,
        norm: NormKind = "layer",
        activation: Activation = "gelu",
        qk_norm: bool = False,
        rope_base: float = 10_000.0,
        dropout: float = 0.0,
        bias: bool = True,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.width, self.buffer_size, self.condition, self.rotary = width, buffer, condition, rotary
        self.conditioned = condition is not None
        shared: dict[str, Any] = {
            "width": width,
            "heads": heads,
            "axes": len(extents),
            "hidden": hidden,
            "norm": norm,
            "activation": activation,
            "qk_norm": qk_norm,
            "rope_base": rope_base,
            "condition": None if condition == "prefix" else condition,
            "condition_width": condition_width,
            "dropout": dropout,
            "bias": bias,
            "norm_eps": norm_eps,
        }
        self.encoder = Transformer(layers=encoder_layers, **shared)
        self.decoder = Transformer(layers=decoder_layers, **shared)
        self.enter = Norm(width, norm, norm_eps)
        self.between = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.between.weight)
        nn.init.zeros_(self.between.bias)
        self.buffer_places = nn.Parameter(torch.randn(buffer, width) * 0.02)
        self.decoder_buffer_places = nn.Parameter(torch.randn(buffer, width) * 0.02)
        self.decoder_places, self.head_places = PlaceEmbedding(extents, width), PlaceEmbedding(extents, width)
        self.prefix = self.pooled = None
        if condition == "prefix":
            assert condition_width is not None
            self.prefix = nn.Sequential(nn.Linear(condition_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))
            self.pooled = nn.Linear(condition_width, width)

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Refuse orders other than one masked block."""
        if shifted or bool((blocks != blocks[0]).any()):
            raise ValueError(
                "a MaskedAutoencoder encodes the known tokens of one block and decodes the others, and so needs order: masked; "
                "or choose the backbone transformer"
            )

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> MaskedCache:
        """Room for the condition."""
        return MaskedCache(batch)

    def new_lazy_cache(self, lazy: Lazy, batch: int, positions: int, prefix: int = 0) -> LazyMaskedCache:
        """Keys, values and hidden vectors of all places in both halves."""
        places = positions + self.buffer_size + (prefix if self.condition == "prefix" else 0)
        weight, heads = self.between.weight, self.encoder.heads
        encoder, decoder = (
            LazyStack.allocate(half.layers, batch, heads, places, self.width, weight, half.compute_dtype(weight))
            for half in (self.encoder, self.decoder)
        )
        return LazyMaskedCache(lazy, batch, encoder=encoder, decoder=decoder, encoded=weight.new_zeros(batch, places, self.width))

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of what stands before the tokens: keys and values change with every step, and none are kept."""
        return batch * (self.buffer_size + (prefix if self.condition == "prefix" else 0)) * self.width * dtype.itemsize

    def forward(self, inputs: BackboneInputs, cache: MaskedCache | LazyMaskedCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, N, D)``; ``commit`` makes no difference in a masked block, and lazy steps ignore the attention mask.

        Raises:
            ValueError: as :meth:`Backbone.forward`, or if ``known`` is missing.
        """
        self.check(inputs, cache)
        x, known = inputs.embeddings, inputs.known
        if known is None or known.shape != x.shape[:2]:
            shape = None if known is None else tuple(known.shape)
            raise ValueError(
                f"a MaskedAutoencoder needs to know which tokens are known: `known` must be bool {tuple(x.shape[:2])}, not {shape}"
            )
        if cache is None:
            return self._whole(x, inputs.coords, known, self._told(inputs.conditioning, x), None, inputs.attention_mask)
        with torch.no_grad():
            if cache.told is None:
                cache.told, cache.started = self._told(inputs.conditioning, x), True
            if not isinstance(cache, LazyMaskedCache):
                return self._whole(x, inputs.coords, known, cache.told, None, inputs.attention_mask)
            if cache.fresh or cache.wanted is None:
                return self._whole(x, inputs.coords, known, cache.told, cache)
            return self._lazily(x, inputs.coords, known, cache.told, cache)

    def _whole(
        self,
        inputs: Tensor,
        coordinates: Tensor,
        known: Tensor,
        told: _Told,
        cache: LazyMaskedCache | None,
        real_positions: Tensor | None = None,
    ) -> Tensor:
        """Everything; remembered, if there is where."""
        if real_positions is not None:
            known = known & real_positions
        batch, front = len(inputs), told.front.shape[1]
        dtype = self.encoder.compute_dtype(inputs)
        table = self._table(coordinates, inputs.device, dtype, front)
        # Known tokens first, in their order; where items know differently many, the others' rows behind them are masked out.
        counts = known.sum(1)
        most, even = int(counts.max()), bool((counts == counts[0]).all())
        where = (~known).int().argsort(dim=1, stable=True)[:, :most]  # (B, most)
        x = torch.cat((told.front, _take(inputs, where)), dim=1)
        read: Tensor | None = None
        if told.real is not None or not even:
            real = torch.ones(batch, front, dtype=torch.bool, device=inputs.device) if told.real is None else told.real
            read = torch.cat((real, known.gather(1, where)), dim=1)
        if x.shape[1]:
            index = torch.cat((torch.arange(front, device=inputs.device).expand(batch, -1), front + where), dim=1)
            sight = told.encoder.sight(batch, None if table is None else table.at(index), self._mask(read, dtype))
            encoded = self.between(
                self._through(self.encoder, self.enter(x), sight, None if cache is None else cache.encoder, cache, index)
            )
            encoded = encoded.to(inputs.dtype)
        else:
            encoded = x
        if cache is not None and encoded.shape[1]:
            cache.encoded.scatter_(1, index[..., None].expand_as(encoded), encoded)
        shown = inputs.scatter(1, where[..., None].expand(-1, -1, self.width), encoded[:, front:])
        tokens = torch.where(known[..., None], shown, inputs)
        z = self._decoder_inputs(encoded[:, :front], tokens, coordinates)
        seen = None if told.real is None else F.pad(told.real, (0, known.shape[1]), value=True)
        if real_positions is not None:
            before = torch.ones(batch, front, dtype=torch.bool, device=inputs.device) if told.real is None else told.real
            seen = torch.cat((before, real_positions), dim=1)
        sight = told.decoder.sight(batch, table, self._mask(seen, dtype))
        hidden = self._through(self.decoder, z, sight, None if cache is None else cache.decoder, cache, None)
        return hidden[:, front:] + self.head_places(coordinates)

    def _lazily(self, inputs: Tensor, coordinates: Tensor, known: Tensor, told: _Told, cache: LazyMaskedCache) -> Tensor:
        """What was just revealed through the encoder; of everything, what changed most through the decoder."""
        batch, front, dtype = len(inputs), told.front.shape[1], self.encoder.compute_dtype(inputs)
        assert cache.revealed is not None
        table = self._table(coordinates, inputs.device, dtype, front)
        real = torch.ones(batch, front, dtype=torch.bool, device=inputs.device) if told.real is None else told.real
        first = torch.arange(front, device=inputs.device).expand(batch, -1)
        index = torch.cat((first, front + cache.revealed), dim=1)
        x = self.enter(torch.cat((told.front, _take(inputs, cache.revealed)), dim=1))
        sight = told.encoder.sight(batch, None, self._mask(torch.cat((real, known), dim=1), dtype))
        everything = torch.ones_like(index, dtype=torch.bool)
        hidden = cache.encoder.some(self.encoder.blocks, x, sight, cache.lazy, index, everything, table)
        encoded = self.between(self.encoder.finish(_take(hidden, index), told.encoder.modulation)).to(inputs.dtype)
        cache.encoded.scatter_(1, index[..., None].expand_as(encoded), encoded)
        tokens = torch.where(known[..., None], cache.encoded[:, front:], inputs)
        z = self._decoder_inputs(cache.encoded[:, :front], tokens, coordinates)
        forced = cache.forced(z.shape[1], front)
        forced[:, front - self.buffer_size : front] = True
        sight = told.decoder.sight(
            batch, None, self._mask(None if told.real is None else F.pad(real, (0, known.shape[1]), value=True), dtype)
        )
        places = torch.arange(z.shape[1], device=inputs.device).expand(batch, -1)
        hidden = cache.decoder.some(self.decoder.blocks, z, sight, cache.lazy, places, forced, table)
        return self.decoder.finish(hidden, told.decoder.modulation)[:, front:] + self.head_places(coordinates)

    def _through(
        self, half: Transformer, x: Tensor, sight: Sight, stack: LazyStack | None, cache: LazyMaskedCache | None, index: Tensor | None
    ) -> Tensor:
        if stack is None or cache is None:
            return half.through(x, sight)
        return half.finish(stack.whole(half.blocks, x, sight, cache.lazy.layers, index), sight.modulation)

    def _decoder_inputs(self, front: Tensor, tokens: Tensor, coordinates: Tensor) -> Tensor:
        """Encoded front ``(B, F, D)`` and tokens or placeholders ``(B, N, D)``, with the decoder's positions, ``(B, F + N, D)``."""
        front = front + F.pad(self.decoder_buffer_places, (0, 0, front.shape[1] - self.buffer_size, 0))
        return torch.cat((front, tokens + self.decoder_places(coordinates)), dim=1)

    def _table(self, coordinates: Tensor, device: torch.device, dtype: torch.dtype, front: int) -> Rotation | None:
        return self.encoder.rotary(coordinates, device, dtype, front) if self.rotary else None

    @staticmethod
    def _mask(read: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """``(B, S)`` bool, which places are read, as numbers to add to scores; a row of none reads itself, only to stand on something."""
        if read is None or bool(read.all()):
            return None
        return additive(read | ~read.any(1, keepdim=True), dtype)[:, None, None, :]

    def _told(self, conditioning: Conditioning | None, inputs: Tensor) -> _Told:
        """What stands before the tokens, and what the layers are told."""
        dtype = self.encoder.compute_dtype(inputs)
        front, real = self.buffer_places.expand(len(inputs), -1, -1), None
        if conditioning is not None and self.prefix is not None and self.pooled is not None:
            states = self.prefix(conditioning.states.masked_fill(~conditioning.mask[..., None], 0))
            front = torch.cat((states, front + self.pooled(conditioning.pooled)[:, None]), dim=1)
            if not bool(conditioning.mask.all()):
                real = F.pad(conditioning.mask, (0, self.buffer_size), value=True)
        paths = [_Paths(*half.take_condition(conditioning, dtype)) for half in (self.encoder, self.decoder)] if self.prefix is None else []
        encoder, decoder = paths or (_Paths([], None, []), _Paths([], None, []))
        return _Told(front.to(inputs.dtype), real, encoder, decoder)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, r)`` of ``(B, n, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
