"""Videos: any file or folder of frames to 8-bit RGB pictures at a frame rate, decoded frame by frame within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from jielong.media.reading.animations import (
    ANIMATED,
    animation_frames,
    animation_seconds,
    folder_frames,
    frame_files,
    is_animation,
    open_animation,
    still_size,
)
from jielong.media.reading.faults import BrokenVideoError, naming, refuse_large
from jielong.media.reading.pictures import WHITE
from jielong.media.reading.streams import SUFFIXES as CONTAINERS
from jielong.media.reading.streams import duration_of, opened, stream_frames
from jielong.media.reading.timeline import Shown, frames_at, sampled

SUFFIXES = CONTAINERS | ANIMATED
"""Of files that are taken for videos."""
_MARK = 16
_USUAL_RATE = 25.0

Source = bytes | Path
Fitted = Callable[[Image.Image, float], Tensor]
"""A frame and the width over height of its pixels, to ``(C, H, W)`` uint8."""


@dataclass(frozen=True)
class Part:
    """A part of a long video.

    Attributes:
        source: The whole.
        first: Number of its first frame at the rate at which it is read.
    """

    source: Source
    first: int


@dataclass(frozen=True)
class Header:
    """What a video says of itself.

    Attributes:
        width: Columns of a frame as stored.
        height: Rows of a frame as stored.
        seconds: Duration; ``None`` where only decoding tells.
        rate: Frames a second on average; ``None`` where it does not say.
        frames: Frames in the file; ``None`` where it does not say.
        kind: ``mp4 h264``, ``GIF``, ``folder``, ...
        sound: Whether there is sound beside the pictures.
    """

    width: int
    height: int
    seconds: float | None
    rate: float | None
    frames: int | None
    kind: str
    sound: bool = False


def check_clip(source: Source, name: str = "") -> None:
    """Check a file or a folder of frames as far as it goes without decoding.

    Raises:
        BrokenVideoError: if it is no video, cut off, without pictures, or too large.
        MissingLibraryError: of containers without the extra ``video``.
    """
    name = name or ("a video" if isinstance(source, bytes) else str(source))
    if isinstance(source, Path) and source.is_dir():
        still_size((first := frame_files(source, name)[0][0]), str(first))
    elif is_animation(_head(source, name)):
        open_animation(source, name).close()
    else:
        with naming(name, BrokenVideoError, "cannot be read as a video"), opened(source, name):
            return


def read_header(source: Source, name: str = "") -> Header:
    """Size, duration and rate of a file or a folder of frames; nothing is decoded but animated pictures' delays.

    Raises:
        BrokenVideoError: as :func:`check_clip`.
        MissingLibraryError: of containers without the extra ``video``.
    """
    name = name or ("a video" if isinstance(source, bytes) else str(source))
    if isinstance(source, Path) and source.is_dir():
        files, rate = frame_files(source, name)
        seconds = None if rate is None else len(files) / rate
        return Header(*still_size(files[0], str(files[0])), seconds, rate, len(files), "folder")
    if is_animation(_head(source, name)):
        with open_animation(source, name) as image:
            width, height, form = image.width, image.height, image.format
        seconds, count = animation_seconds(source, name)
        return Header(width, height, seconds, count / seconds, count, str(form))
    with naming(name, BrokenVideoError, "cannot be read as a video"), opened(source, name) as (container, stream):
        context, seconds = stream.codec_context, duration_of(container, stream)
        rate, form = stream.average_rate or stream.guessed_rate, container.format.name.partition(",")[0]
        return Header(
            context.width,
            context.height,
            seconds,
            None if not rate else float(rate),
            stream.frames or None,
            f"{form} {context.name}",
            bool(container.streams.audio),
        )


def count_frames(source: Source, name: str, rate: float) -> int:
    """Frames of a whole video at a rate: by its duration, or by decoding it where it does not tell.

    Raises:
        BrokenVideoError: as :func:`read_clip`.
    """
    seconds = read_header(source, name).seconds
    return sum(1 for _ in sampled(_shown(source, name, rate, 0, WHITE), rate)) if seconds is None else frames_at(seconds, rate)


def read_clip(
    source: Source,
    name: str,
    *,
    rate: float,
    fitted: Fitted,
    first: int = 0,
    count: int | None = None,
    background: str = WHITE,
) -> Tensor:
    """Frames of a video at ``k / rate`` seconds, for ``k`` from ``first`` on.

    Args:
        source: The bytes of a file, its path, or a folder of numbered pictures.
        name: For messages.
        rate: Frames a second; frames of a folder that tells no rate have this one.
        fitted: Crops and resizes a frame.
        first: Number of the first frame at that rate.
        count: How many at most; all by default.
        background: The colour behind what is transparent.

    Returns:
        ``(C, T, H, W)`` uint8.

    Raises:
        BrokenVideoError: if it is no video, damaged, without pictures, or the frames take more memory than one file may, or there is none
            from ``first`` on.
        MissingLibraryError: of containers without the extra ``video``.
    """
    found: list[Tensor] = []
    before: Shown | None = None
    for shown in sampled(_shown(source, name, rate, first, background), rate, first, count):
        if shown is not before:
            with naming(name, BrokenVideoError, f"cannot be fitted at frame {len(found) + 1}"):
                found.append(fitted(shown.picture(), shown.pixel))
            before = shown
        else:
            found.append(found[-1])
        size = found[-1].numel()
        refuse_large(name, f"a video of {len(found):,} frames or more of {size:,} bytes", 2 * len(found) * size, BrokenVideoError)
    if not found:
        raise BrokenVideoError(f"{name} ends before its frame {first + 1} at {rate:g} frames a second")
    return torch.stack(found, dim=1)


def shown_frames(source: Source, name: str, begin: float = 0.0, background: str = WHITE) -> Iterator[Shown]:
    """Frames of a file or a folder of frames as they are stored, each with its time; a folder that tells no rate has 25 a second.

    A frame's picture must be converted before the next frame is taken. The first frame is one that is shown at ``begin`` seconds or
    before; all are given by default.

    Raises:
        BrokenVideoError: as :func:`read_clip`.
    """
    return _shown(source, name, _USUAL_RATE, math.floor(begin * _USUAL_RATE), background)


def _shown(source: Source, name: str, rate: float, first: int, background: str) -> Iterator[Shown]:
    """Frames of any source, from one that is not shown later than ``first / rate``."""
    if isinstance(source, Path) and source.is_dir():
        return folder_frames(source, name, rate, background)
    if is_animation(_head(source, name)):
        return animation_frames(source, name, background)
    return stream_frames(source, name, first / rate, background)


def _head(source: Source, name: str) -> bytes:
    if isinstance(source, bytes):
        head = source[:_MARK]
    else:
        with naming(name, BrokenVideoError, "cannot be read"), open(source, "rb") as file:
            head = file.read(_MARK)
    if not head:
        raise BrokenVideoError(f"{name} is empty: a file of no bytes")
    return head
