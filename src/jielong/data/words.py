"""The words beside an item: a record of any shape read into captions, label and split."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jielong.core.json import JSON
from jielong.data.ledger import Cause, Ledger
from jielong.data.source import DataError
from jielong.data.text import decode_text, lines_of, texts_of

CAPTION_NAMES = ("caption", "text", "prompt", "description")
LABEL_NAMES = ("label", "class", "category", "cls")
FILE_NAMES = ("file_name", "filename", "file", "path", "image")
_COLUMNS = "a row needs a column 'file_name' beside 'caption' (or 'text') and 'label'"


TEXT_LIMIT = 1 << 20
"""Bytes beyond which a file beside an item is not its words."""


def check_size(size: int, name: str) -> None:
    """Raise :class:`DataError` for a file beyond :data:`TEXT_LIMIT`."""
    if size > TEXT_LIMIT:
        raise DataError(f"{name} has {size:,} bytes; words beside an item have at most {TEXT_LIMIT:,}")


def several(record: Mapping[str, object], names: Sequence[str], place: str = "") -> tuple[str, ...]:
    """All texts of the first of ``names`` for which the record has any; a list holds several.

    Raises:
        DataError: if it is bytes that are not text.
    """
    return next(filter(None, (texts_of(record.get(name), place or name) for name in names)), ())


def first(record: Mapping[str, object], names: Sequence[str]) -> str | None:
    """The first of :func:`several`."""
    return next(iter(several(record, names)), None)


def read_json(data: bytes | str, name: str) -> JSON:
    """A JSON sidecar: an object, or just a string or a list of strings, which are captions.

    Raises:
        DataError: if it is neither.
    """
    text = decode_text(data, name) if isinstance(data, bytes) else data
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # beside bad JSON, a number of thousands of digits
        raise DataError(f"{name} is not JSON: {error}") from error
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        return {"caption": value}
    if not isinstance(value, dict):
        raise DataError(f"{name} should hold an object with a caption or a label, not {type(value).__name__}")
    return value


def read_metadata(path: Path, unused: Ledger) -> list[tuple[str, JSON]]:
    """The rows of ``metadata.csv`` or ``metadata.jsonl``, each with its place, such as ``metadata.csv, line 2``.

    A row that cannot be read, or names no file, is recorded.

    Raises:
        DataError: if the file is not text.
    """
    text = decode_text(path.read_bytes(), str(path))
    rows: list[tuple[str, JSON]] = []
    for number, row in _csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(text, path):
        place = f"{path.name}, line {number}"
        reason = row if isinstance(row, str) else _fault(row)
        if isinstance(row, str) or reason is not None:
            unused.add(Cause.ROW, place, f"{path}, line {number}: {reason}")
        else:
            rows.append((place, row))
    return rows


def _fault(row: JSON) -> str | None:
    """Why a row cannot be used; ``None`` if it can."""
    try:
        named, *_ = first(row, FILE_NAMES), several(row, CAPTION_NAMES), first(row, LABEL_NAMES), first(row, ("split",))
    except DataError as error:
        return str(error)
    return None if named else f"no file is named; {_COLUMNS}"


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, JSON | str]]:
    """Number and row of each line that is not blank, or why it cannot be read."""
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            try:
                yield number, read_json(line, "this row")
            except DataError as error:
                yield number, str(error)


def _csv_rows(text: str) -> Iterator[tuple[int, JSON | str]]:
    """Number of the first line and row of each record below the header, or why it cannot be read.

    After a record that cannot be read, reading goes on at the line behind its first, so that an open quote costs one line alone.
    """
    lines, start, header = lines_of(text), 0, list[str]()
    limit = csv.field_size_limit(2**31 - 1)  # of all of Python
    try:
        while start < len(lines):
            reader = csv.reader((f"{lines[at]}\n" for at in range(start, len(lines))), strict=True)
            read = 0
            try:
                for fields in reader:
                    number, read = start + read + 1, reader.line_num
                    if not header:
                        header = [name.strip() for name in fields]
                        if len(set(header)) < len(header):
                            yield number, f"a column has the name of another: {', '.join(header)}; the last one counts"
                    elif len(fields) > len(header):
                        quotes = "a field with a comma stands in double quotes"
                        yield number, f"{len(fields)} fields, but the header has {len(header)}; {quotes}"
                    elif fields:
                        yield number, dict(zip(header, fields, strict=False))
                return
            except csv.Error as error:
                quotes = "a field with a quote stands in double quotes, and the quotes in it are doubled"
                advice = r"lines end in \n or \r\n, not in \r alone" if "\r" in lines[start + read] else quotes
                yield start + read + 1, f"{error}: {advice}"
                start += read + 1
    finally:
        csv.field_size_limit(limit)
