"""Pictures: any file of a named raster format, or SVG, to 8-bit RGB."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from jielong.media.reading.colour import Profile, usable_profile
from jielong.media.reading.faults import BrokenImageError, budget, bytes_of, naming, refuse_large
from jielong.media.reading.quiet import quiet
from jielong.media.reading.rasters import refuse_cut
from jielong.media.reading.vectors import MARK, VectorImage, is_vector
from jielong.media.reading.vectors import SUFFIXES as VECTOR_SUFFIXES

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k"),
    "QOI": (".qoi",),
    "TGA": (".tga",),  # last: it has no mark at its beginning
}
"""Formats that are opened, as Pillow names them, and the suffixes of their files. Others, such as EPS, run programs."""
SUFFIXES = frozenset(suffix for suffixes in (*FORMATS.values(), VECTOR_SUFFIXES) for suffix in suffixes)
"""Of files that are taken for pictures."""
_PIXEL_BYTES = 4
"""Of a pixel in memory: Pillow keeps RGB, RGBA, CMYK, 32-bit integers and floats in four bytes, and every picture ends as RGB."""
_COEFFICIENT_BYTES = 6
"""More of a pixel of a progressive JPEG: three coefficients of 16 bits are kept until its last scan."""
_BAND_PIXELS = 2**20
_CHUNK_BYTES = 2**24
WHITE = "white"
"""The usual background of what is transparent."""
REDUCED = "reduced"
"""In ``info`` of an opened picture: the factor by which it is decoded smaller, to fit the budget."""


logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise its errors, which name no file, go to standard error


def open_image(source: bytes | str | os.PathLike[str], name: str = "") -> Image.Image:
    """Open a picture lazily: the header is read, the pixels are not.

    Raises:
        BrokenImageError: if it is neither SVG nor of :data:`FORMATS`, or takes more memory than
            :func:`~jielong.media.reading.faults.budget`.
        MissingLibraryError: of SVG without resvg.
    """
    name = name or ("a picture" if isinstance(source, bytes) else str(source))
    pixels = budget() // _PIXEL_BYTES
    _prepare_pillow(pixels)
    with naming(name, BrokenImageError, "cannot be read as a picture"):
        try:
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=list(FORMATS))
        except UnidentifiedImageError:
            if not is_vector(_beginning(source)):
                raise
            return VectorImage(bytes_of(source, name, BrokenImageError), name)
        except Image.DecompressionBombError as error:  # twice the budget or more
            count = int("".join(filter(str.isdigit, str(error).partition("pixels")[0])))
            refuse_large(name, f"a picture of {count:,} pixels", count * _PIXEL_BYTES, BrokenImageError)
            raise
        progressive = bool(image.info.get("progressive"))
        if image.format in ("JPEG", "MPO") and not progressive:
            _reduce(image, pixels)
        cost = _PIXEL_BYTES + _COEFFICIENT_BYTES * progressive
        refuse_large(name, f"a picture of {image.width:,} x {image.height:,} pixels", image.width * image.height * cost, BrokenImageError)
        tiles = getattr(image, "tag_v2", {})
        width, height = (tiles.get(tag) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength))
        if width and height:  # of a TIFF: a tile may be larger than the picture, and is decoded as a whole
            refuse_large(name, f"a tile of {width:,} x {height:,} pixels", width * height * _PIXEL_BYTES, BrokenImageError)
    return image


def _beginning(source: bytes | str | os.PathLike[str]) -> bytes:
    if isinstance(source, bytes):
        return source
    with open(source, "rb") as file:
        return file.read(MARK)


def _reduce(image: Image.Image, pixels: int) -> None:
    """Decode a JPEG of more pixels at a half, a quarter or an eighth of its size, as its cosine transform allows."""
    width, height = image.size
    factor = next((each for each in (1, 2, 4, 8) if -(-width // each) * -(-height // each) <= pixels), 1)
    if factor > 1 and min(width, height) >= factor:
        image.draft(None, (width // factor, height // factor))
        image.info[REDUCED] = factor


def _prepare_pillow(pixels: int) -> None:
    """Silence Pillow's warnings, which name no file, and lift its own limits: to the budget, and for profiles of several megabytes."""
    PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, _CHUNK_BYTES)
    if not any(action == "ignore" and getattr(module, "pattern", None) == r"PIL\." for action, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=r"PIL\.")
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = pixels


