"""Animated pictures (GIF, WebP, APNG) and folders of numbered pictures, as frames with their times."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from PIL import Image

from jielong.media.reading.faults import BrokenImageError, BrokenVideoError, bytes_of, naming
from jielong.media.reading.pictures import FORMATS, frames_in, open_image, read_image
from jielong.media.reading.rasters import refuse_cut
from jielong.media.reading.timeline import Shown

ANIMATED = frozenset((".gif", ".webp", ".apng"))
"""Endings of animated pictures."""
STILLS = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes) - ANIMATED
"""Endings of pictures that are the frames of a folder."""
RATE_FILE = "frames.json"
"""In a folder of frames: ``{"frame_rate": 8}``."""
WITHOUT_DELAY = 0.1
"""Seconds that browsers show a frame whose file gives it none."""
_MARKS = ((0, b"GIF8"), (8, b"WEBP"), (0, b"\x89PNG\r\n\x1a\n"))
_NUMBERED = re.compile(r"(.*?)(\d+)")


def is_animation(head: bytes) -> bool:
    """Whether a file that begins so is read as an animated picture."""
    return any(head[place : place + len(mark)] == mark for place, mark in _MARKS)


def open_animation(source: bytes | Path, name: str) -> Image.Image:
    """An animated picture, whose header is read.

    Raises:
        BrokenVideoError: as :func:`~jielong.media.reading.pictures.open_image`, or if it is cut off.
    """
    data = bytes_of(source, name, BrokenVideoError)
    if data[8:12] == b"WEBP" and len(data) < (declared := int.from_bytes(data[4:8], "little") + 8):
        raise BrokenVideoError(f"{name} is cut off: its header declares {declared:,} bytes, but {len(data):,} are present")
    try:
        image = open_image(data, name)
        refuse_cut(data, image.format, name)
        frames_in(image, name)
    except BrokenImageError as error:
        raise BrokenVideoError(str(error).replace("as a picture", "as a video")) from error
    return image


def animation_frames(source: bytes | Path, name: str, background: str) -> Iterator[Shown]:
    """The frames of an animated picture.

    Raises:
        BrokenVideoError: if one cannot be decoded.
    """
    image, start = open_animation(source, name), 0.0
    for number in range(frames_in(image, name)):
        with naming(name, BrokenVideoError, f"is damaged at frame {number + 1}"):
            image.seek(number)
            image.load()
            seconds = float(image.info.get("duration") or 0) / 1000 or WITHOUT_DELAY
        yield Shown(start, start + seconds, partial(_picture, image, f"{name}, frame {number + 1}", background))
        start += seconds


def _picture(source: Image.Image | Path, name: str, background: str) -> Image.Image:
    try:
        return read_image(source, name, background=background)
    except BrokenImageError as error:
        raise BrokenVideoError(str(error)) from error


def animation_seconds(source: bytes | Path, name: str) -> tuple[float, int]:
    """Duration and frames of an animated picture; every frame is looked at."""
    image = open_animation(source, name)
    count, seconds = frames_in(image, name), 0.0
    with naming(name, BrokenVideoError, "is damaged behind its first frame"):
        for number in range(count):
            image.seek(number)
            if image.format == "WEBP":  # which alone tells when it decodes
                image.load()
            seconds += float(image.info.get("duration") or 0) / 1000 or WITHOUT_DELAY
    return seconds, count


def numbered(paths: Iterable[Path]) -> list[Path]:
    """Pictures whose names end in numbers, in the order of these; empty if any other file is among them but :data:`RATE_FILE`."""
    pictures = [path for path in paths if path.name != RATE_FILE]
    found = {path: _NUMBERED.fullmatch(path.stem) for path in pictures}
    if not all(match and path.suffix.lower() in STILLS for path, match in found.items()):
        return []
    if len({(match[1], path.suffix) for path, match in found.items() if match}) > 1:
        return []
    return sorted(pictures, key=lambda path: int(match[2]) if (match := found[path]) else 0)


def frame_files(folder: Path, name: str) -> tuple[list[Path], float | None]:
    """The pictures of a folder of frames in their order, and their rate if the folder tells it.

    Raises:
        BrokenVideoError: if it is no such folder.
    """
    with naming(name, BrokenVideoError, "cannot be read as frames"):
        files = numbered(path for path in folder.iterdir() if not path.name.startswith("."))
    if not files:
        raise BrokenVideoError(f"{name} is a folder of other files than frames, which are pictures numbered as 0000.png, 0001.png, ...")
    rate_file = folder / RATE_FILE
    return files, _rate(rate_file) if rate_file.is_file() else None


def _rate(path: Path) -> float:
    with naming(str(path), BrokenVideoError, "is not the rate of frames"):
        described = json.loads(path.read_bytes())
        rate = described.get("frame_rate") if isinstance(described, Mapping) else None
        if not isinstance(rate, int | float) or not 0 < rate < 1e6:
            raise BrokenVideoError(f'{path} should hold frames a second, as {{"frame_rate": 8}}, not {described!r:.80}')
    return float(rate)


def folder_frames(folder: Path, name: str, rate: float, background: str) -> Iterator[Shown]:
    """The frames of a folder, at its own rate, or at ``rate`` if it tells none."""
    files, own = frame_files(folder, name)
    for number, path in enumerate(files):
        yield Shown(number / (own or rate), (number + 1) / (own or rate), partial(_picture, path, str(path), background))


def still_size(source: bytes | Path, name: str) -> tuple[int, int]:
    """Width and height of a picture, from its header."""
    try:
        with open_image(source, name) as image:
            return image.size
    except BrokenImageError as error:
        raise BrokenVideoError(str(error)) from error
