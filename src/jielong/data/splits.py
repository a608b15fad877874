"""Training and held-out splits: as declared, otherwise by a hash of the content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

Split = Literal["train", "heldout"]
HELDOUT_SHARE = 0.05
HELDOUT_WORDS = ("heldout", "test", "val", "valid", "validation", "eval", "dev")
TRAIN_WORDS = ("train", "training")


def fraction(text: str) -> float:
    """A hash of a text as a number in ``[0, 1)``, uniform over texts."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def declared_split(word: str | None) -> Split:
    """The split that a word of the data names; ``train`` without one, or for another word (:func:`other_splits`)."""
    return "heldout" if (word or "").lower() in HELDOUT_WORDS else "train"


def other_splits(words: Iterable[str | None]) -> str:
    """A message about words that name neither split; empty without one."""
    others = Counter(word for word in words if word and word.lower() not in (*HELDOUT_WORDS, *TRAIN_WORDS))
    listing = ", ".join(f"{word!r} ({count:,})" for word, count in others.most_common(3)) + ", ..." * (len(others) > 3)
    return f"items of the split {listing} are read as training items; held-out ones are named {', '.join(HELDOUT_WORDS)}" if others else ""


def split_by_content(hashes: Sequence[str]) -> list[Split]:
    """The split of every item: 5 % of the contents are held out, and where there are two different ones, each split has one.

    Items with the same bytes are in one split. Names do not matter, and other items only where there are so few that none or all would be
    held out. Pixels are not compared: the split would change with the version of a decoder, and would need all files to be decoded.

    Args:
        hashes: Of the content of each item.
    """
    rank = {content: fraction(content) for content in hashes}
    if len(rank) < 2:
        return ["train"] * len(hashes)
    first, last = min(rank, key=rank.__getitem__), max(rank, key=rank.__getitem__)
    return ["heldout" if content == first or (rank[content] < HELDOUT_SHARE and content != last) else "train" for content in hashes]


def unseen_combinations(counts: Mapping[tuple[str, str, str], int], share: float = HELDOUT_SHARE) -> set[tuple[str, str, str]]:
    """Combinations of three attributes, such as style, hair and color, that training does not see, about that share of the items.

    For each first value, at most a third of the third values of a second one and at most a third of the second values of a third one are
    held out, so that training sees every value. Combinations are taken in the order of a hash of their names.

    Args:
        counts: Items of each combination.
        share: Of the items.
    """
    total, chosen, items = sum(counts.values()), set[tuple[str, str, str]](), 0
    of_second = Counter((first, second) for first, second, _ in counts)
    of_third = Counter((first, third) for first, _, third in counts)
    seconds, thirds = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for combination in sorted(counts, key=lambda each: fraction("|".join(each))):
        first, second, third = combination
        if items >= share * total:
            break
        if seconds[first, second] < of_second[first, second] // 3 and thirds[first, third] < of_third[first, third] // 3:
            chosen.add(combination)
            items += counts[combination]
            seconds[first, second] += 1
            thirds[first, third] += 1
    return chosen


def in_both(hashes: Sequence[str], splits: Sequence[Split]) -> list[tuple[int, int]]:
    """Held-out items with the same content as a training item, each with the first such training item."""
    trained: dict[str, int] = {}
    for index, content in enumerate(hashes):
        if splits[index] == "train":
            trained.setdefault(content, index)
    return [(index, trained[content]) for index, content in enumerate(hashes) if splits[index] == "heldout" and content in trained]
