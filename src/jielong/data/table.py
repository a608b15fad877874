"""Items in Parquet files."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.data.content_hash import hash_bytes, remembered
from jielong.data.ledger import Cause, Ledger
from jielong.data.linked import SOURCE, linked_items
from jielong.data.patterns import short_names
from jielong.data.rows import OTHERS, Roles, content_of, declared_roles, item_of, label_names, roles_of, rows_of_table
from jielong.data.source import DataError, Source
from jielong.media.kinds.base import MediaKind, kind_of, kinds

KEPT_BYTES = 1_000_000_000
_MOST_ROWS = 1 << 31
_FAULTS = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises of damaged files."""


class TableSource(Source):
    """Rows of one or more Parquet files; an item is a column of bytes, or of ``{"bytes", "path"}`` as Hugging Face writes it.

    A file may declare in its schema's metadata, under ``jielong``, the roles of its columns (JSON with the kind's name, ``caption``,
    ``label``, ``key``) and what is true of its items (``size``, ``frames``, ``frame_rate``, ``channels``, ``judge``); otherwise usual names
    are recognised. Row groups are read when needed and cached up to a gigabyte.
    """

    def __init__(self, files: Sequence[Path], name: str, kind: MediaKind) -> None:
        """Open the files, and read every column but the items.

        Raises:
            DataError: if a file is not Parquet, has no column of this kind, or has other columns than the first.
        """
        self.name, self.kind = name, kind.name
        self.files: list[Path] = []
        self.items, self.unused = [], Ledger()
        self._readers: list[pq.ParquetFile] = []
        self._groups: list[tuple[int, int]] = []  # (file, row group in it)
        self._rows: list[tuple[int, int]] = []  # item -> (group, row)
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()  # row group -> its items, latest use last
        self._kept_bytes = 0
        self._reading = threading.Lock()
        roles: Roles | None = None
        for path, short in zip(files, short_names(files), strict=True):
            try:
                reader = _reader(path)
            except _FAULTS as error:
                if len(files) == 1:
                    raise DataError(f"{path} is not a whole Parquet file: {error}") from error
                self.unused.add(Cause.BROKEN, short, f"{path} is not a whole Parquet file: {error}")
                continue
            found = roles_of(reader.schema_arrow, path, kind)
            if roles is not None and found != roles:
                raise DataError(f"{path} has other columns than {self.files[0]}; all Parquet files of one set need the same columns")
            roles = found
            self.files.append(path)
            self._readers.append(reader)
            begun = len(self.items)
            self._read_words(len(self.files) - 1, short, roles)
            if roles["sources"] is not None:
                self._read_sources(path, roles["sources"], begun)
        if roles is None:
            raise DataError(f"{name} has no Parquet file that is whole{self.unused.explained()}")
        self._column = roles["item"]
        self.native, self.channels, self.judge = roles["native"], roles["channels"], roles["judge"]

    def _read_words(self, number: int, short: str, roles: Roles) -> None:
        """Take the rows of a file; what cannot be read is recorded."""
        reader, path, start = self._readers[number], self.files[number], 0
        words = [column for column in reader.schema_arrow.names if column != roles["item"]]
        names = label_names(reader.schema_arrow, roles["label"])
        for group in range(reader.num_row_groups):
            count = _rows_of(reader, group)
            self._groups.append((number, group))
            start += count
            try:
                table = reader.read_row_group(group, columns=words)
                _check_rows(len(table), count)
            except _FAULTS as error:
                place = f"{short}, rows {start - count + 1} to {start}"
                self.unused.add(Cause.LOST, place, f"{path}: row group {group} cannot be read: {error}", count)
                continue
            for row, values in enumerate(rows_of_table(table)):
                self._take(row, values, f"{short}#{group}.{row}", roles, names)

    def _read_sources(self, path: Path, name: str, begun: int) -> None:
        """Put the encoded sources of the items from ``begun`` on in place of their keys in another file; those it lacks become empty."""
        keys = [item.extra.get(SOURCE) for item in self.items[begun:]]
        found = linked_items(path, name, kind_of(self.kind), (key for key in keys if isinstance(key, str)))
        for item, key in zip(self.items[begun:], keys, strict=True):
            item.extra[SOURCE] = found.get(str(key))
            if item.extra[SOURCE] is None:
                self.unused.add(Cause.MISSING, item.key, f"its source {key!r} is no item of {name}, so it has none")

    def _take(self, row: int, values: JSON | str, place: str, roles: Roles, names: Sequence[str]) -> None:
        """Use a row, or record why not."""
        try:
            item = item_of(values, place, roles, names)
        except DataError as error:
            self.unused.add(Cause.ROW, place, str(error))
        else:
            self.items.append(item)
            self._rows.append((len(self._groups) - 1, row))

    def blob(self, index: int) -> bytes:
        """The bytes in the item column.

        Raises:
            DataError: if its row group is damaged.
        """
        group, row = self._rows[index]
        with self._reading:  # a thread may prefetch training items while held-out ones of the same source are measured
            return self._group(group, index)[row]

    def _group(self, group: int, index: int) -> list[bytes]:
        """The items of a row group, for the item ``index``."""
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        number, within = self._groups[group]
        try:
            items = _items_of(self._readers[number], within, self._column)
        except _FAULTS as error:
            raise DataError(f"{self.items[index].key}: row group {within} of {self.files[number]} cannot be read: {error}") from error
        self._kept[group] = items
        self._kept_bytes += sum(map(len, items))
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= sum(map(len, self._kept.popitem(last=False)[1]))
        return items

    @cached_property
    def content_hashes(self) -> list[str]:
        """The hash of every row's item; rows of a damaged group have hashes of their own."""

        used: list[dict[int, list[int]]] = [{} for _ in self.files]  # rows by row group
        for group, row in self._rows:
            number, within = self._groups[group]
            used[number].setdefault(within, []).append(row)

        def compute(number: int) -> list[str]:
            reader, found = _reader(self.files[number]), list[str]()
            for group, rows in used[number].items():
                try:
                    items = _items_of(reader, group, self._column)
                    found += [hash_bytes(items[row]) for row in rows]
                except _FAULTS:
                    found += [hash_bytes(f"{self.files[number].name} {group} {row}".encode()) for row in rows]
            return found

        views = [f"{self._column} {sum(map(len, rows.values()))}" for rows in used]
        return list(chain.from_iterable(remembered(f"{self.files[0].parent / self.name}", self.files, views, compute)))


