"""Training items with random crops and flips, drawn from the seed and the position in the stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.config.data import DataSettings
from jielong.core.medium import Medium
from jielong.core.rng import seed_of
from jielong.data.mirroring import kept_upright, word_of_sides
from jielong.data.source import DataError
from jielong.media.augmentation import Augmentation, mirrored
from jielong.media.kinds.base import Content

if TYPE_CHECKING:
    from jielong.data.sets import MediaSet


class Augmenter:
    """Draws the crops and flips of a set's training items.

    Args:
        data: The set.
        augmentation: What is drawn.

    Raises:
        DataError: if its pictures hold writing, which a flip makes wrong.
    """

    def __init__(self, data: MediaSet, augmentation: Augmentation) -> None:
        if augmentation.flip and data.source.writing:
            raise DataError(f"{data.name} holds letters, digits or signs, which a flip makes wrong: set data.augment.flip to false")
        self.data, self.augmentation = data, augmentation
        self._canvases = data.viewed(data.kind.decode_canvas) if augmentation.crops else data

    @cached_property
    def words(self) -> list[str | None]:
        """The word of each item's captions or class for which it is never flipped."""
        if not self.augmentation.flip:
            return [None] * len(self.data)
        names = [None if label is None else self.data.classes[label] for label in self.data.labels]
        return [word_of_sides((*captions, name or "")) for captions, name in zip(self.data.captions_of_items, names, strict=True)]

    def report(self) -> str:
        """A message about items that are never flipped; empty without one."""
        return kept_upright(self.data.keys, self.words, self.data.name, self.data.kind.noun[1])

    @cached_property
    def mirrored(self) -> MediaSet:
        """The set with every item flipped."""

        def read(content: Content, name: str, medium: Medium, settings: DataSettings) -> Tensor:
            return mirrored(self.data.kind.decode(content, name, medium, settings))

        return self.data.viewed(read, "mirrored")

    def flips(self, indices: Sequence[int], positions: Sequence[int], seed: int) -> list[bool]:
        """Whether each item is flipped; arguments as of :meth:`~jielong.data.sets.MediaSet.crops`."""
        if not self.augmentation.flip:
            return [False] * len(indices)
        rows = [self.data.resolve(index) for index in indices]
        return [self.words[row] is None and _uniform(seed, position, "flip") < 0.5 for row, position in zip(rows, positions, strict=True)]

    def media(self, indices: Sequence[int], positions: Sequence[int], seed: int) -> Tensor:
        """The items, ``(B, C, *size)`` float32 in [-1, 1]; arguments as of :meth:`~jielong.data.sets.MediaSet.crops`."""
        size, found = (self.data.medium.size[0], self.data.medium.size[1]), list[Tensor]()
        for index, position in zip(indices, positions, strict=True):
            item = self._canvases.stored(index)
            found.append(self.augmentation.cropped(item, size, partial(_uniform, seed, position)) if self.augmentation.crops else item)
        flips = self.flips(indices, positions, seed)
        return self.data.kind.to_float(torch.stack([mirrored(item) if flip else item for item, flip in zip(found, flips, strict=True)]))


def _uniform(seed: int, position: int, what: str) -> float:
    """A number in [0, 1), the same for the same seed, position and purpose."""
    return seed_of(seed, f"augment {what}", position) / 2**63
