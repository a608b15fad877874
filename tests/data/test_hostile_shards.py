"""Tar files whose headers lie, and patterns of too many names: refused or counted at once."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from jielong.data.ledger import Cause
from jielong.data.opening import open_source
from jielong.data.patterns import MOST_FILES, without_braces
from jielong.data.source import DataError
from jielong.data.tar_members import MAX_EXTENSION, tar_members

BLOCK = tarfile.BLOCKSIZE


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, names: tuple[str, ...] = ("a", "b", "c"), format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name in names:
            data = png("red")
            member = tarfile.TarInfo(f"{name}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def header(size: int, kind: bytes = tarfile.REGTYPE, name: str = "x.png") -> bytes:
    """A header of a member with any size, also a negative one."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    mark = b"\xff" if size < 0 else b"\x80"
    block[124:136] = b"%011o\0" % size if 0 <= size < 8**11 else mark + size.to_bytes(11, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def names(path: Path) -> list[str]:
    return [member.name for member in tar_members(path)]


def test_a_whole_shard_is_read_as_the_library_does(tmp_path: Path) -> None:
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = shard(tmp_path / "a.tar", ("a", "n" * 150 + "/" + "m" * 90, "\u00e9"), format)
        with tarfile.open(path) as archive:
            assert names(path) == archive.getnames()


def after_first(path: Path, block: bytes) -> Path:
    """Put bytes in place of the second header."""
    data = bytearray(path.read_bytes())
    second = BLOCK + -(-len(png("red")) // BLOCK) * BLOCK
    data[second : second + len(block)] = block
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (header(-1024), "has the size -1024"),
        (header(1 << 62), "x.png should have 4,611,686,018,427,387,904 bytes"),
        (header((1 << 63) - 1), "x.png should have"),
        (header(MAX_EXTENSION + 1, tarfile.XHDTYPE), "an extended header has"),
        (header(1 << 40, tarfile.GNUTYPE_LONGNAME), "an extended header has"),
        (b"\x01" * BLOCK, "there is no header at byte"),
    ],
)
def test_a_header_that_lies_ends_the_shard_and_is_counted(block: bytes, says: str, tmp_path: Path) -> None:
    path = after_first(shard(tmp_path / "a.tar"), block)
    with pytest.raises(tarfile.TarError, match=says):
        names(path)
    source = open_source(str(path))
    assert [item.key for item in source.items] == ["a"]
    assert "a.tar (end)" in source.unused.reasons(Cause.BROKEN)


def test_pax_records_cannot_lead_backwards_nor_take_long(tmp_path: Path) -> None:
    for records in ({"size": "-4096"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 40}):
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("a.png")
            member.pax_headers = records
            archive.addfile(member, io.BytesIO(b""))
        with pytest.raises(DataError, match=r"a\.tar"):
            open_source(str(tmp_path / "a.tar"))


def test_a_cut_shard_and_joined_ones_are_found_out(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar").read_bytes()
    path, member = tmp_path / "cut.tar", BLOCK + -(-len(png("red")) // BLOCK) * BLOCK
    for length in (1, BLOCK - 1, BLOCK, BLOCK + 1, member, member + 1, 2 * member, 3 * member - 1, 3 * member):
        path.write_bytes(whole[:length])
        with pytest.raises(tarfile.TarError):
            names(path)
    path.write_bytes(whole + whole)
    with pytest.raises(tarfile.TarError, match="split joined archives"):
        names(path)


def test_one_shard_that_is_no_tar_file_does_not_stop_the_others(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar")
    (tmp_path / "b.tar").write_bytes(b"\x1f\x8b no tar" * 100)
    source = open_source(str(tmp_path))
    assert len(source.items) == 3
    assert len(source.unused.reasons(Cause.BROKEN)) == 1
    with pytest.raises(DataError, match="is not an uncompressed tar file"):
        open_source(str(tmp_path / "b.tar"))


def test_braces() -> None:
    assert without_braces("a{08..11}b{x,}") == [f"a{n}b{x}" for n in ("08", "09", "10", "11") for x in ("x", "")]
    assert without_braces("a{}b") == ["ab"]
    assert without_braces("a}b{c") == ["a}b{c"]
    for pattern, says in (
        ("s{0..999999999}.tar", "names 1,000,000,000 files"),
        ("s{0..999}{0..999}.tar", "names 1,000,000 files"),
        ("s{0..%s}" % ("9" * 5000), None),
        ("{a,{b,c}}.tar", "braces inside braces"),
        ("{9..0}.tar", r"the range \{9\.\.0\} is empty; write \{0\.\.9\}"),
    ):
        if says is None:
            assert len(without_braces(pattern)) == 1  # no range, but a name that does not exist
            continue
        with pytest.raises(DataError, match=says):
            without_braces(pattern)
    assert len(without_braces(f"{{1..{MOST_FILES}}}")) == MOST_FILES
