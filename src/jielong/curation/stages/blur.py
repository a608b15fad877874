"""Blur: the variance of the Laplacian (Pech-Pacheco et al. 2000)."""

from __future__ import annotations

import numpy as np

from jielong.curation.ranges import Measure, Values
from jielong.curation.stages.base import ClipFrames, ClipStage, grey, opencv


class Blur(ClipStage):
    """Drops clips without detail by the variance of the Laplacian of their grey values."""

    name = "blur"
    about = "clips without detail"
    measures = (Measure("sharpness", "", "variance of the Laplacian of grey values", "blurred", "too much fine detail", log=True),)

    def check(self) -> None:
        """OpenCV."""
        opencv()

    def measure(self, clip: ClipFrames) -> Values:
        """The median over frames."""
        cv2 = opencv()
        return {"sharpness": float(np.median([cv2.Laplacian(grey(frame), cv2.CV_64F).var() for frame in clip.stills]))}
