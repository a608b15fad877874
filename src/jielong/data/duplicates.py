"""Equal and similar items in both splits of a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from jielong.core.json import JSON, printable
from jielong.data.source import Source
from jielong.data.splits import Split, in_both

SHOWN = 3
"""Pairs that are named."""
NEAR_BITS = 4
"""Perceptual hashes of 64 bits that differ in no more are those of near duplicates: the same picture scaled, compressed or recoloured."""
_BLOCK = 256

Pair = tuple[int, int]


@dataclass(frozen=True)
class Pairs:
    """Held-out items with a counterpart in training: their number, and the first ones as ``(held out, training)``."""

    count: int
    examples: list[tuple[str, str]]

    @staticmethod
    def of(source: Source, pairs: Sequence[Pair]) -> Pairs:
        """Named by key."""
        keys = [printable(item.key) for item in source.items]
        return Pairs(len(pairs), [(keys[first], keys[second]) for first, second in pairs[:SHOWN]])

    def __str__(self) -> str:
        return ", ".join([f"{first} = {second}" for first, second in self.examples] + ["..."] * (self.count > len(self.examples)))


@dataclass(frozen=True)
class Duplicates:
    """What a set holds more than once.

    Attributes:
        heldout: Held-out items.
        across: Of them, those with the bytes of a training item.
        compared: Held-out items with other bytes that were decoded and have a perceptual hash.
        near: Of these, those whose hash is within :data:`NEAR_BITS` of a training item's; ``None`` if not looked for.
        why_not: Why not.
        train: Training items with the bytes of another training item before them.
    """

    heldout: int
    across: Pairs
    compared: int
    near: Pairs | None
    why_not: str
    train: int

    def rows(self) -> list[tuple[str, str]]:
        """Lines of a table."""
        near = self.why_not if self.near is None else _counted(self.near, self.compared)
        rows = [("in both splits", _counted(self.across, self.heldout)), ("near duplicates", near)]
        return [*rows, ("repeated in training", str(self.train))]

    def as_dict(self) -> JSON:
        """Ready for JSON."""
        return asdict(self)


def find_duplicates(source: Source, indices: Sequence[int], perceptual: Mapping[int, int] | str) -> Duplicates:
    """Look for equal and similar items across the splits.

    Args:
        source: The set.
        indices: Its usable items.
        perceptual: Perceptual hash of 64 bits by index, or why there is none.
    """
    hashes, splits = [source.content_hashes[index] for index in indices], [source.splits[index] for index in indices]
    trained = [content for content, split in zip(hashes, splits, strict=True) if split == "train"]
    across = [(indices[first], indices[second]) for first, second in in_both(hashes, splits)]
    known, equal = {} if isinstance(perceptual, str) else perceptual, {first for first, _ in across}
    sides: dict[Split, list[int]] = {"train": [], "heldout": []}
    for index, split in zip(indices, splits, strict=True):
        if index in known and index not in equal:
            sides[split].append(index)
    near = near_pairs(sides["heldout"], sides["train"], known)
    return Duplicates(
        heldout=splits.count("heldout"),
        across=Pairs.of(source, across),
        compared=len(sides["heldout"]),
        near=None if isinstance(perceptual, str) else Pairs.of(source, near),
        why_not=perceptual if isinstance(perceptual, str) else "",
        train=len(trained) - len(set(trained)),
    )


def leak(source: Source) -> str | None:
    """What is wrong with declared splits that have items of the same content; ``None`` if nothing is."""
    pairs = Pairs.of(source, in_both(source.content_hashes, source.splits) if source.declares_splits else [])
    if not pairs.count:
        return None
    return (
        f"{pairs.count} of {source.splits.count('heldout')} held-out items have the same content as a training item "
        f"({pairs}), so held-out figures look better than they are: move equal items into one split, or set data.deduplicate to true"
    )


def near_pairs(heldout: Sequence[int], train: Sequence[int], perceptual: Mapping[int, int]) -> list[Pair]:
    """Each held-out item with a perceptual hash near a training item's, and the nearest one."""
    if not train:
        return []
    trained, pairs = signs([perceptual[i] for i in train]), list[Pair]()
    for first in range(0, len(heldout), _BLOCK):
        block = heldout[first : first + _BLOCK]
        differing = (64 - signs([perceptual[i] for i in block]) @ trained.T) / 2  # bits, exactly
        nearest = differing.argmin(1)
        pairs += [(i, train[place]) for i, place, bits in zip(block, nearest, differing.min(1), strict=True) if bits <= NEAR_BITS]
    return pairs


def signs(hashes: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The bits of hashes as 1 and -1, ``(n, 64)``."""
    octets = np.array(hashes, np.uint64)[:, None].view(np.uint8)
    return np.unpackbits(octets, axis=1).astype(np.float32) * 2 - 1


def _counted(pairs: Pairs, of: int) -> str:
    return f"{pairs.count} of {of} held out" + (f": {pairs}" if pairs.count else "")
