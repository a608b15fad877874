"""Frames of clips for losses of pictures: all of them, or some that are drawn for each clip in each step."""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.core.medium import Medium
from jielong.networks.dropout import streams_for

CLIP = 5
"""Axes of a batch of clips ``(B, C, T, H, W)``; pictures have four."""


def frames_of(media: Tensor, count: int | None) -> Tensor:
    """Pictures ``(B n, C, H, W)``: ``count`` frames of each clip ``(B, C, T, H, W)``, or all; pictures are returned unchanged.

    In a training step a clip's own random stream chooses them, the same in all calls of the step, whatever the batch; elsewhere they are
    evenly spaced.
    """
    if media.ndim != CLIP:
        return media
    frames = media.transpose(1, 2)  # (B, T, C, H, W)
    if count is not None and count < frames.shape[1]:
        rows = torch.arange(len(frames), device=media.device)[:, None]
        frames = frames[rows, chosen(len(frames), frames.shape[1], count, media.device)]
    return frames.flatten(0, 1)


def chosen(clips: int, frames: int, count: int, device: torch.device) -> Tensor:
    """Numbers of the frames that are compared, ``(B, count)`` long, ascending and different."""
    streams = streams_for("frames of losses", clips)
    if streams is None:
        places = ((torch.arange(count, device=device) + 0.5) * frames / count).long()
        return places.expand(clips, count)
    return streams.uniform(frames).argsort(dim=1)[:, :count].sort(dim=1).values.to(device)


def check_count(loss: str, count: int | None, medium: Medium) -> None:
    """Raise ``ValueError`` when ``frames`` has no effect, or a clip has fewer."""
    if count is None:
        return
    if not medium.timed:
        raise ValueError(f"losses.{loss}.frames: these are frames of a clip, and the data are {medium}: leave it out")
    if count > medium.frames:
        raise ValueError(
            f"losses.{loss}.frames: {count} of {medium.frames} frames of a clip cannot be drawn: choose {medium.frames} or fewer"
        )
