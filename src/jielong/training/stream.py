"""The endless shuffled stream of training items."""

from __future__ import annotations

import torch

from jielong.core.tokens import Tokens
from jielong.data.order import AlikeOrder, ShuffledOrder
from jielong.data.sets import Batch, MediaSet


class TrainingStream:
    """The endless shuffled stream of training items; a position in it is a number of samples seen.

    Args:
        data: The set. Without tokens, long clips are cropped at positions drawn from the seed and the position in the stream.
        seed: Of the shuffling.
        tokens: The set's tokens, which are read instead of media.
        mirrored: Tokens of the flipped items, where flips are drawn.
        similar_lengths: Size of groups of items with similar lengths, which need less padding; ``None`` for any lengths.
    """

    def __init__(
        self,
        data: MediaSet,
        seed: int,
        tokens: Tokens | None = None,
        similar_lengths: int | None = None,
        mirrored: Tokens | None = None,
    ) -> None:
        self.data, self.seed, self.tokens, self.mirrored = data, seed, tokens, mirrored
        self.order = ShuffledOrder(len(data), seed)
        if similar_lengths is not None and tokens is not None and tokens.lengths is not None:
            self.order = AlikeOrder(tokens.lengths.tolist(), similar_lengths, seed)

    def batch(self, first: int, count: int) -> Batch:
        """The items at positions ``first`` to ``first + count`` of the stream."""
        rows, positions = self.order.at(first, count), range(first, first + count)
        if self.tokens is None:
            return self.data.crops(rows, positions, self.seed)
        values = self.tokens.values[rows]
        if self.mirrored is not None and self.data.augmenter is not None:
            flips = torch.tensor(self.data.augmenter.flips(rows, positions, self.seed))
            values = torch.where(flips[:, None, None], self.mirrored.values[rows], values)
        return self.data.tokenised(rows, values, positions, self.seed)