def _reader(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, page_checksum_verification=True)


def _rows_of(reader: pq.ParquetFile, group: int) -> int:
    """Rows of a row group, as far as its metadata can be believed."""
    return min(max(reader.metadata.row_group(group).num_rows, 0), _MOST_ROWS)


def _check_rows(found: int, expected: int) -> None:
    if found != expected:
        raise DataError(f"{found} rows instead of {expected}")


def _items_of(reader: pq.ParquetFile, group: int, column: str) -> list[bytes]:
    """The items of a row group; raises one of :data:`_FAULTS`."""
    items = [content_of(value) for value in reader.read_row_group(group, columns=[column]).column(0).to_pylist()]
    _check_rows(len(items), _rows_of(reader, group))
    return items


def table_kind(files: Sequence[Path], expected: str | None = None) -> MediaKind:
    """The kind that the first whole Parquet file declares, or whose usual column it has, preferably the expected; images if none.

    Where no file is whole it is the expected kind, too.
    """
    first = next(iter(kinds().values()))
    known = dict(sorted(kinds().items(), key=lambda each: each[0] != expected))
    found = next(((path, schema) for path in files if (schema := _schema(path)) is not None), None)
    if found is None:
        return next(iter(known.values()))
    path, schema = found
    declared, names = declared_roles(schema, path), set(schema.names) - {"bytes"}  # which may be any
    return next(
        (kind for name, kind in known.items() if name in declared),
        next((kind for kind in known.values() if names & set(kind.columns)), first),
    )


def _schema(path: Path) -> pa.Schema | None:
    """The schema of a Parquet file; none of a damaged one, which is recorded when it is opened."""
    try:
        return pq.read_schema(path)
    except _FAULTS:
        return None


def write_table(
    path: Path,
    rows: Sequence[JSON],
    *,
    item: str,
    caption: str,
    label: str,
    key: Sequence[str],
    size: int | tuple[int, int] | None = None,
    sources: str | None = None,
    **more: float | str,
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
        size: Side of its pictures, or height and width, where all have the same.
        sources: Name of the file beside it whose items the column ``source`` names by key.
        more: What else the file declares, of :data:`~jielong.data.rows.OTHERS`, such as the frames of its videos.

    Raises:
        ValueError: if it cannot declare that.
    """
    if unknown := more.keys() - set(OTHERS):
        raise ValueError(f"a file of items declares {', '.join(OTHERS)}, not {min(unknown)}")
    ordered = sorted(rows, key=lambda row: tuple(str(row[name]) for name in key))
    declared: JSON = {item: item, "caption": caption, "label": label, "key": list(key)}
    declared |= {name: value for name, value in (("size", size), ("sources", sources)) if value is not None}
    declared |= more
    table = pa.Table.from_pylist(ordered).replace_schema_metadata({"jielong": json.dumps(declared)})
    buffer = io.BytesIO()
    # Parquet calls the values of a list by a path of their own.
    paths = [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in table.schema]
    compression = {path: "none" if path == item else "zstd" for path in paths}
    pq.write_table(table, buffer, compression=compression, row_group_size=512)
    write_bytes(path, buffer.getvalue())
