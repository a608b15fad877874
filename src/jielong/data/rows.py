"""Rows of tables: which column holds what, and the item that a row is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from jielong.core.json import JSON, printable
from jielong.data.source import DataError, Item
from jielong.data.text import text_of, texts_of
from jielong.media.kinds.base import MediaKind

CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
LABEL_COLUMNS = ("label", "class", "category")
SPLIT_COLUMNS = ("split",)
OTHERS = ("size", "frames", "frame_rate", "channels", "judge", "sources")
"""What a file may declare beside the roles of its columns."""


class Roles(TypedDict):
    """Columns of a table by what they hold."""

    item: str
    caption: str | None
    label: str | None
    split: str | None
    key: list[str]
    native: dict[str, float | list[int]]
    channels: int | None
    judge: str | None
    sources: str | None  # the file beside it whose items the column of sources names by key


def declared_roles(schema: pa.Schema, path: Path | str) -> dict[str, Any]:
    """The roles of columns that a file declares."""
    try:
        declared = json.loads((schema.metadata or {}).get(b"jielong", b"{}"))
        named = [name for part, names in declared.items() if part not in OTHERS for name in ([names] if isinstance(names, str) else names)]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: the metadata `jielong` of its schema is not an object of columns' names: {error}") from error
    if unknown := [name for name in named if name not in schema.names]:
        raise DataError(f"{path} declares the column {unknown[0]!r} in its metadata `jielong`, but has {', '.join(schema.names)}")
    return dict(declared)


def roles_of(schema: pa.Schema, path: Path | str, kind: MediaKind) -> Roles:
    """The columns of a table by role: as declared, by usual names, or of Hugging Face's feature of this kind.

    Raises:
        DataError: if no column holds media of this kind.
    """
    declared = declared_roles(schema, path)

    def find(part: str, names: Sequence[str]) -> str | None:
        return declared.get(part) or next((name for name in names if name in schema.names), None)

    featured = next((name for name, of in media_columns(schema).items() if of == kind.name), None)
    item = find(kind.name, kind.columns) or featured
    held = schema.field(item).type if item is not None else None
    if item is None or held is None or not (pa.types.is_binary(held) or pa.types.is_large_binary(held) or pa.types.is_struct(held)):
        named = ", ".join(kind.columns)
        raise DataError(f"{path} has no column of {kind.noun[1]} (bytes, or bytes and path, named {named}); it has {schema.names}")
    return {
        "item": item,
        "caption": find("caption", CAPTION_COLUMNS),
        "label": find("label", LABEL_COLUMNS),
        "split": find("split", SPLIT_COLUMNS),
        "key": declared.get("key", []),
        "native": _native(declared, path),
        "channels": _number("channels", declared, path, int),
        "judge": _word("judge", declared, path),
        "sources": _beside(declared.get("sources"), path),
    }


def _native(declared: Mapping[str, Any], path: Path | str) -> dict[str, float | list[int]]:
    """Keys of the `data:` section that a file declares for its items: the size of pictures, the frames of videos and their rate."""
    size, frames, rate = declared.get("size"), _number("frames", declared, path, int), _number("frame_rate", declared, path, int, float)
    if not (size is None or isinstance(size, int) or (isinstance(size, list) and all(isinstance(side, int) for side in size))):
        raise DataError(f"{path} declares the size {size!r} in its metadata `jielong`, not a side or [height, width]")
    return {name: value for name, value in (("size", size), ("frames", frames), ("frame_rate", rate)) if value}


def _number(name: str, declared: Mapping[str, Any], path: Path | str, *types: type[int] | type[float]) -> Any:
    value = declared.get(name)
    if value is None or (type(value) in types and value > 0):
        return value
    raise DataError(f"{path} declares {name} as {value!r} in its metadata `jielong`, not as a number above 0")


def _word(name: str, declared: Mapping[str, Any], path: Path | str) -> str | None:
    value = declared.get(name)
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"{path} declares the {name} {value!r} in its metadata `jielong`, not a name")


def _beside(declared: object, path: Path | str) -> str | None:
    if declared is None or (isinstance(declared, str) and re.fullmatch(r"[\w-][\w.-]*\.parquet", declared)):
        return declared
    raise DataError(f"{path} declares the sources {declared!r} in its metadata `jielong`, not the name of a Parquet file beside it")


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` of Hugging Face keeps of each column in the schema's metadata."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def label_names(schema: pa.Schema, label: str | None) -> list[str]:
    """The names of integer classes, by Hugging Face's feature."""
    try:
        return list(_features(schema)[label or ""]["names"])
    except (KeyError, TypeError):
        return []


def media_columns(schema: pa.Schema) -> dict[str, str]:
    """Columns that hold media or bytes, and the kind of media by Hugging Face's feature; ``""`` where it says nothing."""
    kinds = {name: str(feature.get("_type", "")).lower() for name, feature in _features(schema).items() if isinstance(feature, dict)}

    def holds(held: pa.DataType) -> bool:
        binary = pa.types.is_binary(held) or pa.types.is_large_binary(held)
        return binary or (pa.types.is_struct(held) and held.get_field_index("bytes") >= 0)

    return {field.name: kinds.get(field.name, "") for field in schema if holds(field.type)}


def _label(value: object, names: Sequence[str], place: str) -> str | None:
    if isinstance(value, int) and names and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None  # -1: no class
    return text_of(value, place)


def content_of(value: Mapping[str, bytes] | bytes | None) -> bytes:
    """The bytes of an item, alone or beside the name of their file."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return bytes(data or b"")


def rows_of_table(table: pa.Table) -> list[JSON | str]:
    """The rows of a table, or why one cannot be read."""
    try:
        rows: list[JSON | str] = table.to_pylist()
        return rows
    except UnicodeDecodeError:
        return [_row(table.slice(row, 1)) for row in range(len(table))]


def _row(table: pa.Table) -> JSON | str:
    try:
        row: JSON = table.to_pylist()[0]
    except UnicodeDecodeError as error:
        return str(error)
    return row


def item_of(values: JSON | str, place: str, roles: Roles, names: Sequence[str]) -> Item:
    """The item of a row.

    Args:
        values: The row without the item's content, or why it cannot be read.
        place: The row, for messages, and its key where no column is one.
        roles: What columns hold.
        names: Of the classes, where labels are numbers.

    Raises:
        DataError: if its words are no text.
    """
    if isinstance(values, str):
        raise DataError(f"{place} is damaged: {values}")
    key = "/".join(str(values[column]) for column in roles["key"]) or place
    texts = {part: values.get(column) for part, column in roles.items() if isinstance(column, str)}
    captions, split = texts_of(texts.get("caption"), place), text_of(texts.get("split"), place)
    extra = {k: v for k, v in values.items() if k not in (roles["caption"], roles["split"])}
    return Item(printable(key), captions, _label(texts.get("label"), names, place), split, extra)
