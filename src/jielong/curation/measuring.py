"""Measure a file: it is cut into clips, and each clip is measured as far as any set still keeps it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from jielong.curation.funnel import BROKEN, applied, clip_stages, limiting, live_sets
from jielong.curation.ranges import Fault, Values
from jielong.curation.records import ClipRecord, FileRecord
from jielong.curation.rules import Rules
from jielong.curation.shots import ShotFinder, Span
from jielong.curation.stages.base import ClipFrames, Pair, Pixels, opencv, reduced
from jielong.curation.stages.duplicates import Duplicates
from jielong.curation.stages.length import Length
from jielong.curation.stages.metadata import Metadata
from jielong.curation.stages.motion import Motion
from jielong.curation.stages.text import TextArea
from jielong.media.reading.faults import BrokenVideoError
from jielong.media.reading.timeline import Shown
from jielong.media.reading.video import read_header, shown_frames

STRIP_HEIGHT, STRIP_FRAMES = 72, 4
"""Of the small pictures that reports show."""
_REASONS = (
    # what the reader's message says -> the reason of the report
    ("is empty", "empty file"),
    ("no stream of pictures", "no picture stream"),
    ("holds no picture", "no picture"),
    ("cut off", "cut off"),
    ("is damaged", "damaged"),
    ("too large", "too large"),
)


@dataclass(frozen=True)
class Measured:
    """The record of a file, and a strip of frames of each of its clips, or of the file where it was not cut, as WebP."""

    record: FileRecord
    strips: tuple[bytes, ...]


@dataclass(frozen=True)
class Clip:
    """A file to be measured.

    Attributes:
        path: Where it is.
        name: For messages.
        caption: Of the file.
    """

    path: Path
    name: str
    caption: str | None = None


def measure_file(clip: Clip, rules: Rules) -> Measured:
    """Cut and measure a file. A file that cannot be read gives a record with its fault."""
    try:
        with one_thread():
            return _Measuring(clip, rules).run()
    except BrokenVideoError as error:
        text = str(error)
        reason = next((reason for words, reason in _REASONS if words in text), "not readable as a video")
        return Measured(FileRecord(Fault(BROKEN, reason, text)), ())


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread, since files are measured side by side, and so that the same numbers come out everywhere."""
    cv2 = opencv()
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class _Measuring:
    """The measuring of one file."""

    def __init__(self, clip: Clip, rules: Rules) -> None:
        self.clip, self.rules = clip, rules
        needed = {stage.name for stage in applied(rules)}
        self.with_pairs, self.with_text = Motion.name in needed, TextArea.name in needed
        self.stages = [stage for stage in clip_stages(rules) if stage.name in needed]
        self.times: list[float] = []

    def run(self) -> Measured:
        path, name = self.clip.path, self.clip.name
        header = read_header(path, name)
        first = next(self._frames())
        picture = _pixels(first)
        width, height = _upright(picture, first.pixel)
        spans = None if header.rate and header.seconds else self._spans()
        rate = header.rate or len(self.times[:-1]) / max(self.times[-1], 1e-9)
        values = self._metadata(header.seconds or self.times[-1], rate, width, height)
        sets = live_sets(self.rules, list(self.rules.sets), Metadata(), values)
        about = FileRecord(None, header.kind, width, height, rate, sound=header.sound, values=values)
        if not sets:
            return Measured(about, (_strip([picture]),))
        spans = self._spans() if spans is None else spans
        clips, strips = [], []
        for span, frames in self._clip_frames(spans):
            clips.append(self._measure(span, frames, sets))
            strips.append(_strip(frames.stills))
        return Measured(replace(about, varies=_varies(self.times), clips=tuple(clips)), tuple(strips))

    def _frames(self) -> Iterator[Shown]:
        return shown_frames(self.clip.path, self.clip.name)

    def _metadata(self, seconds: float, rate: float, width: int, height: int) -> Values:
        pixels = max(1.0, seconds * rate) * width * height
        return {
            "frame_rate": rate,
            "short_side": min(width, height),
            "aspect": width / height,
            "bits_per_pixel": 8 * _size(self.clip.path) / pixels,
        }

    def _spans(self) -> list[Span]:
        """The clips of the file; every frame is decoded, and its time noted."""
        finder = ShotFinder(self.rules.shots)
        self.times, end = [], 0.0
        for shown in self._frames():
            self.times.append(shown.start)
            end = shown.end
            if self.rules.shots.detector != "none":
                finder.add(reduced(_pixels(shown), self.rules.size), shown.start)
            else:
                finder.skip(shown.start)
        self.times.append(end)
        return finder.spans(self.times)

    def _clip_frames(self, spans: Sequence[Span]) -> Iterator[tuple[Span, ClipFrames]]:
        """Each clip with the frames that are looked at; those of one clip at a time are in memory."""
        frames = enumerate(self._frames())
        for span in spans:
            stills = _spaced(span.first, span.stop - 1, self.rules.frames)
            pairs = self._pairs(span) if self.with_pairs else []
            paired = {frame for pair in pairs for frame in pair}
            small: dict[int, Pixels] = {}
            large: dict[int, Pixels] = {}
            moving: dict[int, Pixels] = {}
            for number, shown in frames:
                if number in stills or number in paired:
                    pixels = _pixels(shown)
                    if number in stills:
                        small[number] = reduced(pixels, self.rules.size)
                        large |= {number: reduced(pixels, self.rules.text.size)} if self.with_text else {}
                    if number in paired:
                        moving[number] = reduced(pixels, self.rules.motion.size)
                if number == span.stop - 1:
                    break
            found = [Pair(moving[a], moving[b], self.times[b] - self.times[a]) for a, b in pairs]
            yield span, ClipFrames([small[n] for n in stills], [large[n] for n in stills if n in large], found, self.clip.caption)

    def _pairs(self, span: Span) -> list[tuple[int, int]]:
        """Frames of a clip that are at least an interval apart; its first and last one where it is shorter."""
        interval, last = self.rules.motion.interval - 1e-6, span.stop - 1
        if self.times[last] <= self.times[span.first]:
            return []
        starts = np.searchsorted(self.times[span.first : span.stop], self.times[last] - interval, side="right")
        if not starts:
            return [(span.first, last)]
        pairs = []
        for start in dict.fromkeys(_spaced(span.first, span.first + int(starts) - 1, self.rules.motion.pairs)):
            place = int(np.searchsorted(self.times[start : span.stop], self.times[start] + interval))
            pairs.append((start, min(start + max(1, place), last)))
        return [(first, second) for first, second in pairs if self.times[second] > self.times[first]]

    def _measure(self, span: Span, frames: ClipFrames, sets: Sequence[str]) -> ClipRecord:
        """The values of a clip, stage by stage as long as a set keeps it."""
        values: Values = {"duration": span.seconds, "frames": span.frames}
        live = live_sets(self.rules, sets, Length(), values)
        for stage in self.stages:
            if any(limiting(self.rules, live, stage)):
                values |= stage.measure(frames)
                live = live_sets(self.rules, live, stage, values)
        hashes = Duplicates.hashes(frames.stills) if any(limiting(self.rules, live, Duplicates())) else None
        return ClipRecord(span, values, hashes)


