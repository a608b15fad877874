"""Names of colours: the nearest of a small table by distance in CIELAB."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

HAIR: Mapping[str, tuple[str, ...]] = {
    "black": ("1c1a1a", "2b2626"),
    "brown": ("6b3f22", "81502c"),
    "blond": ("e8c65a", "f0d67e"),
    "red": ("c23a22", "a92e1c"),
    "grey": ("9a9a9e", "b3b3b8"),
    "blue": ("2f62d0", "4580e6"),
    "pink": ("f07fb4", "f59ac6"),
    "green": ("2f9e52", "4cb86c"),
    "purple": ("7a3fb0", "9156c8"),
}
"""Colours of hair by name, as sRGB; each in two shades."""
CLOTHES: Mapping[str, tuple[str, ...]] = {
    "black": ("222226", "303036"),
    "grey": ("8c8f96", "a3a6ad"),
    "red": ("d0312d", "b8241f"),
    "orange": ("f28c28", "f79a3e"),
    "yellow": ("f5cf33", "f7dc5c"),
    "green": ("2f9e52", "4cb86c"),
    "blue": ("2f62d0", "4580e6"),
    "purple": ("7a3fb0", "9156c8"),
    "pink": ("f07fb4", "f59ac6"),
}
"""Colours of clothes and hats by name."""
SKIN: Mapping[str, tuple[str, ...]] = {"light": ("f7d3b6", "f2c6a2"), "medium": ("c98f63", "bc8054"), "dark": ("704329", "5c3620")}
"""Tones of skin by name."""
EYES: Mapping[str, tuple[str, ...]] = {"blue": ("2f6fe0",), "green": ("2a9648",), "brown": ("7a4218",)}
"""Colours of the iris by name."""
COMMON: Mapping[str, tuple[str, ...]] = {
    "black": ("000000", "2a2a2e"),
    "grey": ("808080", "b0b0b4"),
    "white": ("ffffff",),
    "brown": ("6b4423", "8b5a2b"),
    "red": ("c00000", "d63a2f", "a52a1c"),
    "orange": ("ff8c1a",),
    "yellow": ("ffd92e", "ffe566"),
    "blond": ("e6c86e",),
    "green": ("2e8b47", "5fc878"),
    "blue": ("1f4fc4", "5b96f0"),
    "purple": ("6a2fa0", "9a62d0"),
    "pink": ("ff8fbf", "f4a6cc"),
}
"""Common colours, each by a few examples."""


def lab(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """sRGB bytes ``(..., 3)`` as CIELAB with white point D65 (CIE 015)."""
    value = colours.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def of_hex(code: str) -> npt.NDArray[np.uint8]:
    """``rrggbb`` as three bytes."""
    return np.frombuffer(bytes.fromhex(code), np.uint8)


def nearest_word(colour: npt.NDArray[np.uint8], table: Mapping[str, tuple[str, ...]] = COMMON) -> str:
    """The word of the table whose example is nearest to an sRGB colour by the Euclidean distance in CIELAB (CIE 1976)."""
    here = lab(colour)
    return min((float(np.sum((lab(of_hex(code)) - here) ** 2)), word) for word, codes in table.items() for code in codes)[1]
