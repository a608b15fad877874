"""One writer a folder or file, whatever became of the one before; and what killed writers leave."""

import json
import multiprocessing
import os
import platform
import shutil
import signal
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from filelock import FileLock

from jielong.core.files import HOST, new_folder, remove_leftovers, replacing, staged, write_bytes
from jielong.core.locks import LOCK, RECORD, InUseError, one_run, one_writer
from jielong.core.storage import StorageError

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _every_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def hold(folder: Path, ready: Connection) -> None:
    with one_run(folder):
        ready.send("held")
        signal.pause()


def held(folder: Path) -> multiprocessing.Process:
    """A process that holds the folder until it is killed."""
    here, there = FORK.Pipe()
    child = FORK.Process(target=hold, args=(folder, there), daemon=True)
    child.start()
    assert here.poll(60)
    return child


def kill(child: multiprocessing.Process) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)


def ended_pid() -> int:
    """The number of a process that has ended."""
    child = FORK.Process(target=os.getpid)
    child.start()
    child.join(60)
    return child.pid


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - {LOCK}


def test_the_second_run_is_refused_with_process_host_and_start_of_the_first_and_a_killed_one_is_taken_over(tmp_path):
    child = held(tmp_path / "run")
    try:
        since = json.loads((tmp_path / "run" / RECORD).read_text())["since"]
        with pytest.raises(InUseError) as refused, one_run(tmp_path / "run"):
            pass
        first = f"process {child.pid} on {platform.node()} since {since}"
        assert (
            str(refused.value)
            == f"{tmp_path / 'run'} is in use by {first}: wait until it ends or stop it, or choose another place with out"
        )
        assert "with --out" in refused.value.on_command_line()
    finally:
        kill(child)
    with pytest.warns(UserWarning, match=f"held by process {child.pid} on .*, which was killed: taken over"), one_run(tmp_path / "run"):
        (tmp_path / "run" / "result").write_bytes((tmp_path / "run" / RECORD).read_bytes())
    assert json.loads((tmp_path / "run" / "result").read_text())["pid"] == os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with one_run(tmp_path / "run"):
            pass
    assert left(tmp_path / "run") == {"result"}


@pytest.mark.parametrize("hold_place", [one_run, one_writer])
def test_a_holder_on_another_computer_is_named_and_not_taken_over(tmp_path, hold_place):
    place = tmp_path / "run"
    record = place / RECORD if hold_place is one_run else tmp_path / ".run.run.json"
    write_bytes(record, json.dumps({"pid": 12, "host": "elsewhere", "since": "2026-01-02 03:04:05+00:00"}).encode())
    expected = rf"process 12 on elsewhere since 2026-01-02 03:04:05.* if it was killed, remove {record}"
    with pytest.raises(InUseError, match=expected), hold_place(place):
        pass
    assert record.exists()
    record.unlink()
    with hold_place(place):
        pass


def test_without_locks_of_the_file_system_the_record_decides(tmp_path, monkeypatch):
    def unsupported(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("jielong.core.locks.FileLock.acquire", unsupported)
    with one_run(tmp_path):
        with pytest.raises(InUseError, match=f"process {os.getpid()} on"), one_run(tmp_path):
            pass
        (tmp_path / "result").touch()
    write_bytes(tmp_path / RECORD, json.dumps({"pid": ended_pid(), "host": platform.node(), "since": "now"}).encode())
    with pytest.warns(UserWarning, match="taken over"), one_run(tmp_path):
        pass
    assert left(tmp_path) == {"result"}


def test_a_run_that_is_refused_before_it_writes_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError), one_run(tmp_path / "new" / "run"):
        raise ValueError
    assert left(tmp_path) == set()
    with one_writer(tmp_path / "new" / "tokens.safetensors"):
        assert len(left(tmp_path)) == 3
    assert left(tmp_path) == set()


def test_the_lock_of_a_run_that_has_only_begun_is_not_removed(tmp_path):
    with FileLock(tmp_path / LOCK):  # its record is not written yet
        with pytest.raises(InUseError, match="in use by another process"), one_run(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()


def test_a_folder_may_be_removed_while_it_is_held(tmp_path):
    with one_run(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("hold_place", [one_run, one_writer])
def test_a_place_below_a_file_is_refused_with_that_file(tmp_path, hold_place):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "c"):
        with pytest.raises(StorageError, match=rf"{tmp_path / 'file'} is a file, and a folder is needed"), hold_place(place):
            pass
    with pytest.raises(StorageError, match="this is a folder, and a file is needed"), one_writer(tmp_path):
        pass
    with pytest.raises(StorageError, match="File name too long"), hold_place(tmp_path / ("x" * 300) / "run"):
        pass


def leave(folder: Path) -> None:
    """Be killed while a file, a folder and several files are half-written."""
    with replacing(folder / "a.safetensors") as file, new_folder(folder / "state-000000000008") as state, staged(folder) as scratch:
        for place in (file, state / "x", scratch / "y"):
            place.write_bytes(b"half" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_killed_processes_leave_is_removed_once_and_that_of_live_ones_never(tmp_path):
    child = FORK.Process(target=leave, args=(tmp_path,))
    child.start()
    child.join(60)
    assert len(left(tmp_path)) == 6
    (tmp_path / "mine.txt.tmp").touch()
    (tmp_path / ".of_another_program.tmp").touch()
    with replacing(tmp_path / "live") as live:
        with pytest.warns(UserWarning, match=rf"removed 3 unfinished files of killed processes from {tmp_path} \(12 kB\)"):
            remove_leftovers(tmp_path)
        assert left(tmp_path) == {"mine.txt.tmp", ".of_another_program.tmp", live.name}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            remove_leftovers(tmp_path)
        live.write_bytes(b"whole")
    assert (tmp_path / "live").read_bytes() == b"whole"


def test_leftovers_of_other_computers_are_removed_by_who_holds_the_folder_or_after_a_day(tmp_path):
    other = tmp_path / ".a.abcdefgh.00000000-1.tmp"
    assert HOST != "00000000"
    other.touch()
    remove_leftovers(tmp_path)
    assert other.exists()
    with pytest.warns(UserWarning, match="removed an unfinished file"):
        remove_leftovers(tmp_path, held=True)
    assert not other.exists()
    for name in (other.name, f".a.abcdefgh.{HOST}-{os.getpid()}.tmp"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    with pytest.warns(UserWarning, match="removed 2 unfinished files"):
        remove_leftovers(tmp_path)
    assert left(tmp_path) == set()


@pytest.mark.filterwarnings("ignore:removed an unfinished file")
def test_a_run_removes_what_is_left_in_its_subfolders_but_not_in_other_runs(tmp_path):
    name = f".a.abcdefgh.{HOST}-{ended_pid()}.tmp"
    for folder in ("", "samples", "other", "empty"):
        write_bytes(tmp_path / folder / name, b"half")
    (tmp_path / "other" / LOCK).touch()
    with one_run(tmp_path):
        assert left(tmp_path) == {RECORD, "samples", "empty", "other", f"other/{name}", f"other/{LOCK}"}


def test_long_names_are_written(tmp_path):
    assert write_bytes(tmp_path / ("x" * 255), b"data").read_bytes() == b"data"
    with new_folder(tmp_path / ("y" * 255)) as folder:
        (folder / "a").touch()
    assert (tmp_path / ("y" * 255) / "a").exists()
