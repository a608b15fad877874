"""What a stage is: named measures of a file or a clip, and the library that measures them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from jielong.curation.ranges import Measure, Values
from jielong.media.reading.libraries import library

Pixels = NDArray[np.uint8]
"""A frame ``(H, W, 3)`` in RGB, 8 bits."""


@dataclass(frozen=True)
class Pair:
    """Two frames of a clip and the seconds between them."""

    first: Pixels
    second: Pixels
    seconds: float


@dataclass(frozen=True)
class ClipFrames:
    """The frames of a clip that stages look at.

    Attributes:
        stills: Evenly spaced frames, reduced to the size at which clips are measured.
        large: The same frames at the larger size at which text is read; empty where no set limits text.
        pairs: Evenly spaced pairs of frames, reduced as ``stills``; none for a clip of one frame.
        caption: Of the clip, or of the file that it is cut from.
    """

    stills: Sequence[Pixels]
    large: Sequence[Pixels] = ()
    pairs: Sequence[Pair] = ()
    caption: str | None = None


class Stage(ABC):
    """One filter of the funnel.

    Attributes:
        name: In rules and reports.
        of: What it drops, whole files or clips.
        about: What it drops, in a line.
        measures: What it measures.
    """

    name: ClassVar[str]
    of: ClassVar[Literal["files", "clips"]] = "clips"
    about: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]

    def check(self) -> None:  # noqa: B027 - most need nothing beyond the libraries of every stage
        """Check before the work that what it needs is there.

        Raises:
            MissingLibraryError: if a library is not installed.
            ValueError: if its settings cannot be used.
        """


class ClipStage(Stage):
    """A stage that measures frames."""

    @abstractmethod
    def measure(self, clip: ClipFrames) -> Values:
        """The values of a clip, one for each of :attr:`measures`."""


def opencv() -> ModuleType:
    """OpenCV, of the extra ``curate``.

    Raises:
        MissingLibraryError: if it is not installed.
    """
    return library("cv2", "curate", "curation")


def reduced(frame: Pixels, side: int) -> Pixels:
    """The frame with a shorter side of at most ``side`` pixels, averaged over areas; it is never enlarged."""
    height, width = frame.shape[:2]
    if min(height, width) <= side:
        return frame
    scale = side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    found: Pixels = opencv().resize(frame, size, interpolation=opencv().INTER_AREA)
    return found


def grey(frame: Pixels) -> Pixels:
    """The brightness of a frame, ``(H, W)``, by the weights of BT.601."""
    found: Pixels = opencv().cvtColor(frame, opencv().COLOR_RGB2GRAY)
    return found