def frames_in(image: Image.Image, name: str) -> int:
    """Frames of an opened picture, 1 unless it is animated."""
    with naming(name, BrokenImageError, "is damaged behind its first frame"):
        return int(getattr(image, "n_frames", 1))


def read_image(
    source: bytes | str | os.PathLike[str] | Image.Image,
    name: str = "",
    *,
    background: str = WHITE,
    covers: tuple[int, int] | None = None,
) -> Image.Image:
    """A picture as 8-bit sRGB: upright (EXIF), colours by its profile, 16-bit scaled, the first frame of an animation.

    Args:
        source: The file, or an opened picture.
        name: For messages.
        background: The colour behind what is transparent, as :func:`PIL.ImageColor.getrgb` reads it.
        covers: Rows and columns that SVG covers; otherwise it has the size that it declares.

    Raises:
        BrokenImageError: if the pixels cannot be decoded (truncated, wrong checksum, unknown format).
        MissingLibraryError: of SVG without resvg.
    """
    name = name or ("a picture" if isinstance(source, bytes | Image.Image) else str(source))
    if isinstance(source, Image.Image):
        image = source
    else:
        data = bytes_of(source, name, BrokenImageError)
        image = open_image(data, name)
        refuse_cut(data, image.format, name)
    with naming(name, BrokenImageError, "cannot be decoded"):
        if covers is not None and isinstance(image, VectorImage):
            image.draft(None, (covers[1], covers[0]))
        with quiet(image.format == "TIFF"):
            image.load()
        return _finished(_upright(image), usable_profile(image, name), background)


def is_turned(image: Image.Image) -> bool:
    """Whether EXIF says that an opened picture is stored otherwise than upright.

    Raises:
        ValueError: if its EXIF is damaged.
    """
    try:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    except Exception as error:  # its parser raises whatever it meets
        raise ValueError("its EXIF is damaged") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) if is_turned(image) else image
    except ValueError:  # shown as it is stored; inspect says so
        return image


def _finished(image: Image.Image, profile: Profile | None, background: str) -> Image.Image:
    """8 bits, sRGB, over a background."""
    convert = None if profile is None else profile.convert
    if image.mode == "RGB" and convert is None and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if convert is None and not clear:
        return image.convert("RGB")
    finished = Image.new("RGB", image.size)
    for top, band in _bands(image):
        rgba = band.convert("RGBA") if clear else band
        if profile is not None and convert is not None:
            opaque = convert(band if band.mode == profile.mode else rgba.convert(profile.mode))
            if clear:
                opaque.putalpha(rgba.getchannel("A"))
            rgba = opaque
        if clear:
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
        finished.paste(rgba.convert("RGB"), (0, top))
    return finished


def _to_8_bits(image: Image.Image) -> Image.Image:
    # Pillow would clip 16-bit grey at 255 (all white). Integers are 16-bit samples; floats are [0, 1] unless they exceed 1.
    scale = 255 / 65535
    if image.mode == "F":
        scale = 255.0 if all(np.asarray(band).max(initial=0) <= 1 for _, band in _bands(image)) else 1.0
    grey = Image.new("L", image.size)
    for top, band in _bands(image):
        values = np.nan_to_num(np.asarray(band, dtype=np.float64) * scale)
        grey.paste(Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)), (0, top))
    return grey


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Whole rows, about a million pixels at once, each with the row that it begins at: nothing is copied whole."""
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
