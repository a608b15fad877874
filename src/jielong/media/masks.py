"""Masks over pictures: which pixels an edit may change, fitted to a model's size as the picture is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from jielong.media.images import centred, from_tensor
from jielong.media.reading.pictures import read_image

Region = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""
Margins = tuple[int, int, int, int]
"""Pixels that a canvas has more than its picture on the left, on the right, above and below; fewer where negative."""
WHITE = 128
"""The least grey that counts as white."""
WIDEST = 4
"""Sides of a picture that a margin is at most."""

MaskLike = str | os.PathLike[str] | Image.Image | Tensor
"""A file, a picture, or ``(H, W)`` bool."""


def read_mask(mask: MaskLike, size: tuple[int, int]) -> Image.Image:
    """A mask of ``size`` (columns, rows) in black and white; white are the pixels that may change.

    Raises:
        ValueError: if it has another size, or no white pixel.
    """
    name = str(mask) if isinstance(mask, str | os.PathLike) else "the mask"
    if isinstance(mask, Tensor):
        if mask.ndim != 2 or mask.dtype != torch.bool:
            raise ValueError(f"the mask is a picture, its file, or a bool tensor (rows, columns), not {mask.dtype} {tuple(mask.shape)}")
        image = Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255)
    else:
        image = (
            read_image(mask if isinstance(mask, Image.Image) else Path(mask), name).convert("L").point(lambda grey: 255 * (grey >= WHITE))
        )
    if image.size != size:
        found, right = (f"{width} x {height}" for width, height in (image.size, size))
        raise ValueError(f"{name} has {found} pixels and the picture {right}: draw the mask over the picture, at its size")
    if image.getbbox() is None:
        raise ValueError(f"{name} has no white pixel, and white is what changes: paint it white there, and black elsewhere")
    return image


def region_mask(region: Sequence[int], size: tuple[int, int]) -> Image.Image:
    """A mask of ``size`` (columns, rows) that is white in a :data:`Region`.

    Raises:
        ValueError: if it is empty, or reaches beyond the picture.
    """
    left, top, width, height = region
    if width < 1 or height < 1 or left < 0 or top < 0 or left + width > size[0] or top + height > size[1]:
        raise ValueError(
            f"the region {','.join(map(str, region))} (left, top, width, height) is not inside {size[0]} x {size[1]} pixels: "
            "it begins at 0,0 or later, is 1 or more wide and high, and ends at the picture's border or before"
        )
    mask = Image.new("L", size)
    mask.paste(255, (left, top, left + width, top + height))
    return mask


def outpainted(image: Image.Image, margins: Sequence[int], size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """A picture on another canvas, whose new pixels continue its border, and the mask of these.

    Args:
        image: The picture; its centre of the aspect of ``size`` is taken.
        margins: See :data:`Margins`.
        size: Rows and columns that the canvas is drawn at.

    Raises:
        ValueError: if nothing is new, nothing of the picture is left, or the canvas has another aspect.
    """
    first, top, last, bottom = (round(edge) for edge in centred(image.size, size))
    image, (left, right, up, down), (rows, columns) = image.crop((first, top, last, bottom)), margins, size
    width, height, text = image.width + left + right, image.height + up + down, ",".join(map(str, margins))
    if max(margins) <= 0:
        raise ValueError(f"the margins {text} (left, right, above, below) add nothing: one of them is above 0")
    sides = ((left, image.width), (right, image.width), (up, image.height), (down, image.height))
    if any(margin > WIDEST * side for margin, side in sides) or min(left, right) <= -image.width or min(up, down) <= -image.height:
        raise ValueError(f"the margins {text} leave too little of the {image.width} x {image.height} pixels to continue: give smaller ones")
    if width * rows != height * columns:
        raise ValueError(
            f"the margins {text} make a canvas of {width} x {height} pixels, and the model draws {columns} x {rows}: "
            f"{_of_aspect(image.size, margins, size)}"
        )
    kept = image.crop((max(-left, 0), max(-up, 0), image.width - max(-right, 0), image.height - max(-down, 0)))
    border = (max(left, 0), max(up, 0), max(right, 0), max(down, 0))
    edges = ((border[1], border[3]), (border[0], border[2]), (0, 0))
    canvas = Image.fromarray(np.pad(np.asarray(kept.convert("RGB")), edges, mode="edge"))
    return canvas, ImageOps.expand(Image.new("L", kept.size), border, fill=255)


def _of_aspect(inside: tuple[int, int], margins: Sequence[int], size: tuple[int, int]) -> str:
    """Margins near the given ones whose canvas has the aspect of ``size`` (rows, columns), in words."""
    (left, right, up, down), (width, height), (rows, columns) = margins, inside, size
    across, along = (width + left + right) * rows // columns - height, (height + up + down) * columns // rows - width
    wider = across >= up + down
    smaller = (left, right, across // 2, across - across // 2) if wider else (along // 2, along - along // 2, up, down)
    words = [f"{','.join(map(str, smaller))} shows the picture smaller"]
    if not (left and right) and not (up and down):
        moved = (left or -right, right or -left, up or -down, down or -up)
        words.append(f"{','.join(map(str, moved))} moves it and cuts what leaves the canvas")
    return ", and ".join(words)


def fit_mask(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """A black and white mask at ``size`` (rows, columns), ``(H, W)`` bool: true where any of it is white, cropped as the picture is."""
    rows, columns = size
    grey = mask.convert("F").resize((columns, rows), Image.Resampling.BOX, box=centred(mask.size, size))
    return torch.from_numpy(np.array(grey)) > 0


def picture_of(picture: str | os.PathLike[str] | Image.Image | Tensor, background: str, size: tuple[int, int]) -> Image.Image:
    """An upright 8-bit picture of a file, an image, or a tensor ``(C, H, W)`` in [-1, 1]; ``size`` is what SVG covers, (rows, columns)."""
    if isinstance(picture, Tensor):
        return from_tensor(picture)
    source = picture if isinstance(picture, Image.Image) else Path(picture)
    return read_image(source, "" if isinstance(picture, Image.Image) else str(picture), background=background, covers=size)
