"""Videos as tensors and as files that are written; :mod:`jielong.media.reading.video` reads them.

A video is ``(C, T, H, W)`` float in [-1, 1] or uint8, its rate in frames a second beside it. Containers come with the extra ``video``;
animated pictures and folders of frames need none.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jielong.core.files import new_folder, write_bytes
from jielong.media.images import animation, encode, from_tensor, to_bytes
from jielong.media.reading.animations import RATE_FILE
from jielong.media.reading.libraries import library
from jielong.media.soundtrack import Soundtrack, TrackWriter, check_holds_sound

_ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG"}
_MPEG4: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"crf": "15"}),
    ("mpeg4", {"qmin": "2", "qmax": "4", "b": "8000000"}),
)
_CODINGS: Mapping[str, tuple[tuple[str, dict[str, str]], ...]] = {
    ".mp4": _MPEG4,
    ".mov": _MPEG4,
    ".m4v": _MPEG4,
    ".webm": (("libvpx-vp9", {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "4"}),),
    ".mkv": (("ffv1", {}),),
}
"""Codings of each container in order of preference, with their settings: near to transparent, and exact in Matroska."""
EXACT = frozenset((".webp", ".apng", ".mkv"))
"""Endings of files that keep every value; ``.gif`` does where a frame has 256 colours or fewer."""
WRITTEN = (".mp4", ".webm", ".gif", ".webp", ".apng", ".mkv", ".mov", ".m4v")
"""Endings of videos that are written."""
_BT601 = 6
"""Matrix coefficients of ITU-T H.273 for the colours that are written."""
_FASTEST_GIF = 50.0
"""Frames a second: browsers slow faster ones down."""


def delays(count: int, rate: float, unit: float) -> list[float]:
    """Seconds that each frame is shown, in whole units, so that every one begins at most a unit before its time at ``rate``."""
    begins = [int(number / (rate * unit) + 1e-6) for number in range(count + 1)]
    return [(after - before) * unit for before, after in pairwise(begins)]


def encode_video(video: Tensor, rate: float, suffix: str = ".webp", sound: Soundtrack | None = None) -> bytes:
    """A video ``(C, T, H, W)`` as the bytes of a file: exact in :data:`EXACT` endings, near to it in the others.

    Raises:
        ValueError: if it is not a video, or the kind cannot hold it or its sound, or is unknown.
        MissingLibraryError: if the kind needs the extra ``video``.
    """
    suffix = suffix.lower()
    if video.ndim != 4 or video.shape[0] not in (1, 3) or not video.numel():
        raise ValueError(f"a video is (1 or 3 channels, frames, rows, columns), with a frame at least, not {tuple(video.shape)}")
    if not rate > 0:
        raise ValueError(f"a rate is frames a second, above 0, not {rate}")
    if sound is not None:
        check_holds_sound(suffix)
    if suffix in _ANIMATED:
        if suffix == ".gif" and rate > _FASTEST_GIF:
            raise ValueError(f".gif holds up to {_FASTEST_GIF:g} frames a second, not {rate:g}: use another of {', '.join(WRITTEN)}")
        return animation(pictures_of(video), delays(video.shape[1], rate, 0.01 if suffix == ".gif" else 0.001), _ANIMATED[suffix])
    if suffix not in _CODINGS:
        raise ValueError(f"{suffix!r} is not a kind of video that is written: use {', '.join(WRITTEN)}")
    return _contained(video, rate, suffix, sound)


def pictures_of(video: Tensor) -> list[Image.Image]:
    """The frames of ``(C, T, H, W)``."""
    pixels = video.detach().cpu() if video.dtype == torch.uint8 else to_bytes(video)
    return [from_tensor(frame) for frame in pixels.unbind(1)]


def _contained(video: Tensor, rate: float, suffix: str, sound: Soundtrack | None) -> bytes:
    av, buffer = library("av", "video", "video"), io.BytesIO()
    coding, options = coding_of(suffix)
    pictures, fraction = pictures_of(video), Fraction(rate).limit_denominator(1001)
    width, height = pictures[0].size
    form = {".mkv": "matroska", ".m4v": "mp4"}.get(suffix, suffix[1:])
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(coding, rate=fraction, options=options)
        stream.width, stream.height, stream.thread_count = width, height, 1
        stream.time_base = 1 / fraction
        even = width % 2 == 0 and height % 2 == 0
        exact = "gray" if len(video) == 1 else "bgr0"
        # The coder of H.264 halves colours of even sizes alone.
        stream.pix_fmt = exact if coding == "ffv1" else "yuv420p" if even or not coding.endswith("264") else "yuv444p"
        if coding != "ffv1":
            stream.codec_context.colorspace = _BT601
        track = None if sound is None else TrackWriter(container, suffix, sound)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="gray" if picture.mode == "L" else "rgb24")
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU601", threads=1)
            frame.pts, frame.time_base = number, 1 / fraction
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            track.write()
    return buffer.getvalue()


def coding_of(suffix: str) -> tuple[str, dict[str, str]]:
    """The first coding of a container that this build of FFmpeg's libraries has."""
    codec = library("av", "video", "video").codec
    for coding, options in _CODINGS[suffix]:
        try:
            codec.Codec(coding, "w")
        except codec.codec.UnknownCodecError:
            continue
        return coding, options
    names = ", ".join(coding for coding, _ in _CODINGS[suffix])
    raise ValueError(f"this PyAV cannot write {suffix} ({names}): use another of {', '.join(WRITTEN)}")


def write_video(path: str | os.PathLike[str], video: Tensor, rate: float, sound: Soundtrack | None = None) -> Path:
    """Write a video ``(C, T, H, W)`` whole or not at all, as :func:`encode_video`; the suffix says the kind (``.webp`` without one)."""
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".webp")
    return write_bytes(path, encode_video(video, rate, path.suffix, sound))


def write_frames(folder: str | os.PathLike[str], video: Tensor, rate: float) -> Path:
    """Write a video ``(C, T, H, W)`` as a new folder of ``0000.png``, ..., with its rate in a file beside them; exact.

    Raises:
        StorageError: if the folder exists, or cannot be written.
    """
    folder = Path(folder)
    with new_folder(folder) as beside:
        for number, picture in enumerate(pictures_of(video)):
            (beside / f"{number:04d}.png").write_bytes(encode(picture))
        (beside / RATE_FILE).write_text(json.dumps({"frame_rate": rate}) + "\n", "utf-8")
    return folder
