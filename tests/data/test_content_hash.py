"""Hashes of content: every byte counts, a memory is trusted only where it cannot be wrong, and fingerprints follow."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from PIL import Image

from jielong.data import content_hash
from jielong.data.content_hash import GRANULE_NS, hash_bytes, hash_file, remembered
from jielong.data.opening import open_data, open_source


def picture(colour: str, side: int = 64, form: str = "BMP") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that remembers sets of any size."""
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content_hash, "FEW_FILES", 0)
    return tmp_path / "cache"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock at which files written now are old."""
    now = time.time_ns
    monkeypatch.setattr(content_hash.time, "time_ns", lambda: now() + 2 * GRANULE_NS)


def counting(files: list[Path], view: str = "") -> tuple[list[list[str]], int]:
    """The hashes, and how many files were read for them."""
    read: list[int] = []

    def compute(index: int) -> list[str]:
        read.append(index)
        return [hash_file(files[index])]

    return remembered("a set", files, [view] * len(files), compute), len(read)


def written(folder: Path, count: int = 20) -> list[Path]:
    files = [folder / f"{index}.bin" for index in range(count)]
    folder.mkdir()
    for index, file in enumerate(files):
        file.write_bytes(bytes([index]) * (1000 * index))
    return files


def test_the_hash_is_xxh3_of_every_byte(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 7)
    (tmp_path / "a").write_bytes(data)
    assert hash_file(tmp_path / "a") == hash_bytes(data) == xxhash.xxh3_128(data).hexdigest()


@pytest.mark.parametrize("change", ["middle", "quarter", "last"])
def test_white_pictures_that_are_painted_black_are_other_data(tmp_path: Path, change: str) -> None:
    white = bytearray(picture("white", side=256))
    at = {"middle": len(white) // 2 + 3000, "quarter": len(white) // 4 + 5000, "last": len(white) - 1}[change]
    for name in "abcdefghijkl":
        (tmp_path / f"{name}.bmp").write_bytes(white)
    before = open_data(tmp_path).fingerprint
    white[at] = 0
    for name in "abcdefghijkl":
        (tmp_path / f"{name}.bmp").write_bytes(white)
    assert open_data(tmp_path).fingerprint != before


def test_one_byte_of_a_shard_or_a_table_is_other_data(tmp_path: Path) -> None:
    big = bytearray(picture("white", side=2500))  # 18.75 MB
    names = ("s.tar", "t.parquet")

    def fingerprints() -> list[str]:
        with tarfile.open(tmp_path / "s.tar", "w") as archive:
            info = tarfile.TarInfo("a.bmp")
            info.size = len(big)
            archive.addfile(info, io.BytesIO(bytes(big)))
        pq.write_table(pa.table({"image": [bytes(big)]}), tmp_path / "t.parquet", compression="none", use_dictionary=False)
        return [open_data(tmp_path / name, size=8).fingerprint for name in names]

    before = fingerprints()
    big[100_000] = 0  # between two of 256 evenly spaced windows of 64 KiB
    assert all(old != new for old, new in zip(before, fingerprints(), strict=True))


def test_equal_content_has_equal_hashes_whatever_holds_it(tmp_path: Path) -> None:
    blobs = [picture(colour, 8) for colour in ("red", "blue", "red")]
    (tmp_path / "folder").mkdir()
    for index, blob in enumerate(blobs):
        (tmp_path / "folder" / f"{index}.bmp").write_bytes(blob)
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(tmp_path / "folder", "")
    pq.write_table(pa.table({"image": blobs}), tmp_path / "t.parquet", row_group_size=2)
    expected = [hash_bytes(blob) for blob in blobs]
    assert all(open_source(str(tmp_path / name)).content_hashes == expected for name in ("folder", "s.tar", "t.parquet"))


def test_only_changed_files_are_read_again(tmp_path: Path, cache: Path, later: None) -> None:
    files = written(tmp_path / "files")
    first, read = counting(files)
    assert read == len(files)
    assert counting(files) == (first, 0)
    files[3].write_bytes(b"changed")
    files[4].unlink()
    second, read = counting([*files, files[0]])
    assert read == 2
    assert second == [*first[:3], [hash_bytes(b"changed")], [hash_bytes(b"")], *first[5:], first[0]]
    assert counting(files, "another view")[1] == len(files)


def test_a_file_changed_within_the_granule_of_the_clock_is_read_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns() // GRANULE_NS * GRANULE_NS  # a file system whose clock has just ticked
    monkeypatch.setattr(content_hash, "_stamp", lambda path: (path.stat().st_size, now, now, 0))
    monkeypatch.setattr(content_hash.time, "time_ns", lambda: now + GRANULE_NS // 2)
    file = tmp_path / "a"
    file.write_bytes(b"white")
    assert counting([file])[0] == [[hash_bytes(b"white")]]
    file.write_bytes(b"black")  # same size, same stamp
    assert counting([file])[0] == [[hash_bytes(b"black")]]
    monkeypatch.setattr(content_hash.time, "time_ns", lambda: now + 2 * GRANULE_NS)  # the next writing would have another stamp
    assert [counting([file])[1] for _ in range(2)] == [1, 0]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path: Path, cache: Path, later: None) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")

    def compute(index: int) -> list[str]:
        found = [hash_file(file)]
        file.write_bytes(b"other")
        return found

    remembered("a set", [file], [""], compute)
    assert counting([file]) == ([[hash_bytes(b"other")]], 1)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder", "words"])
def test_a_damaged_memory_is_computed_again(tmp_path: Path, cache: Path, later: None, damage: str) -> None:
    files = written(tmp_path / "files")
    first, _ = counting(files)
    (memory,) = (cache / "hashes").iterdir()
    data = bytearray(memory.read_bytes())
    data[-20] ^= 1
    if damage == "folder":
        memory.unlink()
        memory.mkdir()
    else:
        memory.write_bytes({"flip": bytes(data), "cut": bytes(data[:-5]), "empty": b"", "words": b"{}"}[damage])
    assert counting(files) == (first, len(files))


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path: Path, cache: Path, later: None) -> None:
    cache.write_text("a file where the folder would be")
    files = written(tmp_path / "files", 3)
    assert [counting(files)[1] for _ in range(2)] == [3, 3]


def test_a_small_set_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: None) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    counting(written(tmp_path / "files", 3))
    assert not (tmp_path / "cache").exists()
