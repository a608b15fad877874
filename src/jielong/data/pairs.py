"""Pairs of pictures: items with a column ``source``, the picture that an item was made from and the caption leads from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from jielong.data.linked import SOURCE
from jielong.data.sets import MediaSet
from jielong.data.source import DataError, digest


def without_source(data: MediaSet) -> list[int]:
    """Indices of the items that have no source."""
    column = data.columns.get(SOURCE, [None] * len(data))
    return [row for row, value in enumerate(column) if not isinstance(value, bytes | str) or not value]


def source_media(data: MediaSet, rows: Iterable[int]) -> Tensor:
    """The sources of items, fitted as the items are, ``(B, C, *size)`` float32 in [-1, 1].

    Raises:
        DataError: if an item has none, or its file is not inside the set's folder.
        ValueError: if one cannot be decoded.
    """
    found = [data.kind.to_float(data.kind.decode(*_content(data, data.resolve(row)), data.medium, data.settings)) for row in rows]
    return torch.stack(found)


def source_identity(data: MediaSet) -> str:
    """A digest of the sources' content."""
    return digest(_content(data, row)[0] for row in range(len(data)))


def _content(data: MediaSet, row: int) -> tuple[bytes, str]:
    """The encoded source of an item, and its name for messages."""
    value, key = data.columns.get(SOURCE, [None] * len(data))[row], data.keys[row]
    if isinstance(value, bytes):
        return value, f"the source of {key}"
    root = Path(data.source.name)
    if not isinstance(value, str) or not value or not root.is_dir():
        raise DataError(f"{data.name}: {key} has no picture in the column {SOURCE}")
    for folder in (root, root / Path(key).parts[0]):
        path = folder / value
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            return path.read_bytes(), str(path)
    raise DataError(f"{data.name}: the {SOURCE} {value!r} of {key} is no file in {root}")
