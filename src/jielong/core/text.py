"""Text of users and files, as it may stand in a message: one line, no control characters, of a bounded length."""

from __future__ import annotations

import re
import reprlib

WORD = 300
"""Most characters of one word of a message: a longer one is content of a file, not a name."""
_LONG_WORD = re.compile(rf"\S{{{WORD + 1},}}")


def shorten(text: str, limit: int) -> str:
    """The text, or its first and last characters around ``[... N characters ...]`` if it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end]} [... {len(text) - limit:,} characters ...] {text[-end:]}"


def readable(text: str, limit: int = 2000) -> str:
    """For the terminal: control characters are escaped, words over :data:`WORD` and texts over ``limit`` characters cut in the middle."""
    text = shorten(text, 50 * limit)
    plain = "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
    return shorten(_LONG_WORD.sub(lambda word: shorten(word[0], WORD), plain), limit)


def shown(value: object, limit: int = 100) -> str:
    """``repr`` of a value of a file, cut to about ``limit`` characters, however large or deep the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    short.maxlevel, short.maxdict, short.maxlist, short.maxtuple = 3, 4, 6, 6
    return shorten(short.repr(value), limit)
