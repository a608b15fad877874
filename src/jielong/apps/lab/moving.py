"""Moving digits at a small size, as clips and as sets to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.core.json import JSON
from jielong.data.moving_digits import RATE, MovingDigits
from jielong.data.opening import shipped_path
from jielong.data.splits import Split
from jielong.data.table import write_table
from jielong.media.images import encode
from jielong.media.video import encode_video, pictures_of


def moving_digits(count: int, split: Split, size: int, frames: int) -> Tensor:
    """The first clips of a split of `digits`, ``(count, 1, frames, size, size)`` in [-1, 1]; averaged over squares of pixels."""
    counts = (count, 0) if split == "train" else (0, count)
    source = MovingDigits(shipped_path("digits", "digits"), counts=counts)
    clips = torch.from_numpy(np.stack([source.pixels(index)[:frames] for index in range(count)])).float() / 127.5 - 1
    return F.adaptive_avg_pool2d(clips, size)[:, None]


def write_clips(path: Path, clips: Tensor) -> Path:
    """Clips ``(n, 1, T, S, S)`` as a set of grey videos, in a Parquet file."""
    rows: list[JSON] = [
        {"video": encode_video(clip, RATE, ".gif"), "caption": "moving digits", "kind": "digits", "name": f"{index:06d}"}
        for index, clip in enumerate(clips)
    ]
    frames, size = clips.shape[2], clips.shape[-1]
    write_table(
        path, rows, item="video", caption="caption", label="kind", key=["name"], size=size, channels=1, frames=frames, frame_rate=RATE
    )
    return path


def write_pictures(path: Path, clips: Tensor) -> Path:
    """The frames of clips ``(n, 1, T, S, S)`` as a set of grey pictures, in a Parquet file."""
    pictures = [picture for clip in clips for picture in pictures_of(clip)]
    rows: list[JSON] = [
        {"image": encode(picture), "caption": "digits", "kind": "digits", "name": f"{index:06d}"} for index, picture in enumerate(pictures)
    ]
    write_table(path, rows, item="image", caption="caption", label="kind", key=["name"], size=clips.shape[-1], channels=1)
    return path
