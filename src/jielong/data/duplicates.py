"""Equal items in both splits of a set."""

from __future__ import annotations

from collections.abc import Sequence

from jielong.data.source import Source
from jielong.data.splits import in_both

SHOWN = 3
"""Pairs that are named."""


def named(source: Source, pairs: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    """The keys of the first pairs."""
    return [(source.items[first].key, source.items[second].key) for first, second in pairs[:SHOWN]]


def leak(source: Source) -> str | None:
    """What is wrong with declared splits that have items of the same content; ``None`` if nothing is."""
    pairs = in_both(source.content_hashes, source.splits) if source.declares_splits else []
    if not pairs:
        return None
    listing = ", ".join(f"{first} = {second}" for first, second in named(source, pairs)) + ", ..." * (len(pairs) > SHOWN)
    return (
        f"{len(pairs)} of {source.splits.count('heldout')} held-out items of {source.name} have the same content as a training item "
        f"({listing}), so held-out figures look better than they are: move equal items into one split, or set data.deduplicate to true"
    )
