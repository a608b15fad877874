"""Shots: a file is cut where the picture changes at once (PySceneDetect), and long shots into equal pieces."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any, Literal

from pydantic import Field

from jielong.config.registry import Config
from jielong.curation.stages.base import Pixels
from jielong.media.reading.libraries import library

_CLOCK = Fraction(1, 90_000)
"""Unit of the times that the detector is told: rates vary and headers may be wrong, so it never counts frames."""
_RATE = 25.0
"""That a time must be given with; nothing is computed by it."""


class ShotSettings(Config):
    """How files are cut into clips.

    Attributes:
        detector: ``adaptive`` compares each change with those around it, so that fast motion is no cut; ``content`` takes every change
            above the threshold; ``none`` takes each file as one shot.
        threshold: Of the detector, in PySceneDetect's units: its own default of 3 (adaptive) or 27 (content) by default.
        shortest: Seconds; a cut sooner after the one before, or after the start, is none.
        longest: Seconds; a longer shot becomes equal pieces of at most this length. Shots are not cut further by default.
    """

    detector: Literal["adaptive", "content", "none"] = "adaptive"
    threshold: float | None = Field(default=None, gt=0)
    shortest: float = Field(default=0.5, ge=0)
    longest: float | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class Span:
    """Frames ``first`` to ``stop`` (exclusive) of a file, shown from ``start`` to ``end`` seconds after its first frame."""

    first: int
    stop: int
    start: float
    end: float

    @property
    def frames(self) -> int:
        """How many."""
        return self.stop - self.first

    @property
    def seconds(self) -> float:
        """How long they are shown."""
        return self.end - self.start


class ShotFinder:
    """Finds the cuts of one file, frame by frame."""

    def __init__(self, settings: ShotSettings) -> None:
        self.settings, self._detector = settings, _detector(settings)
        self._stamps: list[int] = []
        self._cuts: set[int] = set()

    def add(self, frame: Pixels, start: float) -> None:
        """The next frame ``(H, W, 3)`` in RGB, which is shown from ``start`` seconds on."""
        self.skip(start)
        if self._detector is not None:
            self._note(self._detector.process_frame(self._last(), frame[:, :, ::-1].copy()))

    def skip(self, start: float) -> None:
        """Count a frame that is not looked at."""
        stamp = round(start / _CLOCK)
        self._stamps.append(max(stamp, self._stamps[-1] + 1) if self._stamps else stamp)

    def spans(self, times: Sequence[float]) -> list[Span]:
        """The clips of the file, in order, each frame in exactly one.

        Args:
            times: When each frame begins, in seconds, and at last when the last one ends: one more than there are frames.
        """
        if self._detector is not None:
            self._note(self._detector.post_process(self._last()))
        ends = [0, *sorted(self._cuts - {0}), len(self._stamps)]
        shots = [_span(first, stop, times) for first, stop in itertools.pairwise(ends)]
        return [piece for shot in shots for piece in _pieces(shot, times, self.settings.longest)]

    def _last(self) -> Any:
        """The time of the last frame."""
        timecode = library("scenedetect.common", "curate", "curation").Timecode(self._stamps[-1], _CLOCK)
        return _scenedetect().FrameTimecode(timecode, _RATE)

    def _note(self, cuts: Iterable[Any]) -> None:
        self._cuts.update(bisect.bisect_left(self._stamps, int(cut.pts)) for cut in cuts)


def check_detector(settings: ShotSettings) -> None:
    """Check before the work that the detector can be made.

    Raises:
        MissingLibraryError: without PySceneDetect.
    """
    _detector(settings)


def _scenedetect() -> ModuleType:
    return library("scenedetect", "curate", "curation")


def _detector(settings: ShotSettings) -> Any | None:
    if settings.detector == "none":
        return None
    chosen = {} if settings.threshold is None else {("adaptive_" * (settings.detector == "adaptive")) + "threshold": settings.threshold}
    kind = _scenedetect().AdaptiveDetector if settings.detector == "adaptive" else _scenedetect().ContentDetector
    return kind(min_scene_len=float(settings.shortest), **chosen)


def _span(first: int, stop: int, times: Sequence[float]) -> Span:
    return Span(first, stop, times[first], times[stop])


def _pieces(shot: Span, times: Sequence[float], longest: float | None) -> list[Span]:
    """The shot, or equal pieces of it of at most ``longest`` seconds, as near as its frames allow."""
    count = 1 if longest is None else min(shot.frames, math.ceil(shot.seconds / longest - 1e-6))
    if count <= 1:
        return [shot]
    ends = [shot.first]
    for piece in range(1, count):
        goal = shot.start + shot.seconds * piece / count
        frame = bisect.bisect_left(times, goal, shot.first, shot.stop)
        frame -= frame > 0 and goal - times[frame - 1] < times[frame] - goal
        ends.append(min(max(frame, ends[-1] + 1), shot.stop - (count - piece)))
    ends.append(shot.stop)
    return [_span(first, stop, times) for first, stop in itertools.pairwise(ends)]
