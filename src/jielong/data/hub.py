"""Data sets of the library `datasets` of Hugging Face: by name, from a folder of ``save_to_disk``, or as an object.

Only undecoded bytes come from the library: pictures and sound are read by :mod:`jielong.media.reading`, within its limits. No code of a
data set is run: `datasets` 4 has no loading scripts any more, and nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from jielong.core.json import JSON
from jielong.data.content_hash import hash_bytes
from jielong.data.ledger import Cause, Ledger
from jielong.data.rows import content_of, item_of, label_names, media_columns, roles_of, rows_of_table
from jielong.data.selection import MARK, chooses, split_name
from jielong.data.source import DataError, Source, digest
from jielong.media.kinds.base import MediaKind, kind_of, kinds
from jielong.media.reading.libraries import library

PREFIX = "hf:"
"""Before the name of a data set of the Hub, or of a folder that the library reads."""
GIVEN = "dataset:"
"""Before the name of an object of Python."""
_OPTIONS = ("config", "split", "revision")
_MARKS = ("dataset_dict.json", "state.json")
"""Files of ``save_to_disk``."""
_ROWS = 1_000


class Features(Protocol):
    """The ``datasets.Features`` of columns."""

    @property
    def arrow_schema(self) -> pa.Schema:
        """Types of columns as they are stored."""
        ...


class Rows(Protocol):
    """A ``datasets.Dataset``."""

    @property
    def features(self) -> Features:
        """Of its columns."""
        ...

    def with_format(self, type: str) -> Rows:
        """The same rows; those of ``arrow`` are tables of undecoded values."""
        ...

    def select_columns(self, names: list[str]) -> Rows:
        """Some columns."""
        ...

    def __getitem__(self, rows: slice) -> pa.Table: ...

    def __len__(self) -> int: ...


HubData = Rows | Mapping[str, Rows]
"""A ``datasets.Dataset`` or ``DatasetDict``."""
_given: dict[str, dict[str | None, Rows]] = {}


class HubSource(Source):
    """Rows of a data set of `datasets`; columns have the roles that they have in tables (:mod:`jielong.data.rows`).

    Several splits are declared splits; a single one declares nothing, since most data sets call all of their rows ``train``. Other columns
    of pictures, sound or bytes are not read.
    """

    def __init__(self, splits: Mapping[str | None, Rows], name: str, kind: MediaKind) -> None:
        """Read every column but the items.

        Raises:
            DataError: if there is no column of this kind, or splits have different columns.
        """
        self.name, self.kind, self.items, self.unused = name, kind.name, [], Ledger()
        self._places: list[tuple[Rows, int]] = []
        roles = [roles_of(_schema(rows), name, kind) for rows in splits.values()]
        if any(other != roles[0] for other in roles):
            raise DataError(f"{name}: its splits {', '.join(map(str, splits))} have different columns; choose some by {name}{MARK}split=")
        self._column = roles[0]["item"]
        for split, rows in splits.items():
            names, items = label_names(_schema(rows), roles[0]["label"]), rows.with_format("arrow").select_columns([self._column])
            for row, values in enumerate(_words(rows, self._column)):
                place = f"row {row}" if split is None else f"{split}/{row}"
                try:
                    item = item_of(values, place, roles[0], names)
                except DataError as error:
                    self.unused.add(Cause.ROW, place, str(error))
                else:
                    self.items.append(item if split is None else replace(item, split=split))
                    self._places.append((items, row))

    def blob(self, index: int) -> bytes:
        """The bytes of an item, or of the file that its row names.

        Raises:
            DataError: if that cannot be read.
        """
        items, row = self._places[index]
        value = items[row : row + 1].column(0).to_pylist()[0]
        path = value.get("path") if isinstance(value, Mapping) else None
        if path is None or value.get("bytes") is not None:
            return content_of(value)
        if not Path(path).is_file():
            raise DataError(f"{self.items[index].key}: {path} is no file of this machine")
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{self.items[index].key}: {path} cannot be read: {error.strerror}") from error

    @cached_property
    def content_hashes(self) -> list[str]:
        """The hash of every item; that of no bytes if it cannot be read."""
        return [self._hash(index) for index in range(len(self.items))]

    def _hash(self, index: int) -> str:
        try:
            return hash_bytes(self.blob(index))
        except DataError:
            return hash_bytes(b"")


def _schema(rows: Rows) -> pa.Schema:
    """Columns as they are stored, with the features of `datasets`."""
    return rows.features.arrow_schema


def _words(rows: Rows, item: str) -> Iterator[JSON | str]:
    """Each row without its item and other media."""
    schema = _schema(rows)
    media = {item, *media_columns(schema)}
    words = [name for name in schema.names if name not in media]
    table = rows.with_format("arrow").select_columns(words)
    for start in range(0, len(rows), _ROWS):
        count = min(_ROWS, len(rows) - start)
        yield from rows_of_table(table[start : start + count]) if words else [{} for _ in range(count)]


def _kind(splits: Mapping[str | None, Rows], expected: str | None) -> MediaKind:
    """The kind of media that the first split has a column of, preferably the expected; images if none."""
    schema = _schema(next(iter(splits.values())))
    held = {*media_columns(schema).values()} | {name for name, kind in kinds().items() if {*schema.names} & {*kind.columns} - {"bytes"}}
    return kind_of(expected if expected in held else next((name for name in kinds() if name in held), next(iter(kinds()))))


def is_hub(name: str) -> bool:
    """Whether a name is of a data set of `datasets`: of the Hub, or of an object."""
    return name.startswith((PREFIX, GIVEN))


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return any((folder / name).is_file() for name in _MARKS)


def open_hub(name: str, kind: str | None = None) -> tuple[Source, dict[str, list[str]]]:
    """The data set of a name such as ``hf:owner/name?config=plain&split=train``, and values by column that choose items.

    Raises:
        DataError: if it cannot be loaded.
        MissingLibraryError: without `datasets`.
    """
    base, chosen = split_name(name) if chooses(name) else (name, {})
    if base.startswith(GIVEN):
        if base not in _given:
            raise DataError(f"{base} was a data set given as an object of Python, which is gone: give it again, or another set or path")
        splits = _given[base]
    else:
        options = {key: chosen.pop(key) for key in _OPTIONS if key in chosen}
        splits = _loaded(base.removeprefix(PREFIX), options, name)
    return HubSource(splits, base, _kind(splits, kind)), chosen


def open_saved(folder: Path, kind: str | None = None) -> Source:
    """The data set in a folder of ``save_to_disk``; raises as :func:`open_hub`."""
    splits = _loaded(str(folder), {}, str(folder))
    return HubSource(splits, str(folder), _kind(splits, kind))


def _loaded(path: str, options: Mapping[str, Sequence[str]], name: str) -> dict[str | None, Rows]:
    datasets = library("datasets", "hf", f"{name}: a data set of Hugging Face")
    if several := [key for key in ("config", "revision") if len(options.get(key, ())) > 1]:
        raise DataError(f"{name} has several values of {several[0]}: give one, and join sets by a comma")
    parts = options.get("split")
    single = {key: values[0] for key, values in options.items() if key != "split"}
    try:
        if is_saved(Path(path)):
            found = datasets.load_from_disk(path)
            found = found if not parts else {part: found[part] for part in parts}
        else:
            found = datasets.load_dataset(path, single.get("config"), revision=single.get("revision"), split=list(parts) if parts else None)
            found = dict(zip(parts, found, strict=True)) if parts else found
    except Exception as error:  # whatever a loader of the library raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} cannot be loaded by the library `datasets`: {reason:.400}") from error
    return _splits(found, name)


def _splits(data: HubData, name: str) -> dict[str | None, Rows]:
    """The splits of a data set, ``None`` where there is one.

    Raises:
        DataError: if it is none, or its length is unknown.
    """
    splits: dict[str | None, Rows] = {}
    splits.update(data.items() if isinstance(data, Mapping) else [(None, data)])
    if not splits:
        raise DataError(f"{name} has no split")
    for rows in splits.values():
        if not all(hasattr(rows, each) for each in ("features", "with_format", "select_columns", "__len__")):
            right = "a Dataset or DatasetDict of the library `datasets`, without streaming"
            raise DataError(f"{name} holds a {type(rows).__name__}; a set is {right}, or a name or path")
    return {None: next(iter(splits.values()))} if len(splits) == 1 else splits


def name_of(data: HubData) -> str:
    """The name by which this process opens a data set object; the same for the same content.

    Raises:
        DataError: if it is no such object.
    """
    splits = _splits(data, "the object")
    source = HubSource(splits, "the object", _kind(splits, None))
    words = [f"{item.key}\0{item.split}\0{item.label}\0{item.captions}\0{item.extra}" for item in source.items]
    name = f"{GIVEN}{digest([source.identity(range(len(source.items))), *words])[:12]}"
    _given[name] = splits
    return name
