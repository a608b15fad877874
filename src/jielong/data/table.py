"""Pictures in Parquet files."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jielong.data.source import DataError, Item, Source, digest, file_identity

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "bytes")
CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
LABEL_COLUMNS = ("label", "class", "category")
SPLIT_COLUMNS = ("split",)
KEPT_BYTES = 1_000_000_000


class TableSource(Source):
    """Rows of one or more Parquet files; the picture is a column of bytes, or of ``{"bytes", "path"}`` as Hugging Face writes it.

    A file may say in its schema's metadata, under ``jielong``, which column plays which part (JSON with ``caption``, ``label``, ``key``,
    ``size``); otherwise usual names are recognised. Row groups are read when needed; those used last are kept, up to a gigabyte.
    """

    columns: Sequence[str] = IMAGE_COLUMNS

    def __init__(self, files: Sequence[Path], name: str) -> None:
        """Open the files, and read every column but the pictures.

        Raises:
            DataError: if a file is not Parquet, has no column of pictures, or has other columns than the first.
        """
        self.name, self.files = name, list(files)
        self.items, self.broken = [], {}
        self._groups: list[tuple[int, int]] = []  # (file, row group in it)
        self._rows: list[tuple[int, int]] = []  # item -> (group, row)
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()  # row group -> its pictures, latest use last
        self._kept_bytes = 0
        roles: dict[str, Any] | None = None
        self._readers = []
        for number, path in enumerate(self.files):
            try:
                reader = pq.ParquetFile(path)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{path} is not a whole Parquet file: {error}") from error
            mine = _roles(reader.schema_arrow, path, self.medium, self.columns)
            if roles is not None and mine != roles:
                raise DataError(f"{path} has other columns than {self.files[0]}; all Parquet files of one set need the same columns")
            roles = mine
            self._readers.append(reader)
            self._read_words(number, roles)
        if roles is None:
            raise DataError(f"{name} has no Parquet file")
        self._image = roles["image"]
        self.size = roles.get("size", 64)

    def _read_words(self, number: int, roles: dict[str, Any]) -> None:
        reader, path = self._readers[number], self.files[number]
        words = [column for column in reader.schema_arrow.names if column != roles["image"]]
        names = _class_names(reader.schema_arrow, roles["label"])
        for group in range(reader.num_row_groups):
            self._groups.append((number, group))
            for row, values in enumerate(reader.read_row_group(group, columns=words).to_pylist()):
                parts = [str(values[column]) for column in roles["key"]]
                key = "/".join(parts) if parts else f"{path.name}#{group}.{row}"
                self.items.append(
                    Item(
                        key=key,
                        caption=_text(values.get(roles["caption"])),
                        label=_label(values.get(roles["label"]), names),
                        split=_text(values.get(roles["split"])),
                        extra={k: v for k, v in values.items() if k not in (roles["caption"], roles["split"])},
                    )
                )
                self._rows.append((len(self._groups) - 1, row))

    def blob(self, index: int) -> bytes:
        """The bytes in the picture column."""
        group, row = self._rows[index]
        if group in self._kept:
            self._kept.move_to_end(group)
        else:
            number, within = self._groups[group]
            column = self._readers[number].read_row_group(within, columns=[self._image]).column(0).to_pylist()
            self._kept[group] = [_bytes(value) for value in column]
            self._kept_bytes += sum(map(len, self._kept[group]))
            while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
                self._kept_bytes -= sum(map(len, self._kept.popitem(last=False)[1]))
        return self._kept[group][row]

    def identity(self, indices: Sequence[int]) -> str:
        """A digest of the files and of which rows are used."""
        return digest([*(file_identity(path) for path in self.files), *map(str, indices)])


def _roles(schema: pa.Schema, path: Path, medium: str, columns: Sequence[str]) -> dict[str, Any]:
    declared = json.loads((schema.metadata or {}).get(b"jielong", b"{}"))

    def find(part: str, names: Sequence[str]) -> str | None:
        return declared.get(part) or next((name for name in names if name in schema.names), None)

    image = find("image" if medium == "pictures" else "audio", columns)
    kind = schema.field(image).type if image is not None else None
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)):
        raise DataError(f"{path} has no column of {medium} (bytes, or bytes and path, named {', '.join(columns)}); it has {schema.names}")
    return {
        "image": image,
        "caption": find("caption", CAPTION_COLUMNS),
        "label": find("label", LABEL_COLUMNS),
        "split": find("split", SPLIT_COLUMNS),
        "key": declared.get("key", []),
        "size": declared.get("size", 64),
    }


def _class_names(schema: pa.Schema, label: str | None) -> list[str]:
    # Hugging Face `datasets` keeps the names of integer classes in the schema's metadata.
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return []


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _label(value: object, names: list[str]) -> str | None:
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return _text(value)


def _bytes(value: Any) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    return bytes(data or b"")
