"""Items in Parquet files."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.data.content_hash import hash_bytes, remembered
from jielong.data.ledger import Ledger
from jielong.data.source import DataError, Item, Source
from jielong.data.text import text_of, texts_of
from jielong.media.kinds.base import MediaKind, kinds

CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
LABEL_COLUMNS = ("label", "class", "category")
SPLIT_COLUMNS = ("split",)
KEPT_BYTES = 1_000_000_000


class TableSource(Source):
    """Rows of one or more Parquet files; an item is a column of bytes, or of ``{"bytes", "path"}`` as Hugging Face writes it.

    A file may declare in its schema's metadata, under ``jielong``, the roles of its columns (JSON with the kind's name, ``caption``,
    ``label``, ``key``, ``size``); otherwise usual names are recognised. Row groups are read when needed and cached up to a gigabyte.
    """

    def __init__(self, files: Sequence[Path], name: str, kind: MediaKind) -> None:
        """Open the files, and read every column but the items.

        Raises:
            DataError: if a file is not Parquet, has no column of this kind, or has other columns than the first.
        """
        self.name, self.files, self.kind = name, list(files), kind.name
        self.items, self.unused = [], Ledger()
        self._groups: list[tuple[int, int]] = []  # (file, row group in it)
        self._rows: list[tuple[int, int]] = []  # item -> (group, row)
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()  # row group -> its items, latest use last
        self._kept_bytes = 0
        roles: Roles | None = None
        self._readers = []
        for number, path in enumerate(self.files):
            try:
                reader = pq.ParquetFile(path)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{path} is not a whole Parquet file: {error}") from error
            found = _roles(reader.schema_arrow, path, kind)
            if roles is not None and found != roles:
                raise DataError(f"{path} has other columns than {self.files[0]}; all Parquet files of one set need the same columns")
            roles = found
            self._readers.append(reader)
            self._read_words(number, roles)
        if roles is None:
            raise DataError(f"{name} has no Parquet file")
        self._column = roles["item"]
        self.native = {"size": roles["size"]} if roles["size"] else {}

    def _read_words(self, number: int, roles: Roles) -> None:
        reader, path = self._readers[number], self.files[number]
        words = [column for column in reader.schema_arrow.names if column != roles["item"]]
        names = _class_names(reader.schema_arrow, roles["label"])
        for group in range(reader.num_row_groups):
            self._groups.append((number, group))
            for row, values in enumerate(reader.read_row_group(group, columns=words).to_pylist()):
                parts = [str(values[column]) for column in roles["key"]]
                key = "/".join(parts) if parts else f"{path.name}#{group}.{row}"
                self.items.append(
                    Item(
                        key=key,
                        captions=texts_of(values.get(roles["caption"]), key),
                        label=_label(values.get(roles["label"]), names, key),
                        split=text_of(values.get(roles["split"]), key),
                        extra={k: v for k, v in values.items() if k not in (roles["caption"], roles["split"])},
                    )
                )
                self._rows.append((len(self._groups) - 1, row))

    def blob(self, index: int) -> bytes:
        """The bytes in the item column."""
        group, row = self._rows[index]
        if group in self._kept:
            self._kept.move_to_end(group)
        else:
            number, within = self._groups[group]
            column = self._readers[number].read_row_group(within, columns=[self._column]).column(0).to_pylist()
            self._kept[group] = [_bytes(value) for value in column]
            self._kept_bytes += sum(map(len, self._kept[group]))
            while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
                self._kept_bytes -= sum(map(len, self._kept.popitem(last=False)[1]))
        return self._kept[group][row]

    @cached_property
    def content_hashes(self) -> list[str]:
        """The hash of every row's item."""

        def compute(number: int) -> list[str]:
            reader = pq.ParquetFile(self.files[number])
            groups = (reader.read_row_group(group, columns=[self._column]).column(0) for group in range(reader.num_row_groups))
            return [hash_bytes(_bytes(value.as_py())) for column in groups for value in column]

        views = [self._column] * len(self.files)
        return list(chain.from_iterable(remembered(f"{self.files[0].parent / self.name}", self.files, views, compute)))


def table_kind(path: Path, expected: str | None = None) -> MediaKind:
    """The kind that a Parquet file declares, or whose usual column it has, preferably the expected; images if none, or without a schema."""
    first = next(iter(kinds().values()))
    known = dict(sorted(kinds().items(), key=lambda each: each[0] != expected))
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError):
        return first
    declared, names = _declared(schema), set(schema.names) - {"bytes"}  # which may be any
    return next(
        (kind for name, kind in known.items() if name in declared),
        next((kind for kind in known.values() if names & set(kind.columns)), first),
    )


def write_table(
    path: Path, rows: Sequence[JSON], *, item: str, caption: str, label: str, key: Sequence[str], size: int | None = None
) -> None:
    """Write rows as Parquet that declares the roles of its columns; the same rows give the same bytes.

    Sorted by key, whole or not at all.

    Args:
        path: The file.
        rows: All with the same columns.
        item: The column of encoded items; its name is the name of their kind.
        caption: The column of captions.
        label: The column of classes.
        key: The columns that name a row.
        size: Side of its pictures, where all have the same.
    """
    ordered = sorted(rows, key=lambda row: tuple(str(row[name]) for name in key))
    declared = {item: item, "caption": caption, "label": label, "key": list(key)} | ({} if size is None else {"size": size})
    table = pa.Table.from_pylist(ordered).replace_schema_metadata({"jielong": json.dumps(declared)})
    buffer = io.BytesIO()
    # Parquet calls the values of a list by a path of their own.
    paths = [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in table.schema]
    compression = {path: "none" if path == item else "zstd" for path in paths}
    pq.write_table(table, buffer, compression=compression, row_group_size=512)
    write_bytes(path, buffer.getvalue())


class Roles(TypedDict):
    """Columns of a table by what they hold."""

    item: str
    caption: str | None
    label: str | None
    split: str | None
    key: list[str]
    size: int | None


def _declared(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {}).get(b"jielong", b"{}"))


def _roles(schema: pa.Schema, path: Path, kind: MediaKind) -> Roles:
    declared = _declared(schema)

    def find(part: str, names: Sequence[str]) -> str | None:
        return declared.get(part) or next((name for name in names if name in schema.names), None)

    item = find(kind.name, kind.columns)
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
        "size": declared.get("size"),
    }


def _class_names(schema: pa.Schema, label: str | None) -> list[str]:
    # Hugging Face `datasets` keeps the names of integer classes in the schema's metadata.
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return []


def _label(value: object, names: Sequence[str], place: str) -> str | None:
    if isinstance(value, int) and names and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None  # -1 stands for none
    return text_of(value, place)


def _bytes(value: Mapping[str, bytes] | bytes | None) -> bytes:
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return bytes(data or b"")
