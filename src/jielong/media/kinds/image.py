"""Images: rows and columns of pixels, 8 bits in files."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jielong.config.data import DataSettings
from jielong.core.json import JSON
from jielong.core.medium import ALONG_ROWS, Medium
from jielong.media.augmentation import Augmentation
from jielong.media.images import WRITTEN, encode_as, fit, from_tensor, to_bytes_tensor, to_float
from jielong.media.inspection import Inspector, Spread
from jielong.media.kinds.base import Content, MediaKind, register
from jielong.media.pictures import Pictures
from jielong.media.raster_settings import RasterData, background_of, background_words, grid_of, size_key
from jielong.media.reading.colour import profile_of
from jielong.media.reading.faults import BrokenImageError, naming
from jielong.media.reading.pictures import REDUCED, SUFFIXES, WHITE, frames_in, is_turned, open_image, read_image
from jielong.media.reading.vectors import TEXT, VECTOR

PREPROCESSING = "upright, sRGB, over white, shorter side lanczos, centre square, 8 bit: 2"
CROPPED = "centre of the aspect of rows x columns, which are"
"""Said of other shapes than squares."""
FLAT = "flat: one colour everywhere"
LONG = 3.0
"""Ratio of the aspects of a picture and of the size beyond which cropping loses most of the picture."""
SMALL = 64
"""Pixels of the longer side at which pictures are looked at."""
_EDGES = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def image_medium(channels: int, size: tuple[int, int]) -> Medium:
    """Images of ``channels`` (1 grey, 3 RGB) and ``(rows, columns)`` pixels."""
    return Medium("image", channels, ALONG_ROWS, size)


class ImageData(RasterData):
    """Keys of images.

    Attributes:
        augment: Random crops and flips of training pictures, such as ``{flip: true, crop: 0.8}``.
    """

    augment: Augmentation | None = None


class ImageKind(MediaKind):
    """Pictures, cropped to one aspect and resized to one size."""

    name = "image"
    axes = ALONG_ROWS
    noun = ("picture", "pictures")
    settings = ImageData
    native: ClassVar = {"size": 64, "channels": 3}
    suffixes = SUFFIXES
    written = tuple(WRITTEN)
    columns = ("image", "img", "picture", "jpg", "png", "bytes")

    def medium(self, settings: DataSettings, channels: int) -> Medium:
        """Rows and columns of the size."""
        if channels not in (1, 3):
            raise ValueError(f"pictures have 1 (grey) or 3 (RGB) channels, not {channels}")
        return image_medium(channels, (settings if isinstance(settings, ImageData) else ImageData()).grid)

    def keys_of(self, medium: Medium) -> JSON:
        """The side of squares, or height and width."""
        return {"size": size_key(medium)}

    def check_header(self, source: bytes | Path, name: str = "") -> None:
        """Raise :class:`BrokenImageError` without a readable header."""
        open_image(source, name).close()

    def decode(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Tensor:
        """``(C, H, W)`` uint8: the centre at the medium's aspect and size."""
        image = read_image(content, name, background=background_of(settings), covers=grid_of(medium))
        with naming(name, BrokenImageError, "cannot be fitted"):
            return to_bytes_tensor(fit(image, grid_of(medium)), medium.channels)

    def fitted(self, media: Tensor, medium: Medium) -> Tensor:
        """Items ``(B, C, H, W)`` in [-1, 1] at the medium's size, as a file of their 8 bits would be."""
        pictures = [to_bytes_tensor(fit(from_tensor(item), grid_of(medium)), medium.channels) for item in media]
        return to_float(torch.stack(pictures)).to(media.device)

    def augmentation(self, settings: DataSettings) -> Augmentation | None:
        """Crops and flips, if the settings name any that changes something."""
        found = settings.augment if isinstance(settings, ImageData) else None
        return found if found is not None and (found.flip or found.crops) else None

    def decode_canvas(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Tensor:
        """``(C, H, W)`` uint8: more than the medium's size, from which the settings' random crops are cut."""
        augmentation, size = self.augmentation(settings) or Augmentation(), grid_of(medium)
        image = read_image(content, name, background=background_of(settings), covers=augmentation.canvas_size(size))
        with naming(name, BrokenImageError, "cannot be fitted"):
            return to_bytes_tensor(augmentation.canvas(image, size), medium.channels)

    def read(self, path: Path, medium: Medium, settings: DataSettings | None = None) -> Tensor:
        """A file as ``(C, H, W)`` float32 in [-1, 1]."""
        return self.to_float(self.decode(path, str(path), medium, settings or self.settings()))

    def to_float(self, stored: Tensor) -> Tensor:
        """0..255 to [-1, 1]."""
        return to_float(stored)

    def preprocessing(self, medium: Medium, settings: DataSettings) -> str:
        """Decoding rules, size and channels, and the background if it is not white."""
        rows, columns = grid_of(medium)
        size = f"size {rows}" if rows == columns else f"{CROPPED} {rows} x {columns}"
        return f"{PREPROCESSING}; {size}; channels {medium.channels}{background_words(settings)}"

    def wrap(self, media: Tensor, medium: Medium, captions: Sequence[str] | None = None, lengths: Sequence[int] | None = None) -> Pictures:
        """Pictures that save and show themselves."""
        return Pictures(media, captions)

    def check_written(self, path: Path, medium: Medium) -> None:
        """See :meth:`MediaKind.check_written`; a pixel is encoded."""
        super().check_written(path, medium)
        encode_as(path.suffix, torch.zeros(medium.channels, 1, 1))

    def inspector(self, medium: Medium, settings: DataSettings) -> Inspector:
        """Sizes, formats, and pictures that lose by cropping or enlarging."""
        return ImageInspector(medium, background_of(settings))


class ImageInspector(Inspector):
    """Sizes, formats, and pictures that are tiny, long, animated, grey or flat."""

    def __init__(self, medium: Medium, background: str = WHITE) -> None:
        self.medium, self.size, self._behind = medium, size_key(medium), background
        smaller = min(1.0, SMALL / max(medium.size))
        self._small = (max(1, round(medium.along("rows") * smaller)), max(1, round(medium.along("columns") * smaller)))
        self.widths: list[int] = []
        self.heights: list[int] = []
        self.formats: Counter[str] = Counter()
        self.profiles: Counter[str] = Counter()
        self.perceptual: dict[str, int] = {}
        try:
            self._phash = importlib.import_module("imagehash").phash
        except ImportError:
            self._phash = None

    def look(self, content: Content, name: str, decode: bool) -> list[str]:
        """Header, and pixels at no more than :data:`SMALL` a side."""
        picture = open_image(content, name) if isinstance(content, bytes) else content
        form, mode, size = picture.format or "raw", picture.mode, picture.size
        try:
            frames, reasons = frames_in(picture, name), []
        except BrokenImageError:
            frames, reasons = 1, ["damaged behind its first frame, which alone is used"]
        pixels = None
        if decode:
            with naming(name, BrokenImageError, "cannot be decoded"):
                pixels = fit(read_image(content, name, background=self._behind, covers=self._small), self._small)
        reasons += self._header(picture, frames) + self._colour(picture) + self._orientation(picture)  # counts behind what may fail
        if pixels is not None:
            reasons += self._pixels(pixels)
            if self._phash is not None and FLAT not in reasons:
                self.perceptual[name] = int(str(self._phash(pixels)), 16)
        self.widths.append(size[0])
        self.heights.append(size[1])
        self.formats[f"{form} {mode}"] += 1
        return reasons

    def _header(self, picture: Image.Image, frames: int) -> list[str]:
        across, down = picture.width / self.medium.along("columns"), picture.height / self.medium.along("rows")
        used = "square" if isinstance(self.size, int) else f"at the aspect of {self.size}"
        unusual = picture.mode in ("CMYK", "LAB", "HSV", "YCbCr", "I", "F") or picture.mode.startswith("I;16")
        reasons = {
            f"tiny: {picture.width} x {picture.height}, will be enlarged to {self.size}": min(across, down) < 1
            and picture.format != VECTOR,
            f"long: {picture.width} x {picture.height}, only the centre {used} is used": max(across, down) > LONG * min(across, down),
            f"large: decoded at 1/{picture.info.get(REDUCED)} of its size": REDUCED in picture.info,
            f"animated: {frames} frames, only the first is used": frames > 1,
            "text in SVG: drawn with the fonts of this system": TEXT in picture.info,
            f"unusual mode {picture.mode}: reduced to 8 bits and RGB": unusual,
        }
        return [reason for reason, applies in reasons.items() if applies]

    def _colour(self, picture: Image.Image) -> list[str]:
        try:
            profile = profile_of(picture)
        except ValueError as error:
            self.profiles["unusable"] += 1
            return [f"{error}: its colours are taken as sRGB"]
        self.profiles["none" if profile is None else profile.name] += 1
        return []

    def _orientation(self, picture: Image.Image) -> list[str]:
        try:
            is_turned(picture)
        except ValueError as error:
            return [f"{error}: it is used as it is stored"]
        return []

    def _pixels(self, image: Image.Image) -> list[str]:
        array = np.asarray(image)
        if (array == array[:1, :1]).all():
            return [FLAT]
        return ["grey"] if self.medium.channels == 3 and (array == array[..., :1]).all() else []

    def facts(self) -> dict[str, object]:
        """Sizes and aspects (width over height) as stored, pictures by shorter side and by format, and the size they are used at."""
        sides = [min(pair) for pair in zip(self.widths, self.heights, strict=True)]
        return {
            "size": self.size,
            "channels": self.medium.channels,
            "width": Spread.of(self.widths),
            "height": Spread.of(self.heights),
            "aspect": Spread.of([width / height for width, height in zip(self.widths, self.heights, strict=True)]),
            "sides": _histogram(sides),
            "formats": dict(self.formats.most_common()),
            "colour profiles": dict(self.profiles.most_common()),
        }

    def perceptual_hashes(self) -> Mapping[str, int] | str:
        """The signs of low frequencies of the brightness."""
        return self.perceptual if self._phash is not None else "not looked for without ImageHash: pip install 'jielong[near-duplicates]'"

    def preview_medium(self) -> Medium:
        """As training reads them."""
        return self.medium


def _histogram(values: list[int]) -> dict[str, int]:
    ends = [*_EDGES[1:], None]
    names = [f"{low}-{high - 1}" if high else f"{low} and more" for low, high in zip(_EDGES, ends, strict=True)]
    counts = np.histogram(values, [*_EDGES, np.inf])[0]
    return {name: int(n) for name, n in zip(names, counts, strict=True) if n}


IMAGE = register(ImageKind())
