"""Colour profiles: pixels become sRGB, and a profile that cannot be used is named and leaves them alone."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from jielong.media.images import encode
from jielong.media.kinds.base import kind_of
from jielong.media.reading import colour
from jielong.media.reading.pictures import read_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)  # red's primary is blue's


def linear_grey() -> bytes:
    """A profile (ICC.1:2022, 7.2 and 9) whose grey is proportional to light."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65_536 * value) for value in (0.9642, 1.0, 0.8249)))
    curve, text = b"curv" + bytes(8), b"text" + bytes(4) + b"linear\0\0"
    tags, place, table, body = [(b"wtpt", white), (b"kTRC", curve), (b"cprt", text)], 132 + 36, b"", b""
    for mark, value in tags:
        table += mark + struct.pack(">II", place + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(65_536 * value) for value in (0.9642, 1.0, 0.8249)))
    whole = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def picture(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    return Image.fromarray(values) if mode == "RGBA" else Image.fromarray(values[..., :3].copy()).convert(mode)


def pixels(image: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(read_image(encode(image, kind, **options)), dtype=np.int64)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_no_profile_and_that_of_srgb_leave_pixels_as_they_are(mode: str) -> None:
    image = picture(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    plain = pixels(image, kind)
    if mode != "CMYK":
        assert np.array_equal(plain, pixels(image, kind, icc_profile=SRGB))
    if mode != "RGBA":
        assert np.array_equal(plain, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_primaries_in_another_order_change_places(mode: str, kind: str) -> None:
    image = picture(mode) if (mode, kind) != ("P", "WEBP") else picture("RGB")
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = pixels(image, kind, icc_profile=SWAPPED, **options)
    assert np.abs(found - pixels(image, kind, **options)[..., ::-1]).max() <= 1


def test_linear_grey_is_encoded_as_srgb() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    light = levels / 255
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    found = pixels(Image.fromarray(levels), icc_profile=linear_grey())
    assert np.abs(found[..., 0] - expected).max() <= 1.5
    assert np.array_equal(found[..., 0], found[..., 2])
    deep = pixels(Image.fromarray((levels * np.uint16(257)).astype(np.uint16)), icc_profile=linear_grey())
    assert np.array_equal(deep, found)


def test_grey_pixels_with_a_profile_of_rgb_stay_grey() -> None:
    image = picture("L")
    assert np.abs(pixels(image, icc_profile=SWAPPED) - pixels(image)).max() <= 1


def test_lab_becomes_rgb() -> None:
    lab = Image.merge("LAB", [Image.new("L", (2, 2), value) for value in (255, 128, 128)])
    assert np.abs(pixels(lab, "TIFF") - 255).max() <= 1


@pytest.mark.parametrize(
    ("image", "profile", "says"),
    [
        (picture("RGB"), SRGB[:300], "cannot be read"),
        (picture("RGB"), b"nonsense" * 40, "cannot be read"),
        (picture("RGB"), linear_grey(), "is not one of RGB pixels"),
        (picture("CMYK"), SWAPPED, "is not one of CMYK pixels"),
    ],
    ids=["cut", "nonsense", "grey", "RGB"],
)
def test_a_profile_that_cannot_be_used_is_named_once_and_ignored(
    image: Image.Image, profile: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colour, "_reported", set())
    data = encode(image, "TIFF", icc_profile=profile)
    with pytest.warns(UserWarning, match=f"a.tif: its colour profile.*{says}"):
        found = read_image(data, "a.tif")
    assert np.array_equal(np.asarray(found), np.asarray(image.convert("RGB")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(data, "b.tif")
    kind = kind_of("image")
    inspector = kind.inspector(kind.medium(kind.settings(), 3), kind.settings())
    assert any(says in reason for reason in inspector.look(data, "a.tif", True))
    assert inspector.facts()["colour profiles"] == {"unusable": 1}


def test_profiles_are_counted_of_pictures_that_can_be_decoded() -> None:
    kind = kind_of("image")
    inspector = kind.inspector(kind.medium(kind.settings(), 3), kind.settings())
    whole = encode(Image.radial_gradient("L"), "PNG")
    inspector.look(whole, "a.png", True)
    with pytest.raises(ValueError, match="cut off"):
        inspector.look(whole[: len(whole) // 2], "cut.png", True)
    assert inspector.facts()["colour profiles"] == {"none": 1}
