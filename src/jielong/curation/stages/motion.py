"""Motion by dense optical flow: clips in which nothing moves, and those in which everything does."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jielong.config.registry import Config
from jielong.curation.ranges import Measure, Values
from jielong.curation.stages.base import ClipFrames, ClipStage, Pair, grey, opencv, reduced


class MotionSettings(Config):
    """How motion is measured.

    Attributes:
        method: Dense optical flow of OpenCV: ``farneback`` (Farneback 2003), or ``dis`` (Kroeger et al. 2016), which is several times as
            fast and needs frames of at least 32 pixels a side.
        size: The shorter side to which frames are reduced for it.
        pairs: Pairs of frames a clip, evenly spaced.
        interval: Seconds between the frames of a pair; the next frame where frames are further apart.
    """

    method: Literal["farneback", "dis"] = "farneback"
    size: int = Field(default=128, ge=16)
    pairs: int = Field(default=8, ge=1)
    interval: float = Field(default=0.1, gt=0)


class Motion(ClipStage):
    """Drops clips by the mean length of their optical flow a second, so that neither size nor frame rate matters."""

    name = "motion"
    about = "clips that stand still, and those that shake or rush"
    measures = (Measure("motion", "%/s", "mean optical flow, % of the longer side a second", "too still", "too much motion", log=True),)
    SMALLEST = 32
    """Pixels of the shorter side below which ``dis`` has no levels to search."""

    def __init__(self, settings: MotionSettings) -> None:
        self.settings = settings

    def check(self) -> None:
        """OpenCV."""
        opencv()

    def measure(self, clip: ClipFrames) -> Values:
        """The mean over pairs; 0 for a clip of one frame."""
        return {"motion": float(np.mean([self._speed(pair) for pair in clip.pairs])) if clip.pairs else 0.0}

    def _speed(self, pair: Pair) -> float:
        first, second = (grey(reduced(frame, self.settings.size)) for frame in (pair.first, pair.second))
        length = np.linalg.norm(self._flow(first, second), axis=-1).mean()
        return float(length) / max(first.shape) / pair.seconds * 100

    def _flow(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Displacements ``(H, W, 2)`` in pixels."""
        cv2 = opencv()
        if self.settings.method == "dis" and min(first.shape) >= self.SMALLEST:
            return np.asarray(cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None))
        options = {"pyr_scale": 0.5, "levels": 4, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0}
        return np.asarray(cv2.calcOpticalFlowFarneback(first, second, None, **options))
