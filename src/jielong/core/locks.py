"""One writer a folder or file: a lock that ends with its process, and beside it a record of who holds it."""

from __future__ import annotations

import errno
import json
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from jielong.core.files import remove_empty, remove_leftovers, write_bytes
from jielong.core.storage import StorageError, cache_folder, make_folder

LOCK, RECORD = ".jielong.lock", ".jielong.run.json"
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Holder:
    """Who writes to a folder or file.

    Attributes:
        pid: Process number.
        host: Computer.
        since: Start, local time.
    """

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class InUseError(RuntimeError):
    """Another process writes to the folder or file; the text names process and computer, since when, and what to do."""

    def __init__(self, place: Path, holder: Holder | None, remedy: str) -> None:
        super().__init__(place, holder, remedy)
        self.place, self.holder, self.remedy = place, holder, remedy

    def __str__(self) -> str:
        return self._sentence("out")

    def on_command_line(self) -> str:
        """The text with the option of the command line."""
        return self._sentence("--out")

    def _sentence(self, option: str) -> str:
        moved = "" if self.place.is_relative_to(cache_folder()) else f", or choose another place with {option}"
        return f"{self.place} is in use by {self.holder or 'another process'}: {self.remedy}{moved}"


@contextmanager
def one_run(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone, and remove what killed ones left in it; it is created, and removed if it stays empty.

    Raises:
        InUseError: if another process holds it.
        StorageError: if it cannot be written.
    """
    missing = make_folder(folder)
    lock, record = folder / LOCK, folder / RECORD
    try:
        with _locked(folder, lock, record, keep=True):
            for each in (folder, *(path for path in folder.iterdir() if path.is_dir() and not (path / LOCK).exists())):
                remove_leftovers(each, held=True)
            yield
    finally:
        remove_empty(missing)


@contextmanager
def one_writer(file: Path) -> Iterator[None]:
    """Hold a file that takes long to compute for this process alone; nothing stays beside it.

    Raises:
        InUseError: if another process holds it.
        StorageError: if its folder cannot be written.
    """
    missing = make_folder(file.parent)
    if file.is_dir():
        raise StorageError(IsADirectoryError(errno.EISDIR, "this is a folder, and a file is needed"), file)
    lock, record = file.with_name(f".{file.name[:100]}.lock"), file.with_name(f".{file.name[:100]}.run.json")
    try:
        with _locked(file, lock, record, keep=False):
            remove_leftovers(file.parent)
            yield
    finally:
        remove_empty(missing)


@contextmanager
def _locked(place: Path, file: Path, record: Path, keep: bool) -> Iterator[None]:
    """Hold ``file``, which stays in the end if ``keep`` and others do; ``record`` says who does, and outlives a killed holder."""
    # The system's own lock (flock) ends with its process, however that ends, so that nothing has to be guessed from process numbers.
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
        locked = True
    except Timeout:
        raise InUseError(place, _holder(record), "wait until it ends or stop it") from None
    except NotImplementedError:
        locked = False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise StorageError(error, place) from error
        locked = False
    try:
        _take_over(place, record, locked)
        now = Holder(os.getpid(), platform.node(), datetime.now().astimezone().isoformat(" ", "seconds"))
        write_bytes(record, json.dumps(asdict(now)).encode())
        try:
            yield
        finally:
            record.unlink(missing_ok=True)
    finally:
        # Before the release, as the file may be another holder's after it. Windows refuses to remove an open file: there, filelock does.
        with suppress(FileNotFoundError, PermissionError):
            if not keep or {path.name for path in file.parent.iterdir()} == {file.name}:
                file.unlink()
        if locked:
            lock.release()


def _take_over(place: Path, record: Path, locked: bool) -> None:
    """Accept that the last holder left a record, or refuse: on a network file system the lock may not reach other computers."""
    holder = _holder(record)
    if holder is None:
        return
    if holder.host != platform.node():
        raise InUseError(place, holder, f"wait until it ends or stop it there; if it was killed, remove {record}")
    if not locked and psutil.pid_exists(holder.pid):  # no lock on this file system: the record alone decides
        raise InUseError(place, holder, f"wait until it ends or stop it; if that is another program by now, remove {record}")
    warnings.warn(f"{place} was held by {holder}, which was killed: taken over", stacklevel=2)


def _holder(record: Path) -> Holder | None:
    """The holder that a record names; ``None`` where there is no whole record."""
    try:
        return Holder(**json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
