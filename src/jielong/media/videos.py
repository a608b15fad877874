"""Generated videos that save, show and play themselves."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from jielong.media.images import WRITTEN as IMAGES
from jielong.media.images import encode, sheet, write_image
from jielong.media.results import Results
from jielong.media.soundtrack import Soundtrack
from jielong.media.video import WRITTEN, encode_video, pictures_of, write_frames, write_video

SHEET_FRAMES = 16
"""Frames of a video in a row of a contact sheet; of longer ones as many, evenly spread from the first to the last."""
_GAP = 2
_LEAST_WIDTH = 128
"""Pixels that a player is wide at least."""


def strip(video: Tensor, scale: int = 1) -> Image.Image:
    """Frames of a video ``(C, T, H, W)`` in a row, up to :data:`SHEET_FRAMES`."""
    frames = video.shape[1]
    chosen = torch.linspace(0, frames - 1, min(frames, SHEET_FRAMES)).round().long()
    pictures = pictures_of(video[:, chosen])
    return sheet(pictures, len(pictures), padding=1, scale=scale)


@dataclass(frozen=True, eq=False)
class Video:
    """One video.

    Attributes:
        tensor: ``(C, T, H, W)`` float in [-1, 1].
        rate: Frames a second.
        caption: Its prompt.
        sound: What files of it hold beside the frames.
    """

    tensor: Tensor
    rate: float
    caption: str = ""
    sound: Soundtrack | None = None

    @property
    def frames(self) -> list[Image.Image]:
        """Its frames in 8 bits."""
        return pictures_of(self.tensor)

    @property
    def image(self) -> Image.Image:
        """Its frames in a row."""
        return strip(self.tensor)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it, whole or not at all; the suffix says the format (animated WebP when there is none); a picture gets its frames in a row.

        Returns the path.
        """
        suffix = Path(path).suffix.lower()
        if suffix in IMAGES and suffix not in WRITTEN:
            return write_image(path, self.image)
        return write_video(path, self.tensor, self.rate, self.sound)

    def save_frames(self, folder: str | os.PathLike[str]) -> Path:
        """Write its frames as ``0000.png``, ... and its rate into a new folder, which opens as a video again."""
        return write_frames(folder, self.tensor, self.rate)

    def _repr_html_(self) -> str:
        data = base64.b64encode(encode_video(self.tensor, self.rate)).decode()
        width = max(_LEAST_WIDTH, self.tensor.shape[-1])
        return (
            f'<figure style="display:inline-block;margin:4px;max-width:{width + 32}px">'
            f'<img src="data:image/webp;base64,{data}" width="{width}" style="image-rendering:pixelated">'
            f"<figcaption>{html.escape(self.caption)}</figcaption></figure>"
        )

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.tensor.shape))
        return f"Video({shape} at {self.rate:g} frames a second{f', {self.caption!r}' if self.caption else ''})"


class Videos(Results[Video]):
    """Videos of one run, ``tensor`` ``(B, C, T, H, W)`` float in [-1, 1], of which ``lengths`` frames are shown."""

    suffix = ".webp"
    sample_columns = 1
    sample_suffix = ".webp"
    sheet_suffixes = tuple(suffix for suffix in IMAGES if suffix not in WRITTEN)

    def __init__(self, tensor: Tensor, rate: float, captions: Sequence[str] | None = None, lengths: Sequence[int] | None = None) -> None:
        """Wrap a batch.

        Raises:
            ValueError: if it is not a batch of videos, or has another number of captions or lengths.
        """
        if tensor.ndim != 5 or tensor.shape[1] not in (1, 3) or not tensor.numel():
            raise ValueError(f"videos are (batch, 1 or 3 channels, frames, rows, columns), not {tuple(tensor.shape)}")
        if lengths is not None and (len(lengths) != len(tensor) or not all(1 <= length <= tensor.shape[2] for length in lengths)):
            raise ValueError(f"{len(tensor)} videos need as many lengths, from 1 to {tensor.shape[2]} frames, not {list(lengths)}")
        super().__init__(tensor, captions)
        self.rate, self.lengths = rate, None if lengths is None else list(lengths)

    def item(self, index: int) -> Video:
        """One video, without frames beyond its length."""
        stop = None if self.lengths is None else self.lengths[index]
        return Video(self.tensor[index][:, :stop], self.rate, self._caption(index))

    def select(self, rows: slice) -> Videos:
        """Some of them."""
        captions = None if self.captions is None else self.captions[rows]
        return Videos(self.tensor[rows], self.rate, captions, None if self.lengths is None else self.lengths[rows])

    def like(self, tensor: Tensor) -> Videos:
        """Other videos ``(B, C, T, H, W)`` of the same rate, captions and lengths."""
        return Videos(tensor, self.rate, self.captions, self.lengths)

    def sheet(self, columns: int = 1, scale: int = 1) -> Image.Image:
        """A contact sheet: frames of a video in a row (:data:`SHEET_FRAMES`), ``columns`` videos beside each other, with their captions."""
        return sheet([strip(video.tensor, scale) for video in self], columns, self.captions, padding=3)

    def together(self, columns: int | None = None) -> Video:
        """All of them side by side on white in one video, as near to a square as it goes; shorter ones stay at their last frame."""
        count, columns = len(self), columns or max(1, round(len(self) ** 0.5))
        videos = [F.pad(self._held(index), (0, _GAP, 0, _GAP), value=1.0) for index in range(count)]
        videos += [torch.ones_like(videos[0])] * (-count % columns)
        rows = [torch.cat(videos[first : first + columns], dim=-1) for first in range(0, len(videos), columns)]
        return Video(torch.cat(rows, dim=-2)[..., :-_GAP, :-_GAP], self.rate)

    def _held(self, index: int) -> Tensor:
        video = self.item(index).tensor
        return video[:, torch.arange(self.tensor.shape[2]).clamp(max=video.shape[1] - 1)].detach().cpu()

    def summary(self, seconds: float) -> str:
        """How many, their frames, and the time each took."""
        several, frames = len(self) > 1, self.tensor.shape[2]
        each = f"of {frames} frames ({frames / self.rate:.2f} s)"
        return f"{len(self)} video{'s' * several} {each}, generated in {seconds / len(self):.2f} s{' each' * several}"

    def save_joined(self, path: Path) -> Path:
        """All videos side by side in one."""
        return self.together().save(path)

    def _repr_png_(self) -> bytes:
        return encode(self.sheet())

    def _repr_html_(self) -> str:
        return f"<div>{''.join(video._repr_html_() for video in self)}</div>"

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.tensor.shape[1:]))
        return f"Videos({len(self)} of {shape} at {self.rate:g} frames a second)"
