"""JSON: the type of what is written and read, and text that is valid whatever the names and numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TypeAlias

JSON: TypeAlias = dict[str, object]


def printable(text: str) -> str:
    """A text with lone surrogates, which encode bytes of file names that are not UTF-8, as ``\\udce9``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_text(value: object, indent: int | None = None) -> str:
    """JSON that every reader accepts: names as of :func:`printable`; NaN and infinities, which JSON lacks, are ``null``."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {printable(key) if isinstance(key, str) else key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
