"""Length of clips in seconds and in frames."""

from __future__ import annotations

from jielong.config.registry import Config
from jielong.curation.ranges import Measure, Range
from jielong.curation.stages.base import Stage


class LengthLimits(Config):
    """Limits of the length of a clip.

    Attributes:
        duration: Seconds, from its first frame until its last one ends.
        frames: Frames as stored.
    """

    duration: Range | None = None
    frames: Range | None = None


class Length(Stage):
    """Drops clips that are too short or too long."""

    name = "length"
    about = "clips of another length"
    measures = (
        Measure("duration", "s", "seconds of the clip", "clip too short", "clip too long"),
        Measure("frames", "frames", "frames of the clip", "too few frames", "too many frames"),
    )
