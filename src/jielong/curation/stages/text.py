"""Text in the picture: subtitles, titles and watermarks, read by RapidOCR with the models in its wheel."""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

import numpy as np
from pydantic import Field

from jielong.config.registry import Config
from jielong.curation.ranges import Measure, Values
from jielong.curation.stages.base import ClipFrames, ClipStage, Pixels, opencv
from jielong.media.reading.libraries import library


class TextSettings(Config):
    """How text is looked for.

    Attributes:
        size: The shorter side to which frames are reduced, and the least to which small ones are enlarged, in pixels.
        frames: Frames a clip that are read, evenly spaced among those that are measured.
        confidence: The least confidence with which a line must be read to count; lower ones are shapes that only look like text.
    """

    size: int = Field(default=320, ge=64)
    frames: int = Field(default=3, ge=1)
    confidence: float = Field(default=0.5, ge=0, le=1)


class TextArea(ClipStage):
    """Drops clips by the share of the picture that lines of text cover."""

    name = "text"
    about = "clips with text in the picture"
    measures = (Measure("text_area", "", "largest share of a frame that text covers", "too little text", "text in the picture"),)

    def __init__(self, settings: TextSettings) -> None:
        self.settings = settings

    def check(self) -> None:
        """RapidOCR and the ONNX Runtime."""
        for name in ("rapidocr", "onnxruntime"):
            library(name, "curate", "text in clips")

    def measure(self, clip: ClipFrames) -> Values:
        """The greatest share among the frames that are read."""
        frames = list(clip.large)
        places = np.linspace(0, len(frames) - 1, min(self.settings.frames, len(frames))).round().astype(int)
        return {"text_area": max(self._share(frames[place]) for place in dict.fromkeys(places.tolist()))}

    def _share(self, frame: Pixels) -> float:
        """The share of pixels within the outlines of lines."""
        cv2, reader = opencv(), _reader(self.settings.size, self.settings.confidence)
        boxes = reader(frame[:, :, ::-1].copy(), use_det=True, use_cls=False, use_rec=True).boxes
        covered = np.zeros(frame.shape[:2], np.uint8)
        for box in [] if boxes is None else boxes:
            cv2.fillPoly(covered, [np.asarray(box).round().astype(np.int32)], 1)
        return float(covered.mean())


@functools.lru_cache(maxsize=1)
def _reader(size: int, confidence: float) -> Any:
    """RapidOCR on one thread: loading its models takes seconds."""
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    options = {
        "Global.text_score": confidence,
        "Global.use_cls": False,
        "Global.log_level": "error",
        "Det.limit_side_len": size,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return importlib.import_module("rapidocr").RapidOCR(params=options)
