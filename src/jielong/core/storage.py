"""Where files go, whether there is room for them, and one error for what cannot be written: place, sizes, and the setting that moves it."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

CACHE = "JIELONG_CACHE"
"""Environment variable: the cache folder, instead of the user's."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_folder() -> Path:
    """``$JIELONG_CACHE``, or the user's cache folder of this system."""
    return Path(os.environ.get(CACHE) or platformdirs.user_cache_path("jielong", appauthor=False))


class StorageError(OSError):
    """A file or folder cannot be written; the text gives path, reason, sizes, and the setting that moves it.

    Args:
        error: Of the operating system.
        path: The file or folder, under its final name.
        needed: Bytes to be written, if known.
        more: What holds besides, such as what is intact.
    """

    def __init__(self, error: OSError, path: Path, needed: int | None = None, more: str = "") -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))
        self.path, self.needed, self.more, self.option = path, needed, more, "out"
        # Now: what is half-written will be removed, which frees some.
        self.free: int | None = error.free if isinstance(error, StorageError) else free_bytes(path) if self.errno == errno.ENOSPC else None

    def __str__(self) -> str:
        return self._sentence(self.option)

    def on_command_line(self) -> str:
        """The text with the option of the command line."""
        return self._sentence(f"--{self.option}")

    def _sentence(self, option: str) -> str:
        sizes = []
        if self.needed is not None:
            sizes.append(f"{size_words(self.needed)} are needed")
        if self.free is not None:
            sizes.append(f"{size_words(self.free)} are free")
        size = f" ({', '.join(sizes)})" if sizes else ""
        return f"{self.path} cannot be written: {self._reason()}{size}; {self._advice(option)}{self.more and f'. {self.more}'}"

    def _reason(self) -> str:
        if self.errno in (errno.EEXIST, errno.ENOTDIR) and (file := _file_among(self.path)) is not None:
            return f"{file} is a file, and a folder is needed"
        if self.errno == errno.EFBIG:
            return f"{self.strerror} (a limit of this process, see `ulimit -f`, or of the file system)"
        return str(self.strerror)

    def _advice(self, option: str) -> str:
        moved = f"set {CACHE} to another folder" if self.path.is_relative_to(cache_folder()) else f"choose another place with {option}"
        return f"free some space, or {moved}" if self.errno in _FULL else moved


def size_words(count: float) -> str:
    """Bytes in decimal units, such as ``12.3 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def free_bytes(path: Path) -> int | None:
    """Bytes that this user may still write where ``path`` is or will be; ``None`` if unknown. A quota is not seen."""
    try:
        return shutil.disk_usage(_nearest(path)).free
    except OSError:
        return None


def check_room(path: Path, needed: int, more: str = "") -> None:
    """Check before the work whether a file or folder can be written.

    Args:
        path: The file or folder; its parents are folders or missing.
        needed: Bytes to be written.
        more: As of :class:`StorageError`.

    Raises:
        StorageError: if the folder is read-only or a file, or less is free.
    """
    place, code = _nearest(path), 0
    if _file_among(path.parent) is not None:
        code = errno.ENOTDIR
    elif not os.access(place, os.W_OK | os.X_OK):
        code = errno.EROFS if os.name != "nt" and os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
    elif (free := free_bytes(path)) is not None and free < needed:
        code = errno.ENOSPC
    if code:
        raise StorageError(OSError(code, os.strerror(code)), path, needed or None, more)


@contextmanager
def optional() -> Iterator[None]:
    """Go on without a file of the cache that cannot be written, and say so."""
    try:
        yield
    except StorageError as error:
        warnings.warn(f"{error}. It is computed now, and again the next time", stacklevel=3)


def _nearest(path: Path) -> Path:
    """The innermost folder of a path that exists."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir())


def _file_among(path: Path) -> Path | None:
    """The part of a path that is a file, where a folder is needed."""
    return next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None)


def make_folder(folder: Path) -> list[Path]:
    """Create a folder with its parents; those that were missing, the innermost first.

    Raises:
        StorageError: if it cannot be created, for example because it is a file.
    """
    try:
        missing = [each for each in (folder.absolute(), *folder.absolute().parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(error, folder) from error
    return missing
