"""Whether a picture's file is whole, where Pillow decodes one that is cut: behind the pixels, or behind the first frame."""

from __future__ import annotations

import struct

from jielong.media.reading.faults import BrokenImageError


def refuse_cut(data: bytes, form: str | None, name: str) -> None:
    """Raise :class:`BrokenImageError` if a file of that format of Pillow ends before it says."""
    whole = {"PNG": _png, "GIF": _gif, "QOI": _qoi, "BMP": _bmp}.get(form or "")
    if whole is not None and not whole(data):
        raise BrokenImageError(f"{name} cannot be decoded: it is cut off after {len(data):,} bytes")


def _png(data: bytes) -> bool:
    """Chunks of a length, a name and a checksum, the last of them ``IEND``."""
    place = 8
    while place + 12 <= len(data):
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False


def _gif(data: bytes) -> bool:
    """Extensions and frames of blocks of up to 255 bytes, and a semicolon."""
    place = 13 + _colours(data, 10)
    while place < len(data):
        mark = data[place : place + 1]
        if mark == b"!":
            place += 2
        elif mark == b",":
            place += 11 + _colours(data, place + 9)
        else:
            return True  # the end, or something that is Pillow's to judge
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return False


def _colours(data: bytes, place: int) -> int:
    """Bytes of a table of colours that a byte of flags announces."""
    flags = data[place] if place < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _qoi(data: bytes) -> bool:
    return b"\0\0\0\0\0\0\0\x01" in data[14:]


def _bmp(data: bytes) -> bool:
    """Run-length codes, in place of the rest of which Pillow puts black."""
    if len(data) < 38:
        return False
    start, compression, length = (struct.unpack_from("<I", data, place)[0] for place in (10, 30, 34))
    return compression not in (1, 2) or start + length <= len(data)
