"""Files that are written whole or not at all, and what killed processes leave of them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from jielong.core.storage import StorageError, make_folder, size_words

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""This computer in the name of a temporary file: process numbers of other computers mean nothing here."""
DAY = 86400.0
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)\.tmp")
_SHOWN = 100  # characters of a target's name in that of its temporary file: the whole must stay below 255 bytes


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """An empty temporary file beside ``path`` that takes its place when the block ends, and is removed on any error.

    Args:
        path: The file; its folder is created.
        size: Bytes to be written, for the message of an error.

    Raises:
        StorageError: for an error of the operating system; what was there is left intact.
    """
    make_folder(path.parent)
    beside = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_SHOWN]}.", suffix=_suffix())
        os.close(handle)
        beside = Path(name)
        yield beside
        os.chmod(beside, 0o666 & ~_umask())  # mkstemp makes a private file; the result should be an ordinary one
        os.replace(beside, path)
    except BaseException as error:
        raised = _explained(error, path, size)
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise raised from (error if raised is not error else error.__cause__)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that gets its name when the block ends, and is removed on any error.

    Raises:
        StorageError: for an error of the operating system, also if ``path`` exists already.
    """
    make_folder(path.parent)
    beside = None
    try:
        beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:_SHOWN]}.", suffix=_suffix()))
        yield beside
        os.chmod(beside, 0o777 & ~_umask())
        os.replace(beside, path)
    except BaseException as error:
        raised = _explained(error, path)
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        raise raised from (error if raised is not error else error.__cause__)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden scratch folder inside ``folder`` whose files move up on success and are deleted on failure.

    Existing files of the same name are replaced; on failure, new folders are removed. What killed processes left there is removed first.

    Raises:
        StorageError: for an error of the operating system.
    """
    folder = folder.absolute()
    missing = make_folder(folder)
    remove_leftovers(folder)
    scratch = None
    try:
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".unfinished.", suffix=_suffix()))
        inside = scratch / "files"  # of a plain name: what writes there may read a suffix as a kind of file
        inside.mkdir()
        yield inside
        for file in sorted(inside.iterdir()):
            os.replace(file, folder / file.name)
        shutil.rmtree(scratch)
    except BaseException as error:
        raised = _explained(error, folder)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        remove_empty(missing)
        raise raised from (error if raised is not error else error.__cause__)


def _explained(error: BaseException, path: Path, size: int | None = None) -> BaseException:
    """An error of the operating system with the path that was to be written; any other as it is."""
    return StorageError(error, path, size) if isinstance(error, OSError) and not isinstance(error, StorageError) else error


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to the first that is not empty."""
    for each in folders:
        try:
            each.rmdir()
        except OSError:
            return


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file whole or not at all: beside its place first, then renamed into it."""
    path = Path(path)
    with replacing(path, len(data)) as beside:
        beside.write_bytes(data)
    return path


def remove_leftovers(folder: Path, held: bool = False) -> None:
    """Remove the temporary files and folders of killed processes in ``folder`` and say how many; never those of a live process.

    Args:
        folder: Searched itself, without its subfolders.
        held: Whether this process alone writes to the folder. Otherwise files of other computers are kept for a day.
    """
    try:
        found = [path for path in folder.iterdir() if _is_left(path, held)]
    except OSError:
        return
    size, removed = 0, 0
    for path in found:
        try:
            size += sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            removed += 1
        except OSError:  # of another user, or removed by another process that starts now
            continue
    if removed:
        what = "an unfinished file" if removed == 1 else f"{removed} unfinished files"
        warnings.warn(f"removed {what} of killed processes from {folder} ({size_words(size)})", stacklevel=2)


def _is_left(path: Path, held: bool) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    # A number is given to a new process sooner or later; no write takes a day.
    if time.time() - os.lstat(path).st_mtime > DAY:
        return True
    if match["host"] != HOST:
        return held
    # In a container the new process may have the number of the killed one.
    return held if int(match["pid"]) == os.getpid() else not psutil.pid_exists(int(match["pid"]))


def _suffix() -> str:
    return f".{HOST}-{os.getpid()}.tmp"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
