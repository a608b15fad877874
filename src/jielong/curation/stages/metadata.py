"""Metadata of files: frame rate, size, aspect and bits a pixel, before any frame but the first is decoded."""

from __future__ import annotations

from typing import ClassVar, Literal

from jielong.config.registry import Config
from jielong.curation.ranges import Measure, Range
from jielong.curation.stages.base import Stage


class MetadataLimits(Config):
    """Limits of whole files.

    Attributes:
        frame_rate: Frames a second, on average where it varies.
        short_side: The shorter side of the upright picture in pixels.
        aspect: Width over height of the upright picture.
        bits_per_pixel: Bits of the file, sound included, a pixel of its frames.
    """

    frame_rate: Range | None = None
    short_side: Range | None = None
    aspect: Range | None = None
    bits_per_pixel: Range | None = None


class Metadata(Stage):
    """Drops files by what they say of themselves."""

    name = "metadata"
    of: ClassVar[Literal["files", "clips"]] = "files"
    about = "files of another frame rate, size, aspect or compression"
    measures = (
        Measure("frame_rate", "frames/s", "frames a second, on average", "frame rate too low", "frame rate too high"),
        Measure("short_side", "px", "shorter side of the upright picture", "picture too small", "picture too large"),
        Measure("aspect", "", "width over height", "picture too tall", "picture too wide"),
        Measure("bits_per_pixel", "", "bits of the file a pixel", "compressed too much", "compressed too little", log=True),
    )
