"""Members of a tar file, with every damage found out: the library ends at some of them as if the archive did."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

MAX_EXTENSION = 16 << 10
"""Most bytes of an extended header (a long name, pax records)."""
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_BLOCK = tarfile.BLOCKSIZE
_BEHIND = 1 << 20


class _Member(tarfile.TarInfo):
    """A header whose size is believed only where it can be true."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one header block."""
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise tarfile.ReadError(f"a member has the size {member.size}")
        if member.type in _EXTENSIONS and member.size > MAX_EXTENSION:
            raise tarfile.ReadError(f"an extended header has {member.size:,} bytes, and at most {MAX_EXTENSION:,} are read")
        return member


def tar_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Members of an uncompressed tar file in their order.

    Raises:
        tarfile.TarError: where the file is damaged, cut, or continues behind its end mark; members before that place were yielded.
    """
    end, length = 0, path.stat().st_size
    try:
        with tarfile.open(path, "r:", tarinfo=_Member) as archive:
            while (member := archive.next()) is not None:
                if member.size < 0 or archive.offset <= end:
                    raise tarfile.ReadError(f"{member.name} has the size {member.size}")
                end = archive.offset
                yield member
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"{member.name} should have {member.size:,} bytes, and the file ends before that")
    except OSError as error:
        if error.filename is not None:
            raise
        raise tarfile.ReadError(f"a header cannot be read ({error})") from None
    except (ValueError, OverflowError, RecursionError, MemoryError, EOFError) as error:
        raise tarfile.ReadError(f"a header cannot be read ({type(error).__name__}: {error})") from None
    with open(path, "rb") as file:
        file.seek(end)
        if not (block := file.read(_BLOCK)):
            raise tarfile.ReadError("it has no end mark, so members may be missing")
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"there is no header at byte {end:,}, where one should be")
        if file.read(_BEHIND).strip(b"\0"):
            raise tarfile.ReadError(f"what follows its end mark at byte {end:,} is not read; split joined archives")
