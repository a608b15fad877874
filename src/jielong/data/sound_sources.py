"""Sound in folders and in Parquet files, as pictures are kept there."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from jielong.data.folder import FolderSource
from jielong.data.table import IMAGE_COLUMNS, TableSource
from jielong.media.audio import SUFFIXES, BrokenAudioError, read_header
from jielong.media.images import write_bytes

AUDIO_COLUMNS = ("audio", "sound", "speech", "wav", "flac", "ogg", "mp3", "bytes")


class SoundFolder(FolderSource):
    """Sound below a folder: class sub-folders, words in ``.txt`` files, or a metadata file; see :class:`FolderSource`."""

    medium: Literal["pictures", "sound"] = "sound"
    suffixes = SUFFIXES

    def unreadable(self, path: Path) -> str | None:
        """Why a file cannot be used, by its header; ``None`` when it can."""
        if not path.is_file():
            return f"{path} is listed but does not exist"
        try:
            read_header(path)
        except BrokenAudioError as error:
            return str(error)
        return None


class SoundTable(TableSource):
    """Rows of Parquet files with a column of sound; see :class:`TableSource`."""

    medium: Literal["pictures", "sound"] = "sound"
    columns = AUDIO_COLUMNS


def holds_sound(path: Path) -> bool:
    """Whether a Parquet file has a column of sound and none of pictures; files that cannot be read are not said to."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError):
        return False
    declared = json.loads((schema.metadata or {}).get(b"jielong", b"{}"))
    if "audio" in declared or "image" in declared:
        return "audio" in declared
    names = set(schema.names) - {"bytes"}  # which may be either
    return bool(names & set(AUDIO_COLUMNS)) and not names & set(IMAGE_COLUMNS)


def write_sounds(path: Path, rows: Sequence[dict[str, Any]], *, caption: str, label: str, key: Sequence[str]) -> None:
    """Write rows with their encoded sound in column ``audio`` as Parquet that says which column plays which part.

    Sorted by key, whole or not at all; the same rows give the same bytes.

    Args:
        path: The file.
        rows: All with the same columns.
        caption: The column of words.
        label: The column of classes.
        key: The columns that name a row.
    """
    ordered = sorted(rows, key=lambda row: tuple(str(row[name]) for name in key))
    declared = {"audio": "audio", "caption": caption, "label": label, "key": list(key)}
    table = pa.Table.from_pylist(ordered).replace_schema_metadata({"jielong": json.dumps(declared)})
    buffer = io.BytesIO()
    compression = {name: "none" if name == "audio" else "zstd" for name in table.column_names}
    pq.write_table(table, buffer, compression=compression, row_group_size=512)
    write_bytes(path, buffer.getvalue())
