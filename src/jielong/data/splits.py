"""Which items of a source are for training, and which are held out."""

from __future__ import annotations

from typing import Literal

from jielong.data.source import Source, fraction

Split = Literal["train", "heldout"]
HELDOUT_SHARE = 0.05
_HELDOUT_WORDS = ("heldout", "test", "val", "valid", "validation", "eval")


def declares(source: Source) -> bool:
    """Whether a source says of any item which split it is of."""
    return any(item.split for item in source.items)


def splits(source: Source) -> list[Split]:
    """The split of every item: as the source says; where it says nothing, 5 % by a hash of the key are held out, at least one of two."""
    if declares(source):
        return ["heldout" if (item.split or "").lower() in _HELDOUT_WORDS else "train" for item in source.items]
    rank = [fraction(item.key) for item in source.items]
    heldout = {index for index, place in enumerate(rank) if place < HELDOUT_SHARE}
    if not heldout and len(rank) > 1:
        heldout = {min(range(len(rank)), key=rank.__getitem__)}
    return ["heldout" if index in heldout else "train" for index in range(len(rank))]
