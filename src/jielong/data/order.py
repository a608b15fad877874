"""The endless shuffled stream of training items."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_MIX = 0x9E3779B97F4A7C15  # odd 64-bit constant (2^64 / golden ratio), so that neighbouring (seed, epoch) pairs are far apart


class ShuffledOrder:
    """An endless stream of item indices: one permutation an epoch, drawn from ``(seed, epoch)``.

    The position is the number of samples seen, so resuming needs no other state, and the item at a position does not depend on the batch
    size or the number of processes.

    >>> order = ShuffledOrder(3, seed=0)
    >>> sorted(order.at(0, 3)), sorted(order.at(3, 3))
    ([0, 1, 2], [0, 1, 2])
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        """Shuffle ``length`` items.

        Raises:
            ValueError: if there are no items.
        """
        if length < 1:
            raise ValueError(f"an order needs at least one item, not {length}")
        self.length, self.seed = length, seed
        self._epoch = -1
        self._permutation: list[int] = []

    def at(self, position: int, count: int) -> list[int]:
        """The items at global positions ``position`` to ``position + count - 1``, counted in samples seen."""
        items: list[int] = []
        while len(items) < count:
            epoch, offset = divmod(position + len(items), self.length)
            items += self._permutation_of(epoch)[offset : offset + count - len(items)]
        return items

    def batch(self, position: int, size: int, rank: int = 0, world: int = 1) -> list[int]:
        """What process ``rank`` of ``world`` takes of the global batch of ``size`` samples that starts at ``position``.

        Raises:
            ValueError: if the global batch cannot be cut into ``world`` equal parts, or there is no such rank.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} processes")
        if size % world:
            raise ValueError(f"a global batch of {size} samples cannot be shared equally by {world} processes; use a multiple of {world}")
        share = size // world
        return self.at(position + rank * share, share)

    def _permutation_of(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * _MIX + epoch * 0xD1B54A32D192ED03 + 1) % 2**63)
            self._permutation = torch.randperm(self.length, generator=generator).tolist()
            self._epoch = epoch
        return self._permutation


class AlikeOrder(ShuffledOrder):
    """A shuffled stream with batches of similar lengths, to reduce padding.

    ``POOL`` batches at a time are sorted by length, split into batches again, and shuffled. An epoch contains every item once, except for
    the pools at its edges.

    >>> order = AlikeOrder([5, 1, 5, 1], batch=2, seed=0)
    >>> sorted(sorted([5, 1, 5, 1][item] for item in order.at(first, 2)) for first in (0, 2))
    [[1, 1], [5, 5]]
    """

    POOL = 8

    def __init__(self, lengths: Sequence[int], batch: int, seed: int = 0) -> None:
        """Shuffle items of these lengths, for batches of ``batch``."""
        super().__init__(len(lengths), seed)
        self.lengths, self.size = list(lengths), batch
        self._pool, self._arranged = -1, list[int]()

    def at(self, position: int, count: int) -> list[int]:
        """See :meth:`ShuffledOrder.at`."""
        items: list[int] = []
        while len(items) < count:
            pool, offset = divmod(position + len(items), self.POOL * self.size)
            items += self._arrangement_of(pool)[offset : offset + count - len(items)]
        return items

    def _arrangement_of(self, pool: int) -> list[int]:
        if pool != self._pool:
            drawn = super().at(pool * self.POOL * self.size, self.POOL * self.size)
            ordered = sorted(drawn, key=self.lengths.__getitem__)
            generator = torch.Generator().manual_seed((self.seed * _MIX + pool * 0xD1B54A32D192ED03 + 2) % 2**63)
            places = torch.randperm(self.POOL, generator=generator).tolist()
            self._arranged = [item for place in places for item in ordered[place * self.size : (place + 1) * self.size]]
            self._pool = pool
        return self._arranged


def spread(total: int, count: int | None) -> list[int]:
    """``count`` of ``total`` indices, evenly spread; at most all of them.

    Raises:
        ValueError: if ``count`` is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"an evaluation needs at least one item, not {count}")
    count = min(count or total, total)
    return [index * total // count for index in range(count)]
