"""Brightness: black, faded and overexposed clips."""

from __future__ import annotations

import numpy as np

from jielong.curation.ranges import Measure, Values
from jielong.curation.stages.base import ClipFrames, ClipStage, grey, opencv


class Brightness(ClipStage):
    """Drops dark and bright clips by the mean of their grey values."""

    name = "brightness"
    about = "black, faded and overexposed clips"
    measures = (Measure("brightness", "", "mean grey value, 0 black to 1 white", "too dark", "too bright"),)

    def check(self) -> None:
        """OpenCV."""
        opencv()

    def measure(self, clip: ClipFrames) -> Values:
        """The mean over frames and pixels, in [0, 1]."""
        return {"brightness": float(np.mean([grey(frame).mean() for frame in clip.stills])) / 255}
