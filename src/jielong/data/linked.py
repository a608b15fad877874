"""Sources of pairs that are items of another Parquet file, named by its keys, so that no picture is stored twice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jielong.data.rows import content_of, roles_of
from jielong.data.source import DataError
from jielong.media.kinds.base import MediaKind

SOURCE = "source"
"""The column: encoded pictures, paths from the folder of the set or of its split, or keys of the file that the table declares."""


def linked_items(path: Path, name: str, kind: MediaKind, keys: Iterable[object]) -> dict[str, bytes]:
    """Encoded items of the file ``name`` beside ``path``, by key.

    Args:
        path: The Parquet file of the pairs.
        name: What it declares under ``sources``.
        kind: Of both files' items.
        keys: Those that are needed.

    Raises:
        DataError: if that file is missing, damaged, or has no column of keys.
    """
    file, wanted, found = path.with_name(name), set(keys), dict[str, bytes]()
    if not file.is_file():
        raise DataError(f"the sources of {path} are items of {file.name}, which is not beside it: keep both files in one folder")
    try:
        reader = pq.ParquetFile(file, page_checksum_verification=True)
        other = roles_of(reader.schema_arrow, file, kind)
        if not other["key"]:
            raise DataError("it declares no key in its metadata `jielong`")
        for group in range(reader.num_row_groups):
            names = reader.read_row_group(group, columns=other["key"])
            named = ["/".join(map(str, row.values())) for row in names.to_pylist()]
            rows = [row for row, name in enumerate(named) if name in wanted]
            if rows:
                items = reader.read_row_group(group, columns=[other["item"]]).column(0).take(pa.array(rows)).to_pylist()
                found |= {named[row]: content_of(item) for row, item in zip(rows, items, strict=True)}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"the sources of {path} are items of {file.name}, which cannot be used: {error}") from error
    return found
