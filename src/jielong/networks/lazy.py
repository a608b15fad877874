"""Lazy steps: between two steps that compute everything, compute what changed most, and remember the rest (LazyMAR, arXiv 2503.12450).

Most positions of a masked block look nearly the same to the network from one step to the next. In a lazy step the first layers run at
all positions, and by how much their output turned since a position was last computed through, the few are chosen that go on; the
others' keys, values and hidden vectors stay as they were. What was just revealed, and what is to be drawn now, always goes on. And the
difference between conditional and unconditional hidden vectors hardly moves, so a lazy step computes the conditional half alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.config.speed import Lazy

if TYPE_CHECKING:
    from jielong.networks.layers import Block, Sight
    from jielong.networks.rope import Rotation


@dataclass
class LazyCache:
    """What a network keeps from step to step.

    Attributes:
        lazy: How lazy to be.
        batch: Items.
        started: Whether the first call has been made, which takes the condition in.
        fresh: Whether the next call computes everything.
        revealed: ``(B, k)`` places that became known since the last call.
        wanted: ``(B, k)`` places whose hidden vectors the next call is made for.
    """

    lazy: Lazy
    batch: int
    started: bool = False
    fresh: bool = True
    revealed: Tensor | None = None
    wanted: Tensor | None = None

    def next(self, fresh: bool, wanted: Tensor) -> None:
        """Say what the next call is for; what the last one was for is known by then."""
        self.fresh, self.revealed, self.wanted = fresh, self.wanted, wanted

    def forced(self, places: int, offset: int = 0) -> Tensor:
        """``(B, places)`` bool: what was just revealed and what is wanted now, behind ``offset`` places that are neither."""
        assert self.wanted is not None
        made = torch.zeros(self.batch, places, dtype=torch.bool, device=self.wanted.device)
        for index in (self.revealed, self.wanted):
            if index is not None:
                made.scatter_(1, index + offset, True)
        return made

    def rows(self, index: slice) -> LazyCache:
        """The cache of some items, which shares this one's memory."""
        return replace(
            self,
            batch=len(range(*index.indices(self.batch))),
            revealed=None if self.revealed is None else self.revealed[index],
            wanted=None if self.wanted is None else self.wanted[index],
        )


@dataclass(frozen=True)
class KeyMemory:
    """Keys and values of all places in one layer, of which a pass computes some.

    Attributes:
        keys: ``(B, heads, S, head width)``.
        values: The same of the values.
        index: ``(B, r)`` places that are computed; ``None`` for all of them.
        alone: Whether these see each other only, and not the others that are remembered.
    """

    keys: Tensor
    values: Tensor
    index: Tensor | None
    alone: bool

    def __call__(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Remember keys and values ``(B, heads, r, head width)``; what attention is to see."""
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
    """The layers of a transformer over ``S`` places, with what they computed last.

    Attributes:
        memory: ``(layers, 2, B, heads, S, head width)``: keys and values.
        features: ``(B, S, D)``: what the first layers said of a place when it last went through all of them.
        hidden: ``(B, S, D)``: what came out, before the last norm.
    """

    memory: Tensor
    features: Tensor
    hidden: Tensor

    @staticmethod
    def allocate(layers: int, batch: int, heads: int, places: int, width: int, like: Tensor, dtype: torch.dtype) -> LazyStack:
        """Nothing remembered yet; keys and values of ``dtype``, the rest of that of ``like``, all on its device."""
        return LazyStack(
            like.new_zeros(layers, 2, batch, heads, places, width // heads, dtype=dtype),
            like.new_zeros(batch, places, width),
            like.new_zeros(batch, places, width),
        )

    def rows(self, index: slice) -> LazyStack:
        """Some items, in the same memory."""
        return LazyStack(self.memory[:, :, index], self.features[index], self.hidden[index])

    def whole(self, blocks: Sequence[Block], x: Tensor, sight: Sight, first: int, index: Tensor | None = None) -> Tensor:
        """Compute all that is there: every place, or those of ``index`` ``(B, r)``, which then see each other only.

        Args:
            blocks: The layers.
            x: ``(B, r, D)``.
            sight: What they may see.
            first: Layers behind which features are kept.
            index: Their places.

        Returns:
            ``(B, r, D)``.
        """
        for layer, block in enumerate(blocks):
            x = self._layer(block, layer, x, sight, index, alone=True)
            if layer + 1 == first:
                _put(self.features, index, x)
        _put(self.hidden, index, x)
        return x

    def some(
        self, blocks: Sequence[Block], x: Tensor, sight: Sight, lazy: Lazy, index: Tensor, forced: Tensor, table: Rotation | None
    ) -> Tensor:
        """Compute a few of the places ``index`` through all layers, and remember the rest.

        Args:
            blocks: The layers.
            x: ``(B, r, D)``: what stands there.
            sight: What they may see of all ``S`` places; its rotation is replaced.
            lazy: How many of them, by the output of how many layers.
            index: ``(B, r)`` places.
            forced: ``(B, r)`` bool: those that must go through, as many in every item.
            table: Rotations of all ``S`` places.

        Returns:
            ``(B, S, D)`` before the last norm, new where computed.
        """
        must, rows = int(forced[0].sum()), x.shape[1]
        count = must + round(lazy.share * (rows - must))
        seen = replace(sight, rotation=None if table is None else table.at(index))
        for layer, block in enumerate(blocks):
            if layer == lazy.layers:
                if count < rows:
                    likeness = F.cosine_similarity(x.float(), _take(self.features, index).float(), dim=-1)
                    kept = likeness.masked_fill(forced, -torch.inf).argsort(dim=1, stable=True)[:, :count]
                    x, index = _take(x, kept), index.gather(1, kept)
                    seen = replace(sight, rotation=None if table is None else table.at(index))
                _put(self.features, index, x)
            x = self._layer(block, layer, x, seen, index)
        _put(self.hidden, index, x)
        return self.hidden

    def _layer(self, block: Block, layer: int, x: Tensor, sight: Sight, index: Tensor | None, alone: bool = False) -> Tensor:
        memory = KeyMemory(self.memory[layer, 0], self.memory[layer, 1], index, alone)
        return block(x.flatten(0, 1), replace(sight, memory=memory), layer).view(x.shape)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, r)`` of ``(B, S, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _put(x: Tensor, index: Tensor | None, rows: Tensor) -> None:
    """Write rows ``(B, r, D)`` to their places in ``(B, S, D)``."""
    if index is None:
        x.copy_(rows)
    else:
        x.scatter_(1, index[..., None].expand_as(rows), rows.to(x.dtype))
