"""Items that must not be mirrored: those whose captions or classes speak of left and right, or of writing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from jielong.data.ledger import NAMED

_ENGLISH = (
    r"(?:left|right)(?:wards?|most|hand(?:ed)?|s)?",
    r"(?:counter|anti)?-?clockwise",
    r"texts?|letter(?:s|ing)?|words?|writing|written|inscriptions?|logos?|digits?|numbers?|numerals?|keycaps?|clocks?",
)
_CHINESE = r"左|右|[顺順逆][时時][针針]|文字|字母|[数數]字|[汉漢]字|[写寫][着著]|[时時][钟鐘]"
_QUOTES = '["“”„«»「」『』]'
_FALSE = re.compile(rf"(?<![a-z])(?:{'|'.join(_ENGLISH)})(?![a-z])|{_CHINESE}|{_QUOTES}", re.IGNORECASE)


def word_of_sides(texts: Iterable[str]) -> str | None:
    """The first word that may be false of a mirrored picture; ``None`` without one.

    >>> word_of_sides(["a car that turns left"]), word_of_sides(["左边的猫"]), word_of_sides(["a bright leftover"])
    ('left', '左', None)
    """
    found = next(filter(None, map(_FALSE.search, texts)), None)
    return None if found is None else found[0].lower()


def kept_upright(keys: Iterable[str], words: Iterable[str | None], name: str, noun: str) -> str:
    """A message about items that are never mirrored; empty without one.

    Args:
        keys: Of all items.
        words: :func:`word_of_sides` of each.
        name: Of the set.
        noun: Of several items.
    """
    pairs = list(zip(keys, words, strict=True))
    kept = [key for key, word in pairs if word is not None]
    if not kept:
        return ""
    counts = Counter(word for _, word in pairs if word is not None)
    listed = ", ".join(f"{word} ({count:,})" for word, count in counts.most_common(NAMED)) + ", ..." * (len(counts) > NAMED)
    first = ", ".join(kept[:NAMED]) + ", ..." * (len(kept) > NAMED)
    why = f"since a word of their captions or classes may become false: {listed}; {first}"
    return f"{name}: {len(kept):,} of {len(pairs):,} {noun} are never flipped, {why}"
