"""Whether a file of sound is whole, by the structure of its container; decoders take a cut one for a shorter clip.

A stream writes a placeholder where it does not know a length. Such a file is whole, and reads to its end.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from jielong.media.reading.faults import BrokenAudioError

_PLACEHOLDER = 0x7F00_0000
"""Lengths of 32 bits from here on: FFmpeg writes 2^32 - 1, SoX 2^31 - 2^12 and 2^31 - 2^24 + ..., arecord 2^31, others 2^31 - 1."""
_LONG_PLACEHOLDER = 2**62
_MOST_ELEMENTS = 2**20
"""That are looked at; a file of more, such as one of empty elements, is left to the decoder."""
_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_MPEG_KBPS = {  # by (version 1, layer); ISO 11172-3 and 13818-3
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def whole(data: bytes, name: str) -> bytes:
    """The file, with the length of its samples in place of a placeholder.

    Raises:
        BrokenAudioError: if it is cut off.
    """
    for mark, place, check in _CHECKS:
        if data[place : place + len(mark)] == mark:
            return check(data, name)
    return _frames(data, name)


def _cut(name: str, why: str) -> BrokenAudioError:
    return BrokenAudioError(f"{name} is cut off: {why}")


def _length(declared: int, present: int, placeholder: int, name: str) -> bool:
    """Whether a declared length is a placeholder; an error if it is not, and more than is present."""
    if declared >= placeholder or (declared == 0 and present > 0):
        return True
    if declared > present:
        raise _cut(name, f"its header declares {declared:,} bytes of samples, but {present:,} are present")
    return False


def _patched(data: bytes, *values: tuple[int, bytes]) -> bytes:
    changed = bytearray(data)
    for place, value in values:
        changed[place : place + len(value)] = value
    return bytes(changed)


def _riff(data: bytes, name: str) -> bytes:
    """WAV, RF64 and BW64: chunks of a name, a length in 32 bits, and padding to two bytes; ``ds64`` holds the length where it is larger."""
    if data[8:12] != b"WAVE":
        declared = int.from_bytes(data[4:8], "little")
        if len(data) - 8 < declared < _PLACEHOLDER:
            raise _cut(name, f"its header declares {declared:,} bytes, but {len(data) - 8:,} are present")
        return data
    form = ">I" if data[:4] == b"RIFX" else "<I"
    place, wide = 12, None
    while place + 8 <= len(data):
        chunk, (length,) = data[place : place + 4], struct.unpack_from(form, data, place + 4)
        start = place + 8
        present = len(data) - start
        if chunk == b"ds64" and length >= 24 and present >= 24:
            wide = start + 8
        elif chunk == b"data" and wide is not None and length >= _PLACEHOLDER:
            if not _length(struct.unpack_from("<Q", data, wide)[0], present, _LONG_PLACEHOLDER, name):
                return data
            return _patched(data, (wide, struct.pack("<Q", present)))
        elif chunk == b"data":
            if length == 0 and _is_riff_to_end(data, start, form):
                return data
            if not _length(length, present, _PLACEHOLDER, name) or present >= _PLACEHOLDER:
                inner = data[start : start + length] if data[start : start + 4] == b"OggS" else b""
                return _ogg(inner, name) if inner else data  # Vorbis in WAV is a whole file of Ogg
            return _patched(data, (4, struct.pack(form, len(data) - 8)), (place + 4, struct.pack(form, present)))
        place = start + length + length % 2
    raise BrokenAudioError(f"{name} is a WAV file without samples")


def _is_riff_to_end(data: bytes, place: int, form: str) -> bool:
    """Whether chunks with printable names follow: those behind a chunk of no samples, as opposed to samples of unknown length."""
    while place + 8 <= len(data) and data[place : place + 4].isascii() and data[place : place + 4].decode().isprintable():
        length = struct.unpack_from(form, data, place + 4)[0]
        place += 8 + length + length % 2
    return place in (len(data), len(data) + 1)


def _aiff(data: bytes, name: str) -> bytes:
    """AIFF and AIFF-C: as WAV, with the first byte of a number first; ``SSND`` counts the eight bytes before its samples."""
    if data[8:12] not in (b"AIFF", b"AIFC"):
        return data
    place = 12
    while place + 8 <= len(data):
        chunk, (length,) = data[place : place + 4], struct.unpack_from(">I", data, place + 4)
        if chunk == b"SSND":
            present = len(data) - place - 8
            if not _length(length, present, _PLACEHOLDER, name):
                return data
            return _patched(data, (4, struct.pack(">I", len(data) - 8)), (place + 4, struct.pack(">I", present)))
        place += 8 + length + length % 2
    raise BrokenAudioError(f"{name} is an AIFF file without samples")


def _au(data: bytes, name: str) -> bytes:
    """AU: the place of the samples and their length follow the mark."""
    form = "<I" if data[:4] == b"dns." else ">I"
    if len(data) < 24:
        raise _cut(name, "it ends within its header")
    start, length = (struct.unpack_from(form, data, place)[0] for place in (4, 8))
    present = max(0, len(data) - start)
    return _patched(data, (8, struct.pack(form, present))) if _length(length, present, _PLACEHOLDER, name) else data


def _w64(data: bytes, name: str) -> bytes:
    """Wave64: chunks of a name in 16 bytes and a length in 64 bits that counts both, padded to eight bytes."""
    place = 40
    while place + 24 <= len(data):
        length = struct.unpack_from("<Q", data, place + 16)[0]
        if data[place : place + 4] == b"data":
            present = len(data) - place
            if not _length(max(0, length - 24) if length else 0, present - 24, _LONG_PLACEHOLDER, name):
                return data
            return _patched(data, (place + 16, struct.pack("<Q", present)))
        place += max(24, (length + 7) // 8 * 8)
    raise BrokenAudioError(f"{name} is a W64 file without samples")


def _caf(data: bytes, name: str) -> bytes:
    """Core Audio Format: chunks of a name and a length in 64 bits; -1 is a placeholder of the last."""
    place, found = 8, False
    while place + 12 <= len(data):
        length, present = struct.unpack_from(">Q", data, place + 4)[0], len(data) - place - 12
        is_data = data[place : place + 4] == b"data"
        found |= is_data
        if is_data and length >= _LONG_PLACEHOLDER:
            return data
        if length > present:
            raise _cut(name, f"a chunk of {length:,} bytes ends after {present:,}")
        place += 12 + length
    if not found:
        raise BrokenAudioError(f"{name} is a CAF file without samples")
    return data


def _nist(data: bytes, name: str) -> bytes:
    """NIST SPHERE, as the ``.wav`` files of TIMIT are: a header of lines with its own size in the second, and samples."""
    size = int(data[8:16]) if data[8:16].strip().isdigit() else 0
    fields = {words[0]: words[2] for line in data[:size].split(b"\n") if len(words := line.split()) > 2}
    counts = [fields.get(key, b"") for key in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    if fields.get(b"sample_coding", b"pcm") in (b"pcm", b"ulaw", b"alaw") and all(count.isdigit() for count in counts):
        _length(math.prod(map(int, counts)), max(0, len(data) - size), _LONG_PLACEHOLDER, name)
    return data


def _ogg(data: bytes, name: str) -> bytes:
    """Ogg (RFC 3533, section 6): pages of 27 bytes, the lengths of up to 255 segments, and these; the last one is marked as the end."""
    place, last = 0, 0
    while data[place : place + 4] == b"OggS":
        segments = data[place + 27 : place + 27 + data[place + 26]] if place + 27 <= len(data) else b""
        end = place + 27 + len(segments) + sum(segments)
        if place + 27 > len(data) or len(segments) < data[place + 26] or end > len(data):
            raise _cut(name, f"it ends within a page of Ogg, after {len(data):,} bytes")
        place, last = end, place
    if not data[last + 5] & 4:
        raise _cut(name, "its last page of Ogg is not marked as the end")
    return data


def _matroska(data: bytes, name: str) -> bytes:
    """Matroska and WebM (RFC 8794): elements of a number and a length; one of unknown length ends where the file does."""
    place = 0
    for _ in range(_MOST_ELEMENTS):
        if place >= len(data) or not data[place]:
            break
        number, after = _variable(data, place, keep_mark=True)
        length, start = _variable(data, after)
        unknown = length == 2 ** (7 * (start - after)) - 1
        if start > len(data) or (not unknown and start + length > len(data)):
            raise _cut(name, f"it ends within an element of Matroska, after {len(data):,} bytes")
        if unknown and number not in (_SEGMENT, _CLUSTER):
            return data
        place = start if unknown else start + length
    return data


def _variable(data: bytes, place: int, keep_mark: bool = False) -> tuple[int, int]:
    """A number of variable length, whose first bit set says how many bytes it has; and the place behind it, beyond the end if it is cut."""
    width = 9 - data[place].bit_length() if place < len(data) else 1
    value = int.from_bytes(data[place : place + width], "big")
    return value if keep_mark else value & (2 ** (7 * width) - 1), place + width


def _mp4(data: bytes, name: str) -> bytes:
    """MP4 and QuickTime: boxes of a length and a name; 1 is followed by a length in 64 bits, and 0 lasts to the end."""
    place = 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        length = int.from_bytes(data[place + 8 : place + 16], "big") if length == 1 else length
        if length == 0:
            break
        if place + max(8, length) > len(data):
            raise _cut(name, f"it ends within a box of MP4, after {len(data):,} bytes")
        if length < 8:
            break
        place += length
    return data


def _frames(data: bytes, name: str) -> bytes:
    """MP3 and AAC: frames, each with its length, perhaps behind a tag (ID3v2); the first of an MP3 may count them (Xing)."""
    place = _behind_tags(data)
    first, count = place, 0
    while length := _frame_length(data, place):
        if place + length > len(data):
            if count:
                raise _cut(name, f"it ends within a frame, after {len(data):,} bytes")
            return data
        place, count = place + length, count + 1
    if place == len(data) and count:
        declared = _declared_frames(data, first)
        if declared is not None and declared > count:
            raise _cut(name, f"its header declares {declared:,} frames, but {count:,} are present")
    elif count > 1 and len(data) - place < 4 and data[place] == 0xFF:
        raise _cut(name, f"it ends within a frame, after {len(data):,} bytes")
    return data


def is_mpeg(data: bytes) -> bool:
    """Whether a file begins as MP3 does: with a frame or a tag."""
    return data[:1] == b"\xff" or data[:3] == b"ID3"


def estimates_length(data: bytes) -> bool:
    """Whether a length that a decoder tells is an estimate: that of an MP3 whose first frame does not count them."""
    first = _behind_tags(data)
    return _frame_length(data, first) is not None and _declared_frames(data, first) is None


def _declared_frames(data: bytes, first: int) -> int | None:
    head = data[first : first + (_frame_length(data, first) or 0)]
    mark = max(head.find(b"Xing"), head.find(b"Info"))
    counted = 0 < mark <= len(head) - 12 and head[mark + 7] & 1
    return int.from_bytes(head[mark + 8 : mark + 12], "big") if counted else None


def _behind_tags(data: bytes) -> int:
    place = 0
    while data[place : place + 3] == b"ID3" and place + 10 <= len(data):
        a, b, c, d = data[place + 6 : place + 10]
        place += 10 + (a << 21 | b << 14 | c << 7 | d)
        place = len(data) - len(data[place:].lstrip(b"\0"))
    return place


def _frame_length(data: bytes, place: int) -> int | None:
    """Bytes of the frame of MPEG audio (ISO 11172-3) or AAC (ADTS) at ``place``; ``None`` where there is none."""
    head = data[place : place + 6]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5 if len(head) == 6 else 6
        return length if length > 6 else None
    version, layer, kbps, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or kbps in (0, 15) or rate == 3:
        return None
    bits = 1000 * _MPEG_KBPS[version == 3, layer if version == 3 or layer == 1 else 2][kbps - 1]
    hertz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding


def _dump(data: bytes, name: str) -> bytes:
    """A MIDI sample dump, of which libsndfile prints each damaged block on standard output."""
    raise BrokenAudioError(f"{name} cannot be read as sound: it is a MIDI sample dump")


Check = Callable[[bytes, str], bytes]
_CHECKS: tuple[tuple[bytes, int, Check], ...] = (
    (b"RIFF", 0, _riff),
    (b"RIFX", 0, _riff),
    (b"RF64", 0, _riff),
    (b"BW64", 0, _riff),
    (b"FORM", 0, _aiff),
    (b".snd", 0, _au),
    (b"dns.", 0, _au),
    (_W64, 0, _w64),
    (b"caff", 0, _caf),
    (b"NIST_1A\n", 0, _nist),
    (b"OggS", 0, _ogg),
    (b"\x1a\x45\xdf\xa3", 0, _matroska),
    (b"ftyp", 4, _mp4),
    (b"\xf0\x7e", 0, _dump),
)
