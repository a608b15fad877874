"""Lazy steps: between two full steps, recompute only the positions that changed most (LazyMAR, arXiv 2503.12450).

The features of most positions of a masked block hardly change from step to step. In a lazy step the first layers run at all positions;
those whose output changed most (by cosine similarity) since they were last computed pass through the remaining layers, as do the positions
just revealed and those sampled now. The others keep their keys, values and hidden vectors. The difference between conditional and
unconditional hidden vectors hardly changes either, so a lazy step computes the conditional half alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.config.sampling import Lazy
from jielong.networks.attention import compute_dtype
from jielong.networks.layers import AttentionContext, Block, LayerCondition
from jielong.networks.rope import Rotation


@dataclass
class LazyCache:
    """State between the steps of a masked block."""

    lazy: Lazy
    batch: int
    started: bool = False  # whether the first call, which takes the condition in, has been made
    fresh: bool = True  # whether the next call is a full step
    revealed: Tensor | None = None  # (B, k) positions that became known since the last call
    wanted: Tensor | None = None  # (B, k) positions that are sampled after the next call

    def next(self, fresh: bool, wanted: Tensor) -> None:
        """Prepare the next call; the positions wanted by the last one are known by now."""
        self.fresh, self.revealed, self.wanted = fresh, self.wanted, wanted

    def forced(self, slots: int, offset: int = 0) -> Tensor:
        """``(B, slots)`` bool: positions just revealed and wanted now, after ``offset`` slots that are neither."""
        assert self.wanted is not None
        forced = torch.zeros(self.batch, slots, dtype=torch.bool, device=self.wanted.device)
        for index in (self.revealed, self.wanted):
            if index is not None:
                forced.scatter_(1, index + offset, True)
        return forced

    def rows(self, index: slice) -> LazyCache:
        """The cache of some items, sharing this one's memory."""
        return replace(
            self,
            batch=len(range(*index.indices(self.batch))),
            revealed=None if self.revealed is None else self.revealed[index],
            wanted=None if self.wanted is None else self.wanted[index],
        )


@dataclass(frozen=True)
class SlotStore:
    """Keys and values of all slots of one layer, some of which a pass computes."""

    keys: Tensor  # (B, heads, S, head width)
    values: Tensor  # (B, heads, S, head width)
    index: Tensor | None  # (B, r) slots that are computed; None for all of them
    alone: bool  # whether these attend to each other only, not to the other slots

    def __call__(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values ``(B, heads, r, head width)``; return those attended to."""
        if self.index is None:
            self.keys.copy_(keys)
            self.values.copy_(values)
            return keys, values
        index = self.index[:, None, :, None].expand_as(keys)
        self.keys.scatter_(2, index, keys)
        self.values.scatter_(2, index, values)
        return (keys, values) if self.alone else (self.keys, self.values)


@dataclass
class LazyStack:
    """The last results of a transformer's layers at ``S`` slots."""

    memory: Tensor  # (layers, 2, B, heads, S, head width): keys and values
    features: Tensor  # (B, S, D): output of the first layers when a slot last passed all of them
    hidden: Tensor  # (B, S, D): output of the last layer, before the last norm

    @staticmethod
    def allocate(layers: int, batch: int, heads: int, slots: int, width: int, like: Tensor) -> LazyStack:
        """Zeros on the device of ``like`` and of its dtype, keys and values of the dtype of products."""
        return LazyStack(
            like.new_zeros(layers, 2, batch, heads, slots, width // heads, dtype=compute_dtype(like)),
            like.new_zeros(batch, slots, width),
            like.new_zeros(batch, slots, width),
        )

    def rows(self, index: slice) -> LazyStack:
        """Some items, sharing the memory."""
        return LazyStack(self.memory[:, :, index], self.features[index], self.hidden[index])

    def whole(self, blocks: Sequence[Block], x: Tensor, context: AttentionContext, first: int, index: Tensor | None = None) -> Tensor:
        """Compute all slots, or ``index (B, r)`` attending to each other only, ``(B, r, D)``; features are kept after ``first`` layers."""
        for layer, block in enumerate(blocks):
            x = self._layer(block, layer, x, context, index, alone=True)
            if layer + 1 == first:
                _put(self.features, index, x)
        _put(self.hidden, index, x)
        return x

    def some(
        self,
        blocks: Sequence[Block],
        x: Tensor,
        context: AttentionContext,
        lazy: Lazy,
        index: Tensor,
        forced: Tensor,
        table: Rotation | None,
    ) -> Tensor:
        """Compute some of the slots ``index`` through all layers and keep the rest. Returns ``(B, S, D)`` before the last norm.

        Args:
            x: ``(B, r, D)``: their inputs.
            context: What they attend to of all ``S`` slots; its rotation is replaced.
            lazy: Share of slots, and the layers whose output selects them.
            index: ``(B, r)`` slots.
            forced: ``(B, r)`` bool: slots that are always computed, equally many in every item.
            table: Rotations of all ``S`` slots.
        """
        must, rows = int(forced[0].sum()), x.shape[1]
        count = must + round(lazy.share * (rows - must))
        context = replace(context, rotation=None if table is None else table.at(index))
        for layer, block in enumerate(blocks):
            if layer == lazy.layers:
                if count < rows:
                    similarity = F.cosine_similarity(x.float(), take_rows(self.features, index).float(), dim=-1)
                    kept = similarity.masked_fill(forced, -torch.inf).argsort(dim=1, stable=True)[:, :count]
                    x, index = take_rows(x, kept), index.gather(1, kept)
                    context = replace(context, rotation=None if table is None else table.at(index))
                _put(self.features, index, x)
            x = self._layer(block, layer, x, context, index)
        _put(self.hidden, index, x)
        return self.hidden

    def _layer(self, block: Block, layer: int, x: Tensor, context: AttentionContext, index: Tensor | None, alone: bool = False) -> Tensor:
        store = SlotStore(self.memory[layer, 0], self.memory[layer, 1], index, alone)
        return block(x.flatten(0, 1), replace(context, store=store), layer).view(x.shape)


@dataclass
class LazyTransformerCache(LazyCache):
    """State of a transformer between lazy steps."""

    stack: LazyStack = field(kw_only=True)  # the last results of its layers
    condition: LayerCondition = field(default_factory=LayerCondition)  # the condition as the layers read it
    prefix: Tensor | None = None  # (B, P, D): the condition as a prefix, if it enters so
    real: Tensor | None = None  # (B, P) bool, false at padding of the prefix
    causal: bool = False  # whether the prefix is read in order

    def rows(self, index: slice) -> LazyTransformerCache:
        """Some items, sharing the memory."""
        return replace(
            cast("LazyTransformerCache", super().rows(index)),
            stack=self.stack.rows(index),
            condition=self.condition.rows(index),
            prefix=None if self.prefix is None else self.prefix[index],
            real=None if self.real is None else self.real[index],
        )


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, r)`` of ``(B, S, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _put(x: Tensor, index: Tensor | None, rows: Tensor) -> None:
    """Write rows ``(B, r, D)`` to their slots in ``(B, S, D)``."""
    if index is None:
        x.copy_(rows)
    else:
        x.scatter_(1, index[..., None].expand_as(rows), rows.to(x.dtype))
