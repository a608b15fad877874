"""What cannot be written: the text gives path, reason, sizes and the setting that moves it, before the work where that is known."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from jielong.core.files import write_bytes
from jielong.core.storage import StorageError, cache_folder, check_room, size_words


def error(code: int, path: Path, needed: int | None = None) -> StorageError:
    return StorageError(OSError(code, os.strerror(code)), path, needed)


def test_the_text_gives_path_reason_sizes_and_the_setting_that_moves_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_500_000))
    out, cached = tmp_path / "out", cache_folder() / "tokens" / "a.safetensors"
    moved = "choose another place with out"
    full = "No space left on device (2.5 GB are needed, 1.5 MB are free); free some space, or"
    assert str(error(errno.ENOSPC, out, 2_500_000_000)) == f"{out} cannot be written: {full} {moved}"
    assert str(error(errno.ENOSPC, cached, 2_500_000_000)) == f"{cached} cannot be written: {full} set JIELONG_CACHE to another folder"
    assert error(errno.ENOSPC, out).on_command_line().endswith(f"{moved.replace('out', '--out')}")
    assert (
        str(error(errno.EDQUOT, out, 999))
        == f"{out} cannot be written: Disk quota exceeded (999 bytes are needed); free some space, or {moved}"
    )
    assert "File too large (a limit of this process, see `ulimit -f`, or of the file system)" in str(error(errno.EFBIG, out))
    assert str(error(errno.EROFS, out)) == f"{out} cannot be written: Read-only file system; {moved}"
    assert str(error(errno.EACCES, cached)).endswith("Permission denied; set JIELONG_CACHE to another folder")


def test_sizes_in_words():
    assert [size_words(size) for size in (0, 999, 1000, 12_345_678, 5 * 10**9, 2.5e15)] == [
        "0 bytes", "999 bytes", "1 kB", "12.3 MB", "5 GB", "2,500.0 TB"
    ]  # fmt: skip


def test_room_and_permission_are_checked_where_the_file_will_be(tmp_path, monkeypatch):
    target, asked = tmp_path / "new" / "a", []
    monkeypatch.setattr(shutil, "disk_usage", lambda place: asked.append(place) or SimpleNamespace(free=100))
    check_room(target, 100)
    assert asked == [tmp_path]
    with pytest.raises(StorageError, match=r"101 bytes are needed, 100 bytes are free.*\. Two states"):
        check_room(target, 101, "Two states")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(StorageError, match="Permission denied"):
        check_room(target, 1)
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(StorageError, match="Read-only file system"):
        check_room(target, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["os.replace", "os.chmod", "tempfile.mkstemp", "pathlib.Path.write_bytes"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_every_step_of_writing_may_fail(tmp_path, monkeypatch, call, code):
    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(call, fails)
    with pytest.raises(StorageError, match=f"^{tmp_path / 'a'} cannot be written: {os.strerror(code)}"):
        write_bytes(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"
