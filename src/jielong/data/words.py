"""The words beside a picture: a record of any shape read into caption, label and split."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jielong.core.json import JSON
from jielong.data.source import DataError

CAPTION_NAMES = ("caption", "text", "prompt", "description")
LABEL_NAMES = ("label", "class", "category", "cls")
FILE_NAMES = ("file_name", "filename", "file", "path", "image")


def first(record: Mapping[str, object], names: Sequence[str]) -> str | None:
    """The first of ``names`` that the record has, as text; of a list of captions the first."""
    for name in names:
        value = record.get(name)
        if isinstance(value, list):
            value = value[0] if value else None
        if value is not None and str(value).strip():
            return str(value).strip()
    return None


def read_json(data: bytes, name: str) -> JSON:
    """A JSON sidecar: an object, or just a string that is the caption.

    Raises:
        DataError: if it is neither.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {error}") from error
    if isinstance(value, str):
        return {"caption": value}
    if not isinstance(value, dict):
        raise DataError(f"{name} should hold an object with a caption or a label, not {type(value).__name__}")
    return value


def read_metadata(path: Path) -> list[JSON]:
    """The rows of ``metadata.csv`` or ``metadata.jsonl``; each names its file.

    Raises:
        DataError: if a row names no file or the file is not what its suffix says; the text gives the line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    rows: list[tuple[int, JSON]] = []
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        rows = [(reader.line_num, row) for row in reader]
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                rows.append((number, read_json(line.encode(), f"{path}, line {number},")))
    for number, row in rows:
        if first(row, FILE_NAMES) is None:
            raise DataError(
                f"{path}, line {number}: no file is named; a row needs a column 'file_name' beside 'caption' (or 'text') and 'label'"
            )
    return [row for _, row in rows]
