"""Containers of video (MP4, WebM, Matroska, QuickTime, AVI, ...) by FFmpeg's libraries: frames with their times."""

from __future__ import annotations

import io
import itertools
import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from PIL import Image

from jielong.media.reading.containers import whole
from jielong.media.reading.faults import BrokenAudioError, BrokenVideoError, naming, refuse_large
from jielong.media.reading.libraries import library
from jielong.media.reading.pictures import read_image
from jielong.media.reading.timeline import Shown

SUFFIXES = frozenset(
    f".{kind}" for kind in ["mp4", "m4v", "webm", "mkv", "mov", "avi", "mpg", "mpeg", "ts", "m2ts", "wmv", "flv", "ogv", "3gp"]
)
"""Endings of files that are read here."""
_DEMUXERS = "asf,avi,flv,matroska,mov,mpeg,mpegts,mpegvideo,ogg"
"""Formats that FFmpeg may open. Others, such as playlists, open further files and addresses."""
_FRAME_BYTES = 8
"""Of a pixel while a frame is converted: as decoded, in RGB, and as a picture."""
_HIGH = 720
"""Rows from which an unmarked video has the colours of BT.709, and those of BT.601 below, as players assume."""
_SPACES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}
"""Matrix coefficients of ITU-T H.273 by their names in PyAV; others say nothing of them."""
_CLEAR = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read transparency, by coding."""
_USUAL_RATE = 25.0
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}

Source = bytes | Path


@contextmanager
def opened(source: Source, name: str) -> Iterator[tuple[Any, Any]]:
    """A container and its first stream of pictures, after its structure was checked; covers of sound are none.

    Raises:
        BrokenVideoError: if it is cut off, holds no stream of pictures, or frames take more memory than one file may.
        MissingLibraryError: without the extra ``video``.
    """
    av = library("av", "video", "video")
    with ExitStack() as stack:
        if isinstance(source, bytes):
            _refuse_cut(source, name)
            file: Any = io.BytesIO(source)
        else:
            file = stack.enter_context(open(source, "rb"))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                _refuse_cut(mapped, name)
        options = {"format_whitelist": _DEMUXERS}
        container = stack.enter_context(av.open(file, metadata_errors="replace", options=options))
        covers = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not streams:
            sound = ", only sound; set data.kind to audio to read that" if container.streams.audio else ""
            raise BrokenVideoError(f"{name} cannot be read as a video: it holds no stream of pictures{sound}")
        if streams[0].codec_context is None:
            raise BrokenVideoError(f"{name} cannot be read as a video: no decoder knows the coding in this {container.format.name} file")
        _refuse_large_frame(name, streams[0].codec_context.width, streams[0].codec_context.height)
        yield container, streams[0]


def _refuse_cut(data: bytes | mmap.mmap, name: str) -> None:
    try:
        whole(cast(bytes, data), name)  # of which it reads slices
    except BrokenAudioError as error:  # containers of both are checked there
        raise BrokenVideoError(str(error)) from None


def _refuse_large_frame(name: str, width: int, height: int) -> None:
    refuse_large(name, f"a frame of {width:,} x {height:,} pixels", width * height * _FRAME_BYTES, BrokenVideoError)


def duration_of(container: Any, stream: Any) -> float | None:
    """Seconds of a stream, or of its container; ``None`` where the file does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / library("av").time_base if container.duration else None


def stream_frames(source: Source, name: str, begin: float, background: str) -> Iterator[Shown]:
    """Frames of a container, from a key frame at ``begin`` seconds or before.

    Raises:
        BrokenVideoError: as :func:`opened`, or where it is damaged.
    """
    with naming(name, BrokenVideoError, "cannot be read as a video"), opened(source, name) as (container, stream):
        origin = None if stream.start_time is None else float(stream.start_time * stream.time_base)
        if begin > 0 and origin is not None:
            container.seek(int((origin + begin) / stream.time_base), stream=stream, backward=True)
            frames = _timed(container, stream, name, origin, background)
            head = _head(frames)
            if head is not None and head.start <= begin:
                yield from itertools.chain((head,), frames)
                return
    # Some containers have no index, so that seeking ends behind the place.
    with naming(name, BrokenVideoError, "cannot be read as a video"), opened(source, name) as (container, stream):
        yield from _timed(container, stream, name, origin, background)


def _head(frames: Iterator[Shown]) -> Shown | None:
    """The first frame behind the place that was sought; ``None`` where there is none, though the file may have frames."""
    try:
        return next(frames, None)
    except BrokenVideoError:
        return None


def _timed(container: Any, stream: Any, name: str, origin: float | None, background: str) -> Iterator[Shown]:
    """Decoded frames, each from its time until that of the next, in seconds from ``origin``, the first one by default."""
    usual = 1 / float(stream.average_rate or stream.guessed_rate or _USUAL_RATE)
    before: Any = None
    start = 0.0
    for number, frame in enumerate(_decoded(container, stream, name)):
        _refuse_large_frame(name, frame.width, frame.height)
        stamp = None if frame.pts is None else float(frame.pts * frame.time_base)
        origin = stamp if origin is None else origin
        at = start + usual * (before is not None) if stamp is None or origin is None else stamp - origin
        if before is not None:
            at = max(at, start)
            yield _shown(before, start, at, f"{name}, frame {number}", stream, background)
        before, start = frame, at
    if before is None:
        raise BrokenVideoError(f"{name} holds no picture: it has a header, and no frame that can be decoded")
    length = float(before.duration * before.time_base) if before.duration else usual
    yield _shown(before, start, start + length, f"{name}, last frame", stream, background)


def _decoded(container: Any, stream: Any, name: str) -> Iterator[Any]:
    count = 0
    try:
        for frame in _with_transparency(container, stream) if _is_clear(stream) else container.decode(stream):
            yield frame
            count += 1
    except Exception as error:
        if not count:
            raise
        with naming(name, BrokenVideoError, f"is cut off or damaged behind its first {count:,} frames"):
            raise error


def _is_clear(stream: Any) -> bool:
    """Whether transparency lies beside the pictures, where the usual decoders do not look (WebM's ``AlphaMode``)."""
    marks = {key.lower(): value for key, value in stream.metadata.items()}
    return marks.get("alpha_mode") == "1" and stream.codec_context.name in _CLEAR


def _with_transparency(container: Any, stream: Any) -> Iterator[Any]:
    decoder = library("av", "video", "video").CodecContext.create(_CLEAR[stream.codec_context.name], "r")
    for packet in container.demux(stream):
        yield from decoder.decode(packet if packet.size else None)


def _shown(frame: Any, start: float, end: float, name: str, stream: Any, background: str) -> Shown:
    pixel = float(stream.sample_aspect_ratio or 1)
    turn = round(frame.rotation) % 360
    return Shown(start, end, partial(_picture, frame, turn, name, background), 1 / pixel if turn in (90, 270) else pixel)


def _picture(frame: Any, turn: int, name: str, background: str) -> Image.Image:
    """A frame in RGB, upright, over a background."""
    clear = any(component.is_alpha for component in frame.format.components)
    space = _SPACES.get(int(frame.colorspace), "ITU709" if frame.height >= _HIGH else "ITU601")
    array = frame.to_ndarray(format="rgba" if clear else "rgb24", src_colorspace=space, threads=1)
    image = read_image(Image.fromarray(array), name, background=background)
    if turn not in (0, *_TURNS):
        return image.rotate(turn, Image.Resampling.BICUBIC, expand=True, fillcolor=background)
    return image.transpose(_TURNS[turn]) if turn else image
