"""Pictures as tensors and as files that are written; :mod:`jielong.media.reading.pictures` reads them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from jielong.core.files import write_bytes

Array = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
_JPEG: tuple[str, dict[str, object]] = "JPEG", {"quality": 95, "subsampling": 0}
WRITTEN: Mapping[str, tuple[str, dict[str, object]]] = {
    ".png": ("PNG", {}),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}
"""Endings of pictures that are written, each with Pillow's name of the format and its settings; all but JPEG are exact."""


def fit(image: Image.Image, size: tuple[int, int], pixel: float = 1.0) -> Image.Image:
    """The largest centred part that has the aspect of ``size`` (rows, columns), resized to it with an antialiasing filter.

    Args:
        image: The picture.
        size: Rows and columns.
        pixel: Width over height at which a pixel of it is shown: frames of television are not made of squares.
    """
    rows, columns = size
    if image.size == (columns, rows) and pixel == 1:
        return image
    # Cropping through `box` resamples once, at sub-pixel accuracy, and never makes a huge intermediate of a very wide picture.
    return image.resize((columns, rows), Image.Resampling.LANCZOS, box=centred(image.size, (rows, columns / pixel)))


def centred(inside: tuple[int, int], size: tuple[float, float]) -> tuple[float, float, float, float]:
    """The largest centred box ``(left, top, right, bottom)`` of the aspect of ``size`` (rows, columns) in (columns, rows) pixels."""
    (width, height), (rows, columns) = inside, size
    wide = width * rows >= height * columns
    inner = (height * columns / rows, height) if wide else (width, width * rows / columns)
    left, top = (width - inner[0]) / 2, (height - inner[1]) / 2
    return left, top, left + inner[0], top + inner[1]


def to_bytes_tensor(image: Image.Image, channels: int = 3) -> Tensor:
    """A picture as ``(C, H, W)`` uint8; ``channels`` 1 (grey) or 3 (RGB)."""
    array = np.array(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return torch.from_numpy(array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1)))


def to_float(pixels: Tensor) -> Tensor:
    """8-bit values 0..255 to float32 in [-1, 1]."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def to_bytes(media: Tensor) -> Tensor:
    """Float in [-1, 1] to 8 bits, rounded to the nearest and clamped; the exact inverse of :func:`to_float`. NaN becomes mid-grey."""
    return torch.nan_to_num(media.detach().to("cpu", torch.float32)).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_tensor(image: Image.Image, channels: int = 3) -> Tensor:
    """A picture as ``(C, H, W)`` float32 in [-1, 1]."""
    return to_float(to_bytes_tensor(image, channels))


def from_tensor(media: Tensor) -> Image.Image:
    """``(C, H, W)`` float in [-1, 1], or uint8, as a picture; one channel is grey, three are RGB.

    Raises:
        ValueError: if the tensor has another shape.
    """
    if media.ndim != 3 or media.shape[0] not in (1, 3):
        raise ValueError(f"a picture is (1 or 3, H, W), not {tuple(media.shape)}")
    pixels = media.detach().cpu() if media.dtype == torch.uint8 else to_bytes(media)
    array = pixels.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def sheet(
    images: Tensor | Sequence[Image.Image],
    columns: int = 8,
    captions: Sequence[str] | None = None,
    padding: int = 2,
    scale: int = 1,
) -> Image.Image:
    """A sample grid: pictures in rows of ``columns`` on white, each with its caption below.

    Args:
        images: ``(B, C, H, W)`` float in [-1, 1] or uint8, or pictures; all cells have the size of the largest.
        columns: pictures a row.
        captions: one line each, shortened to the cell's width.
        padding: pixels between cells and at the border.
        scale: whole-number enlargement without smoothing, so that pixels stay visible.

    Raises:
        ValueError: if there are no pictures, or not as many captions as pictures.
    """
    pictures = [from_tensor(image) for image in images] if isinstance(images, Tensor) else list(images)
    if not pictures:
        raise ValueError("a sample grid needs at least one picture")
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures need as many captions, not {len(captions)}")
    columns = max(1, min(columns, len(pictures)))
    width, height = (scale * max(p.size[axis] for p in pictures) for axis in (0, 1))
    font = ImageFont.load_default(10)
    line = 13 if captions is not None else 0
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (width + padding) + padding, rows * (height + line + padding) + padding), "white")
    draw = ImageDraw.Draw(canvas)
    for index, picture in enumerate(pictures):
        left = padding + index % columns * (width + padding)
        top = padding + index // columns * (height + line + padding)
        canvas.paste(picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST), (left, top))
        if captions is not None:
            draw.text((left, top + height), _shorten(captions[index], width, font), fill="black", font=font)
    return canvas


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as the bytes of a file of that kind (``PNG``, ``WEBP``, ...)."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_as(suffix: str, image: Image.Image | Tensor) -> bytes:
    """A picture as the bytes of a file with an ending of :data:`WRITTEN`.

    Raises:
        ValueError: if the ending is another one, or this Pillow lacks its format.
    """
    if suffix.lower() not in WRITTEN:
        raise ValueError(f"{suffix!r} is not a kind of picture that is written: use {', '.join(WRITTEN)}")
    form, options = WRITTEN[suffix.lower()]
    try:
        return encode(from_tensor(image) if isinstance(image, Tensor) else image, form, **options)
    except (KeyError, OSError) as error:
        raise ValueError(f"this Pillow cannot write {form} ({error}): use another of {', '.join(WRITTEN)}") from error


def write_image(path: str | os.PathLike[str], image: Image.Image | Tensor) -> Path:
    """Write a picture whole or not at all; the suffix says the kind (``.png`` when there is none).

    Raises:
        ValueError: as :func:`encode_as`.
    """
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    try:
        data = encode_as(path.suffix, image)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return write_bytes(path, data)


def to_data_uri(image: Image.Image | Tensor) -> str:
    """A picture as a ``data:`` address (PNG), for self-contained pages."""
    data = encode(from_tensor(image) if isinstance(image, Tensor) else image)
    return "data:image/png;base64," + base64.b64encode(data).decode()


_ANIMATED: Mapping[str, dict[str, object]] = {"WEBP": {"lossless": True, "method": 4}, "GIF": {"optimize": False}, "PNG": {}}


def animation(frames: Sequence[Image.Image] | Tensor, seconds: float | Sequence[float] = 0.2, kind: str = "WEBP") -> bytes:
    """Frames as an endless animation file (lossless ``WEBP`` or ``PNG``, or ``GIF``, which has 256 colours a frame).

    Args:
        frames: pictures, or ``(T, C, H, W)`` in [-1, 1] or uint8.
        seconds: duration of each frame, one number or one per frame.
        kind: ``WEBP``, ``PNG`` or ``GIF``.

    Raises:
        ValueError: if there are no frames, another kind is asked for, or the durations do not match.
    """
    pictures = [from_tensor(f) if isinstance(f, Tensor) else f for f in frames]
    pictures = pictures if all(picture.mode == "L" for picture in pictures) else [picture.convert("RGB") for picture in pictures]
    durations = [seconds] * len(pictures) if isinstance(seconds, (int, float)) else list(seconds)
    if not pictures:
        raise ValueError("an animation needs at least one frame")
    if len(durations) != len(pictures):
        raise ValueError(f"{len(pictures)} frames need as many durations, not {len(durations)}")
    if kind not in _ANIMATED:
        raise ValueError(f"an animation is {', '.join(map(repr, _ANIMATED))}, not {kind!r}")
    milliseconds = [max(1, round(1000 * s)) for s in durations]
    extra = _ANIMATED[kind]
    return encode(pictures[0], kind, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, **extra)
