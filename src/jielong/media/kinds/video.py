"""Videos: frames of pixels at a rate, 8 bits in files."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from jielong.config.data import DataSettings
from jielong.core.json import JSON
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.media.images import WRITTEN as IMAGES
from jielong.media.images import encode_as, fit, from_tensor, to_bytes_tensor, to_float
from jielong.media.inspection import Inspector
from jielong.media.kinds.base import Content, MediaKind, register
from jielong.media.raster_settings import RasterData, background_of, background_words, grid_of, size_key
from jielong.media.reading.animations import ANIMATED, numbered
from jielong.media.reading.video import SUFFIXES, Part, check_clip, count_frames, read_clip
from jielong.media.video import WRITTEN, encode_video
from jielong.media.video_inspection import VideoInspector
from jielong.media.videos import Videos

_said: set[str] = set()
PREPROCESSING = "by time, upright, sRGB, over a background, shorter side lanczos, centre, last frame repeated, 8 bit: 1"


def video_medium(channels: int, frames: int, size: tuple[int, int], frame_rate: float) -> Medium:
    """Videos of ``channels`` (1 grey, 3 RGB), ``frames`` at ``frame_rate`` a second, of ``(rows, columns)`` pixels."""
    return Medium("video", channels, ALONG_FRAMES, (frames, *size), frame_rate)


class VideoData(RasterData):
    """Keys of videos.

    Attributes:
        frames: Frames of an item; a longer video is cut at its start, a shorter one repeats its last frame.
        frame_rate: Frames a second, taken by the times at which a file shows them.
        stride: Frames from the beginning of an item to that of the next in a long video, which then is several items, named ``file#0``,
            ``file#1``, ...; one shorter than an item is left out. By default a video is one item.
    """

    frames: int = Field(default=16, ge=1)
    frame_rate: float = Field(default=8.0, gt=0, le=1000)
    stride: int | None = Field(default=None, ge=1)


class VideoKind(MediaKind):
    """Videos, cropped to one aspect and resized to one size, at one frame rate."""

    name = "video"
    axes = ALONG_FRAMES
    noun = ("video", "videos")
    settings = VideoData
    native: ClassVar = {"size": 64, "frames": 16, "frame_rate": 8, "channels": 3}
    suffixes = SUFFIXES
    shared = ANIMATED
    by_path = True
    written = (*WRITTEN, *(suffix for suffix in IMAGES if suffix not in WRITTEN))
    columns = ("video", "clip", "movie", "animation", "mp4", "webm", "gif", "bytes")
    fills = True
    sample_count = 4
    measured_count = 64

    def medium(self, settings: DataSettings, channels: int) -> Medium:
        """Frames, rows and columns of the settings."""
        if channels not in (1, 3):
            raise ValueError(f"videos have 1 (grey) or 3 (RGB) channels, not {channels}")
        keys = settings if isinstance(settings, VideoData) else VideoData()
        return video_medium(channels, keys.frames, keys.grid, keys.frame_rate)

    def keys_of(self, medium: Medium) -> JSON:
        """Size, frames and frame rate."""
        rate = medium.rate or 1
        return {"size": size_key(medium), "frames": medium.frames, "frame_rate": int(rate) if rate == int(rate) else rate}

    def check_header(self, source: bytes | Path, name: str = "") -> None:
        """Raise :class:`BrokenVideoError` without a readable header and a stream of pictures."""
        check_clip(source, name)

    def folders(self, files: Sequence[Path]) -> Mapping[Path, Sequence[Path]]:
        """Folders that hold only numbered pictures, and perhaps their rate."""
        inside: dict[Path, list[Path]] = defaultdict(list)
        for path in files:
            inside[path.parent].append(path)
        parents = {parent for folder in inside for parent in folder.parents}
        return {folder: paths for folder, paths in inside.items() if folder not in parents and numbered(paths)}

    def divides(self, settings: DataSettings) -> bool:
        """Whether the settings have a stride."""
        return isinstance(settings, VideoData) and settings.stride is not None

    def cuts(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Sequence[int]:
        """A part every stride, as long as they are whole."""
        stride = settings.stride if isinstance(settings, VideoData) else None
        return range(0, count_frames(content, name, medium.rate or 1) - medium.frames + 1, stride or medium.frames)

    def part(self, content: Content, start: int) -> Content:
        """The source with the number of the part's first frame."""
        return Part(content, start)

    def decode(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Tensor:
        """``(C, T, H, W)`` uint8 of the medium's size: its first frames, or all of them and copies of the last, which is said once."""
        whole, frames = not isinstance(content, Part), medium.frames
        video = self._read(content, name, medium, settings, frames + whole)  # one more shows that there are more
        if video.shape[1] < frames:
            _say_once(name, f"{video.shape[1]} of the {frames} frames", "its last one is repeated", "shorter")
        elif video.shape[1] > frames:
            _say_once(name, f"more than the {frames} frames", "the others are not used, unless data.stride makes items of them", "longer")
        return held(video[:, :frames], frames)

    def read(self, path: Path, medium: Medium, settings: DataSettings | None = None) -> Tensor:
        """A whole file or folder of frames as ``(C, T, H, W)`` float32 in [-1, 1], as long as it is."""
        return to_float(self._read(path, str(path), medium, settings or self.settings(), None))

    def _read(self, content: Content, name: str, medium: Medium, settings: DataSettings, count: int | None) -> Tensor:
        size, channels = grid_of(medium), medium.channels
        source, first = (content.source, content.first) if isinstance(content, Part) else (content, 0)

        def fitted(frame: Image.Image, pixel: float) -> Tensor:
            return to_bytes_tensor(fit(frame, size, pixel), channels)

        rate, background = medium.rate or 1, background_of(settings)
        return read_clip(source, name, rate=rate, fitted=fitted, first=first, count=count, background=background)

    def fitted(self, media: Tensor, medium: Medium) -> Tensor:
        """Items ``(B, C, T, H, W)`` in [-1, 1] at the medium's size, each frame as a file of its 8 bits would be."""
        frames, size = media.transpose(1, 2).flatten(0, 1), grid_of(medium)
        fitted = torch.stack([to_bytes_tensor(fit(from_tensor(frame), size), medium.channels) for frame in frames])
        videos = fitted.unflatten(0, (len(media), -1)).transpose(1, 2)
        return to_float(torch.stack([held(video[:, : medium.frames], medium.frames) for video in videos])).to(media.device)

    def to_float(self, stored: Tensor) -> Tensor:
        """0..255 to [-1, 1]."""
        return to_float(stored)

    def preprocessing(self, medium: Medium, settings: DataSettings) -> str:
        """Decoding rules, size, channels, rate, and the background if it is not white."""
        size = " x ".join(map(str, medium.size))
        return f"{PREPROCESSING}; {size} at {medium.rate:g}; channels {medium.channels}{background_words(settings)}"

    def wrap(self, media: Tensor, medium: Medium, captions: Sequence[str] | None = None, lengths: Sequence[int] | None = None) -> Videos:
        """Videos that save and play themselves."""
        return Videos(media, medium.rate or 1, captions, lengths)

    def check_written(self, path: Path, medium: Medium) -> None:
        """See :meth:`MediaKind.check_written`; a frame is encoded. A picture's ending is for the contact sheet."""
        super().check_written(path, medium)
        if path.suffix.lower() in WRITTEN:
            encode_video(torch.zeros(medium.channels, 1, *grid_of(medium)), medium.rate or 1, path.suffix)
        else:
            encode_as(path.suffix, torch.zeros(medium.channels, 1, 1))

    def inspector(self, medium: Medium, settings: DataSettings) -> Inspector:
        """Durations, rates and sizes, and videos that are still, short or long."""
        return VideoInspector(medium, lambda content, name: self._read(content, name, medium, settings, medium.frames))


def _say_once(name: str, has: str, then: str, which: str) -> None:
    if which not in _said:
        _said.add(which)
        warnings.warn(
            f"{name} has {has} that are read: {then}, here and in every other {which} video; jielong data inspect counts them",
            stacklevel=3,
        )


def held(video: Tensor, frames: int) -> Tensor:
    """A video ``(C, T, H, W)`` of at least ``frames``: its last one is repeated."""
    missing = frames - video.shape[1]
    return torch.cat((video, video[:, -1:].expand(-1, missing, -1, -1)), dim=1) if missing > 0 else video


VIDEO = register(VideoKind())
