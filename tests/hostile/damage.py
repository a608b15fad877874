"""Seeded damage of bytes, and files that lie about their contents."""

from __future__ import annotations

import random
import struct
import zlib


def cut(data: bytes, draw: random.Random) -> bytes:
    """The first bytes, however few."""
    return data[: draw.randrange(len(data) + 1)]


def flip(data: bytes, draw: random.Random) -> bytes:
    """One to eight flipped bits."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_early(data: bytes, draw: random.Random) -> bytes:
    """Flipped bits among the first bytes, where headers are."""
    return flip(data[:64], draw) + data[64:]


def splice(data: bytes, draw: random.Random) -> bytes:
    """A part moved to another place."""
    first, last, to = sorted(draw.randrange(len(data) + 1) for _ in range(3))
    return data[to:] + data[first:last] + data[:first]


def repeat(data: bytes, draw: random.Random) -> bytes:
    """A part given twice."""
    first, last = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:last] + data[first:]


def overwrite(data: bytes, draw: random.Random) -> bytes:
    """Bytes overwritten: zeros, ones, or random ones."""
    start, length = draw.randrange(len(data)), draw.choice((1, 4, 8, 64, 512))
    block = draw.choice((b"\0" * length, b"\xff" * length, b"\x7f" * length, draw.randbytes(length)))
    return data[:start] + block + data[start + length :]


DAMAGES = (cut, flip, flip_early, splice, repeat, overwrite)


def damaged(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Data with one kind of damage, and the kind's name."""
    kind = draw.choice(DAMAGES)
    return kind.__name__, kind(data or b"\0", draw)


TEXTS = {
    "empty": b"",
    "zeros": b"\0" * 4096,
    "ones": b"\xff" * 4096,
    "text": b"no such format\n" * 50,
    "latin": "été\n".encode("latin-1") * 20,
    "utf-16": "a red square\n".encode("utf-16"),
    "utf-16 without a mark": "a red square\n".encode("utf-16-le"),
    "escapes": b"\x1b[31m\x1b]0;title\x07\x1b[2J" * 20,
    "html": b"<!doctype html><html><body>404 Not Found</body></html>",
    "gzip": zlib.compress(b"\0" * 100_000, 9, 31),
    "zip": b"PK\x03\x04" + b"\0" * 200,
    "pickle": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n{} loop\nshowpage\n",
    "pdf": b"%PDF-1.4\n1 0 obj\n<< /Length 99999999 >>\nstream\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "link": b"[InternetShortcut]\nURL=file:///etc/passwd\n",
    "long line": b"x" * 1_000_000,
}
"""Files that are something else."""


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file with any declared size and any compressed rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def wav(
    rate: int = 16000, channels: int = 1, bits: int = 16, data: bytes = b"\0" * 3200, declared: int | None = None, kind: int = 1
) -> bytes:
    """A WAV file with any declared numbers."""
    size = len(data) if declared is None else declared
    width = max(1, bits // 8)
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * channels * width & 0xFFFFFFFF, channels * width & 0xFFFF, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size & 0xFFFFFFFF) + data
    return b"RIFF" + struct.pack("<I", size + 36 & 0xFFFFFFFF) + body
