"""Encoding of clips that builders draw: animated lossless WebP."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

METHOD = 4
"""Effort of the encoder; higher ones take ten times as long for a fifth of the size."""


def animation(frames: npt.NDArray[np.uint8], frame_rate: float) -> bytes:
    """A clip as a lossless animated WebP; the same frames give the same bytes.

    Equal frames in succession are stored as one that is shown longer, as readers by time expect.

    Args:
        frames: ``(T, H, W)`` grey or ``(T, H, W, 3)`` RGB.
        frame_rate: Frames a second, whose duration is a whole number of milliseconds: the unit of the format.

    Raises:
        ValueError: if it is not.
    """
    milliseconds = 1000 / frame_rate
    if milliseconds != round(milliseconds):
        raise ValueError(f"frames of WebP last whole milliseconds, not {milliseconds:g}: take 8, 10, 12.5 or 25 frames a second")
    first, *others = (Image.fromarray(frame).convert("RGB") for frame in frames)
    buffer = io.BytesIO()
    first.save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=round(milliseconds),
        lossless=True,
        quality=100,
        method=METHOD,
        minimize_size=True,
    )
    return buffer.getvalue()
