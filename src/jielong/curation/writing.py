"""Write clips: a file that is one clip is copied as it is, and a part of one is encoded again, exactly from its first to its last frame.

Cutting without encoding would have to begin at a key frame, and so show frames of the shot before. Parts are H.264 in MP4 with the times of
their frames, so that a varying frame rate stays; sound is copied without encoding, as far as its packets lie within the clip.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jielong.core.files import new_folder, replacing, write_bytes
from jielong.curation.shots import Span
from jielong.media.reading.libraries import library
from jielong.media.reading.streams import opened
from jielong.media.reading.timeline import Shown
from jielong.media.reading.video import shown_frames
from jielong.media.video import coding_of

SUFFIX = ".mp4"
_CLOCK = Fraction(1, 90_000)
"""Unit of the times of frames."""
_CLOSE = 1e-6
"""Seconds by which the same time may differ in two readings."""


@dataclass(frozen=True)
class Job:
    """A clip to be written.

    Attributes:
        source: The file, or the folder of frames, that it is in.
        name: For messages.
        target: Where it goes.
        span: Its frames; ``None`` for the whole file.
        sound: Whether the file has sound.
    """

    source: Path
    name: str
    target: Path
    span: Span | None
    sound: bool = False


def write_clip(job: Job) -> str:
    """Write a clip, whole or not at all; a clip that is there is kept.

    Returns:
        What is missing of it, also of one that is there; empty if nothing is.

    Raises:
        BrokenVideoError: if the file cannot be read any more.
        StorageError: if it cannot be written.
    """
    note = lost_note(job.target)
    if job.target.exists():
        return note.read_text("utf-8") if note.exists() else ""
    if job.span is not None:
        with replacing(job.target) as beside:
            try:
                lost = _cut(job, _sought(job, job.span), job.span, beside)
            except _MisplacedError:
                lost = _cut(job, _numbered(job, job.span), job.span, beside)
            if lost:
                write_bytes(note, lost.encode())
        return lost
    if job.source.is_dir():
        with new_folder(job.target) as folder:
            shutil.copytree(job.source, folder, dirs_exist_ok=True)
    else:
        with replacing(job.target, job.source.stat().st_size) as beside:
            shutil.copyfile(job.source, beside)
    return ""


def lost_note(target: Path) -> Path:
    """The file beside a clip that says what is missing of it."""
    return target.with_name(f"{target.name}.lost")


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file or for each file of a folder, which takes no space; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        for path in sorted(source.iterdir()):
            link_or_copy(path, target / path.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class _MisplacedError(Exception):
    """The times of frames differ from those of a reading from the start, as in files without an index."""


def _sought(job: Job, span: Span) -> Iterator[Shown]:
    """The frames of a clip by their times, from the key frame before it."""
    count = 0
    for shown in shown_frames(job.source, job.name, span.start):
        if shown.start < span.start - _CLOSE:
            continue
        if shown.start > (span.start if count == 0 else span.end) + _CLOSE:
            break
        count += 1
        yield shown
        if count == span.frames:
            return
    raise _MisplacedError


def _numbered(job: Job, span: Span) -> Iterator[Shown]:
    """The frames of a clip by their numbers, from the start of its file."""
    return itertools.islice(shown_frames(job.source, job.name), span.first, span.stop)


def _cut(job: Job, frames: Iterator[Shown], span: Span, target: Path) -> str:
    av = library("av", "video", "video")
    coding, options = coding_of(SUFFIX)
    with av.open(str(target), "w", format="mp4") as output:
        video: Any = None
        sound: _Sound | None = None
        stamp = -1
        for shown in frames:
            pixels = np.asarray(shown.picture().convert("RGB"))
            if video is None:
                video = _video_stream(av, output, coding, options, pixels, shown.pixel, span)
                sound = _Sound(av, output, job, span) if job.sound else None
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=video.pix_fmt, dst_colorspace="ITU601", threads=1)
            stamp = max(round((shown.start - span.start) / _CLOCK), stamp + 1)  # a frame that is shown for no time keeps its place
            frame.pts, frame.time_base = stamp, _CLOCK
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        return "" if sound is None else sound.copy()


def _video_stream(av: Any, output: Any, coding: str, options: dict[str, str], pixels: Any, pixel: float, span: Span) -> Any:
    height, width = pixels.shape[:2]
    rate = Fraction(span.frames / max(span.seconds, 1e-6)).limit_denominator(1001)
    stream = output.add_stream(coding, rate=max(rate, Fraction(1, 1001)), options=options)
    stream.width, stream.height, stream.thread_count, stream.time_base = width, height, 1, _CLOCK
    stream.codec_context.time_base = _CLOCK
    # The coder of H.264 halves colours of even sizes alone.
    stream.pix_fmt = "yuv420p" if (width % 2 == 0 and height % 2 == 0) or not coding.endswith("264") else "yuv444p"
    stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601
    if pixel != 1:
        stream.codec_context.sample_aspect_ratio = Fraction(pixel).limit_denominator(255)
    return stream


class _Sound:
    """Copies the packets of sound that begin within a clip."""

    def __init__(self, av: Any, output: Any, job: Job, span: Span) -> None:
        self.job, self.span, self.output, self.stream, self.fault = job, span, output, None, ""
        with opened(job.source, job.name) as (container, _):
            if not container.streams.audio:
                return
            try:
                self.stream = output.add_stream_from_template(container.streams.audio[0])
            except (av.FFmpegError, ValueError) as error:
                self.fault = f"sound, whose coding MP4 does not hold ({error})"

    def copy(self) -> str:
        """Copy them; what is missing."""
        if self.stream is None:
            return self.fault
        with opened(self.job.source, self.job.name) as (container, video):
            origin = 0.0 if video.start_time is None else float(video.start_time * video.time_base)
            begin, end = origin + self.span.start, origin + self.span.end
            audio = container.streams.audio[0]
            for packet in container.demux(audio):
                if packet.pts is None or not begin <= float(packet.pts * packet.time_base) < end:
                    continue
                shift = round(begin / packet.time_base)
                packet.pts -= shift
                packet.dts = packet.pts if packet.dts is None else packet.dts - shift
                packet.stream = self.stream
                self.output.mux(packet)
        return ""
