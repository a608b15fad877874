"""Caches of the masked autoencoder: the condition, and, for lazy steps, the last results of both halves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from jielong.networks.layers import LayerCondition
from jielong.networks.lazy import LazyCache, LazyStack


@dataclass(frozen=True)
class MaskedCondition:
    """The condition as the networks read it; the same at every step."""

    front: Tensor  # (B, F, D): prefix and buffer, before the tokens of the encoder
    real: Tensor | None  # (B, F) bool, false at padding of the prefix; None where nothing is padded
    encoder: LayerCondition  # the condition of the encoder's layers
    decoder: LayerCondition  # the condition of the decoder's layers

    def real_front(self) -> Tensor:
        """:attr:`real`, or all true."""
        return self.front.new_ones(self.front.shape[:2], dtype=torch.bool) if self.real is None else self.real

    def rows(self, index: slice) -> MaskedCondition:
        """The condition of some items."""
        real = None if self.real is None else self.real[index]
        return MaskedCondition(self.front[index], real, self.encoder.rows(index), self.decoder.rows(index))


@dataclass
class MaskedCache:
    """The condition as the first call took it in; nothing else is constant in a masked block."""

    batch: int
    started: bool = False
    condition: MaskedCondition | None = None

    def rows(self, index: slice) -> MaskedCache:
        """The conditions of some items."""
        batch = len(range(*index.indices(self.batch)))
        return MaskedCache(batch, self.started, None if self.condition is None else self.condition.rows(index))


@dataclass
class LazyMaskedCache(LazyCache):
    """State between lazy steps."""

    encoder: LazyStack = field(kw_only=True)  # the encoder's last results at all slots, of which unknown ones are masked
    decoder: LazyStack = field(kw_only=True)  # the decoder's last results at all slots
    encoded: Tensor = field(kw_only=True)  # (B, F + N, D): the encoder's output at the known slots, as the decoder reads it
    condition: MaskedCondition | None = None

    def rows(self, index: slice) -> LazyMaskedCache:
        """Some items, sharing the memory."""
        return replace(
            cast("LazyMaskedCache", super().rows(index)),
            encoder=self.encoder.rows(index),
            decoder=self.decoder.rows(index),
            encoded=self.encoded[index],
            condition=None if self.condition is None else self.condition.rows(index),
        )