def _size(path: Path) -> int:
    """Bytes of a file, or of the files of a folder of frames."""
    return sum(each.stat().st_size for each in path.iterdir()) if path.is_dir() else path.stat().st_size


def _pixels(shown: Shown) -> Pixels:
    """A frame ``(H, W, 3)`` in RGB."""
    return np.asarray(shown.picture().convert("RGB"))


def _upright(picture: Pixels, pixel: float) -> tuple[int, int]:
    """Width and height of an upright picture with square pixels."""
    height, width = picture.shape[:2]
    return (round(width * pixel), height) if pixel >= 1 else (width, round(height / pixel))


def _spaced(first: int, last: int, count: int) -> list[int]:
    """``count`` frames from ``first`` to ``last``, each at the middle of its share; repeated where there are fewer."""
    return [first + math.floor((last - first + 1) * (place + 0.5) / count) for place in range(count)]


def _varies(times: Sequence[float]) -> bool:
    """Whether frames are shown for times that differ by more than half, the last one left out."""
    shown = np.diff(times[:-1])
    return len(shown) > 1 and bool(shown.max() > 1.5 * max(shown.min(), 1e-9))


def _strip(stills: Sequence[Pixels]) -> bytes:
    """Small frames side by side."""
    resize: Callable[..., Pixels] = opencv().resize
    places = dict.fromkeys(np.linspace(0, len(stills) - 1, min(STRIP_FRAMES, len(stills))).round().astype(int).tolist())
    small = []
    for place in places:
        height, width = stills[place].shape[:2]
        size = (max(1, min(4 * STRIP_HEIGHT, round(width * STRIP_HEIGHT / height))), STRIP_HEIGHT)
        small.append(resize(stills[place], size, interpolation=opencv().INTER_AREA))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(small, axis=1)).save(buffer, "WEBP", quality=70, method=2)
    return buffer.getvalue()
