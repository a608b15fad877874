"""Training and held-out splits."""

from __future__ import annotations

from typing import Literal

from jielong.data.source import Source, fraction

Split = Literal["train", "heldout"]
HELDOUT_SHARE = 0.05
_HELDOUT_WORDS = ("heldout", "test", "val", "valid", "validation", "eval")


def declares(source: Source) -> bool:
    """Whether a source declares the split of any item."""
    return any(item.split for item in source.items)


def splits(source: Source) -> list[Split]:
    """The split of every item: as declared, or else 5 % held out by a hash of the key, at least one of two items."""
    if declares(source):
        return ["heldout" if (item.split or "").lower() in _HELDOUT_WORDS else "train" for item in source.items]
    rank = [fraction(item.key) for item in source.items]
    heldout = {index for index, place in enumerate(rank) if place < HELDOUT_SHARE}
    if not heldout and len(rank) > 1:
        heldout = {min(range(len(rank)), key=rank.__getitem__)}
    return ["heldout" if index in heldout else "train" for index in range(len(rank))]
