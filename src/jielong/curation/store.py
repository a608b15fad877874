"""What was measured, on disk: a folder a file, named by a hash of its content and of how it is measured, written beside and renamed.

So a run that was killed goes on where it was, a file that changed is measured again, and a file that was renamed is not.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from jielong.config.registry import plain
from jielong.core.files import new_folder, remove_leftovers
from jielong.core.json import to_text
from jielong.curation.measuring import Measured
from jielong.curation.records import FileRecord
from jielong.curation.rules import Rules
from jielong.data.content_hash import hash_bytes

VERSION = 1
"""Of measures and records; raised when either changes."""
LIBRARIES = ("av", "opencv-python-headless", "opencv-python", "scenedetect-headless", "scenedetect", "rapidocr", "onnxruntime", "ImageHash")
"""Distributions on which measured values depend."""
RECORD = "record.json"


def versions() -> dict[str, str]:
    """The libraries that measure, those that are installed."""
    found = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def measuring_digest(rules: Rules) -> str:
    """A hash of all that measured values depend on beside the file; limits are not among it."""
    settings = {name: value for name, value in plain(rules).items() if name != "sets"}
    return hash_bytes(to_text({"version": VERSION, "settings": settings, "libraries": versions()}).encode())


class Store:
    """Measured files below a folder.

    Args:
        folder: It is created with the first record.
        rules: How files are measured.
    """

    def __init__(self, folder: Path, rules: Rules) -> None:
        self.folder, self._digest, self._scored = folder, measuring_digest(rules), rules.caption.scorer is not None

    def key(self, content: str, caption: str | None) -> str:
        """The name of a file's folder: a hash of its content, of how it is measured, and of the caption where a scorer reads it."""
        parts = (content, self._digest, (caption or "") if self._scored else "")
        return hash_bytes("\0".join(parts).encode("utf-8", "surrogatepass"))

    def read(self, key: str) -> FileRecord | None:
        """The record of a key; ``None`` if there is none, or it is damaged, so that the file is measured again."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            return FileRecord.from_json(json.loads((self._place(key) / RECORD).read_bytes()))
        return None

    def write(self, key: str, measured: Measured) -> None:
        """Keep a record and its strips, whole or not at all, in place of an earlier one, whose values are kept with it.

        Raises:
            StorageError: if it cannot be written.
        """
        place = self._place(key)
        before = self.read(key)
        record = measured.record if before is None else measured.record.joined(before)
        shutil.rmtree(place, ignore_errors=True)
        with new_folder(place) as beside:
            (beside / RECORD).write_text(to_text(record.to_json()), "utf-8")
            for number, strip in enumerate(measured.strips):
                (beside / f"{number:05d}.webp").write_bytes(strip)

    def strip(self, key: str, clip: int | None) -> bytes | None:
        """Frames of a clip side by side, as WebP; of the file's first clip for a file, and ``None`` if it has none."""
        with suppress(OSError):
            return (self._place(key) / f"{clip or 0:05d}.webp").read_bytes()
        return None

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half-written."""
        for folder in self._folders():
            remove_leftovers(folder)

    def _folders(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from (path for path in self.folder.iterdir() if path.is_dir())

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key
