"""Pages of Ogg files with numbers of their own in place of random ones, so that the same sound gives the same bytes."""

from __future__ import annotations

import functools

_MARK, _HEADER = b"OggS", 27
_SERIAL, _CHECKSUM = slice(14, 18), slice(22, 26)
_POLYNOMIAL = 0x04C11DB7


@functools.cache
def _table() -> tuple[int, ...]:
    found = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (_POLYNOMIAL if value & 0x80000000 else 0)) & 0xFFFFFFFF
        found.append(value)
    return tuple(found)


def checksum(page: bytes) -> int:
    """CRC-32 of a page whose own checksum is zero (RFC 3533, section 6: polynomial 0x04c11db7, neither reflected nor inverted)."""
    table, value = _table(), 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ table[value >> 24 ^ byte]
    return value


def with_serial(data: bytes, serial: int = 0) -> bytes:
    """A file of one logical stream with this serial number in every page (RFC 3533, section 6); libsndfile draws one at random.

    Raises:
        ValueError: if it is no whole Ogg file.
    """
    pages, at = bytearray(data), 0
    while at < len(data):
        lengths = data[at + _HEADER : at + _HEADER + data[at + 26]] if at + _HEADER <= len(data) else b""
        end = at + _HEADER + len(lengths) + sum(lengths)
        if data[at : at + 4] != _MARK or end > len(data):
            raise ValueError(f"no whole page of Ogg begins at byte {at:,} of {len(data):,}")
        page = bytearray(data[at:end])
        page[_SERIAL] = serial.to_bytes(4, "little")
        page[_CHECKSUM] = bytes(4)
        page[_CHECKSUM] = checksum(bytes(page)).to_bytes(4, "little")
        pages[at:end] = page
        at = end
    return bytes(pages)
