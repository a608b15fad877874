"""Text of any file of a data set: one decoder, and lines that end at line ends alone."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping, Sequence

from jielong.core.json import printable
from jielong.data.source import DataError

_MARKS = (
    # UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r?\n")


def decode_text(data: bytes, name: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 or UTF-32 with one.

    Raises:
        DataError: if it is in another encoding; the text gives the line.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        written = encoding.removesuffix("-sig").upper()
        raise DataError(f"{name} is not {written} text: line {line} has the byte 0x{data[error.start]:02x}; save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{name} holds zero bytes, as UTF-16 without a byte order mark does; save it as UTF-8")
    return text


def lines_of(text: str) -> list[str]:
    """Lines without their ends, which are ``\\n`` and ``\\r\\n`` alone; other separators of Unicode belong to the text."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def text_of(value: object, name: str) -> str | None:
    """A value as stripped text; ``None`` where it is missing, NaN or blank; a whole number in floating point without its ``.0``.

    Raises:
        DataError: if it is not text.
    """
    if isinstance(value, Mapping):
        raise DataError(f"{name} is an object, not text: {value!r:.80}")
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    text = decode_text(value, name) if isinstance(value, bytes) else "" if value is None else str(value)
    if printable(text) != text:
        raise DataError(f"{name} has half of a surrogate pair, which is no character: {printable(text):.80}")
    return text.strip() or None


def texts_of(value: object, name: str) -> tuple[str, ...]:
    """All texts of a value: a list holds several, anything else one or none."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return tuple(text for text in (text_of(each, name) for each in values) if text is not None)
