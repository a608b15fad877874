"""Colour profiles (ICC.1:2022) to sRGB, relative colorimetric with black point compensation, by Little CMS."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_LARGEST = 2**24
"""Bytes of a profile; those of printing presses have about two million."""
_SAME = 2
"""Of 255: a profile that moves no colour further is sRGB, and leaves pixels as they are."""
_GREY = ("L", "LA", "La", "I", "F")
_INPUTS = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
"""Colour space of a profile: the mode of Pillow that it converts from."""
_reported: set[str] = set()


@dataclass(frozen=True)
class Profile:
    """What the colours of a picture mean.

    Attributes:
        name: Its description.
        mode: The mode that is converted; ``None`` where colours are sRGB already.
        convert: From that mode to sRGB.
    """

    name: str
    mode: str | None = None
    convert: Callable[[Image.Image], Image.Image] | None = None


def profile_of(image: Image.Image) -> Profile | None:
    """The profile of an opened picture; ``None`` without one.

    Raises:
        ValueError: if it is damaged, or is not one of such a picture.
    """
    if image.mode == "LAB":
        return _profile(None)
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return None
    profile = _profile(data)
    grey = image.mode in _GREY or image.mode.startswith("I;16")
    fits = {"L": grey, "CMYK": image.mode == "CMYK", "RGB": image.mode != "CMYK", None: True}
    if not fits.get(profile.mode, False):
        raise ValueError(f"its colour profile {profile.name!r} is not one of {image.mode} pixels")
    return profile


def usable_profile(image: Image.Image, name: str) -> Profile | None:
    """As :func:`profile_of`; a profile that cannot be used is ignored, which is warned of once for each reason."""
    try:
        return profile_of(image)
    except ValueError as error:
        if str(error) not in _reported:
            _reported.add(str(error))
            warnings.warn(f"{name}: {error}; its colours are taken as sRGB, as in any other such picture", stacklevel=2)
        return None


@lru_cache(maxsize=16)
def _profile(data: bytes | None) -> Profile:
    try:
        if data is None:
            profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif len(data) > _LARGEST:
            raise ValueError(f"it has {len(data):,} bytes")
        else:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _INPUTS[profile.profile.xcolor_space.strip()]
        # Little CMS would put a coarse table in place of a steep curve of grey.
        precise = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.HIGHRESPRECALC
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION | precise,
        )
        convert = transform.apply
        name = "".join(filter(str.isprintable, profile.profile.profile_description or ""))[:60] or "without a name"
        return Profile(name) if _is_srgb(convert, mode) else Profile(name, mode, convert)
    except Exception as error:  # Little CMS and Pillow raise what they meet
        raise ValueError("its colour profile cannot be read") from error


def _is_srgb(convert: Callable[[Image.Image], Image.Image], mode: str) -> bool:
    """Whether colours of a grid stay as they are."""
    if mode not in ("RGB", "L"):
        return False
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    image = Image.fromarray(grid) if mode == "RGB" else Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    moved = np.asarray(convert(image), dtype=int) - np.asarray(image.convert("RGB"), dtype=int)
    return bool(np.abs(moved).max() <= _SAME)
