"""What of a file Pillow may touch: named formats, and no more pixels than the budget."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from jielong.media.images import encode
from jielong.media.kinds.base import kind_of
from jielong.media.reading import vectors
from jielong.media.reading.faults import BUDGET, BrokenImageError
from jielong.media.reading.pictures import FORMATS, SUFFIXES, open_image, read_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n%%EOF\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that declares a size, and holds almost nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def test_a_program_in_the_suffix_of_a_picture_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ran)
    (tmp_path / "cat.png").write_bytes(EPS)
    assert Image.open(tmp_path / "cat.png").format == "EPS"
    for reading in (read_image, open_image, kind_of("image").check_header):
        with pytest.raises(BrokenImageError, match=r"cat\.png.*not a known picture format"):
            reading(tmp_path / "cat.png")


def test_suffixes_come_from_the_formats_and_each_can_be_read() -> None:
    assert kind_of("image").suffixes == SUFFIXES
    registered = Image.registered_extensions()
    assert {suffix: registered.get(suffix) for suffix in SUFFIXES - {".mpo", *vectors.SUFFIXES}} == {
        suffix: form for form, suffixes in FORMATS.items() for suffix in suffixes if suffix != ".mpo"
    }
    picture = Image.new("RGB", (16, 8), (250, 10, 10))
    for form in FORMATS:
        data = encode(picture.quantize(4) if form == "GIF" else picture, form)
        assert np.allclose(read_image(data, form).getpixel((3, 3)), (250, 10, 10), atol=6), form
        assert open_image(data).format == form


@pytest.mark.parametrize(
    ("data", "size"),
    [(png_header(13_300, 13_300), "13,300 x 13,300"), (png_header(60_000, 60_000, 1, 0), "60,000 x 60,000")],
    ids=["large", "larger than Pillow admits"],
)
def test_a_picture_beyond_the_budget_is_refused_by_its_header(data: bytes, size: str) -> None:
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        with pytest.raises(BrokenImageError, match=rf"cat\.png.*too large.*({size}|3,600,000,000) pixels.*{BUDGET}="):
            read_image(data, "cat.png")
    assert not leaked


def test_the_budget_counts_decoded_bytes_and_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, kind in (("RGB", "PNG"), ("L", "PNG"), ("F", "TIFF"), ("I;16", "PNG")):
        data = encode(Image.new(mode, (100, 100)), kind)
        monkeypatch.setenv(BUDGET, "0.04")
        assert read_image(data).size == (100, 100)
        monkeypatch.setenv(BUDGET, "0.039")
        with pytest.raises(BrokenImageError, match="100 x 100 pixels takes 1 MB decoded"):
            read_image(data, "a.png")
    monkeypatch.setenv(BUDGET, "much")
    with pytest.raises(RuntimeError, match=f"{BUDGET} is the megabytes.*not 'much'"):
        read_image(data)


def test_a_tile_larger_than_its_picture_is_refused() -> None:
    packed = zlib.compress(bytes(64))
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 100_000, 323: 100_000, 324: 200, 325: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(200, b"\0") + packed
    with pytest.raises(BrokenImageError, match="a tile of 100,000 x 100,000"):
        read_image(data)


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "F"])
def test_bands_of_rows_give_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((37, 11, 4))
    arrays = {
        "RGBA": (255 * values).astype(np.uint8),
        "I;16": (65535 * values[..., 0]).astype(np.uint16),
        "F": values[..., 0].astype(np.float32),
    }
    data = encode(Image.fromarray(arrays[mode]), "TIFF" if mode == "F" else "PNG")
    whole = np.asarray(read_image(data))
    monkeypatch.setattr("jielong.media.reading.pictures._BAND_PIXELS", 40)
    assert np.array_equal(np.asarray(read_image(data)), whole)


def colours(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (20, 28, 4), dtype=np.uint8)
    return Image.fromarray(values if mode == "RGBA" else values[..., :3].copy())


FRAMES = {"save_all": True, "append_images": [colours().rotate(90)]}
RLE = b"BM" + struct.pack("<IIIIiiHHIIiiII", 14 + 40 + 8 + 10, 0, 62, 40, 2, 2, 1, 8, 1, 10, 0, 0, 2, 2) + b"\0\0\0\0\xff\xff\xff\0"
RLE += bytes([2, 1, 0, 0, 2, 1, 0, 0, 0, 1])
FILES = {
    **{form.lower(): encode(colours().quantize(16) if form == "GIF" else colours(), form) for form in FORMATS},
    "interlaced png": encode(colours(), "PNG", interlace=True),
    "animated png": encode(colours(), "PNG", **FRAMES),
    "progressive jpeg": encode(colours(), "JPEG", progressive=True),
    "lossless webp": encode(colours("RGBA"), "WEBP", lossless=True),
    "animated webp": encode(colours(), "WEBP", **FRAMES),
    "animated gif": encode(colours(), "GIF", **FRAMES),
    "lzw tiff": encode(colours(), "TIFF", compression="tiff_lzw"),
    "run-length tga": encode(colours(), "TGA", compression="tga_rle"),
    "run-length bmp": RLE,
}


@pytest.mark.parametrize("name", FILES)
def test_a_cut_picture_is_refused_and_a_whole_one_read(name: str) -> None:
    data = FILES[name]
    assert read_image(data, name).mode == "RGB"
    end = len(data) - (26 if "tga" in name else 0)  # its footer is an addition, which older files lack
    for kept in sorted({end - cut for cut in (1, 2, 3, 7, 20, 200, 1_000)} | {end * share // 16 for share in range(1, 16)}):
        with pytest.raises(BrokenImageError, match=f"^{name} "):
            read_image(data[: max(4, kept)], name)


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "webp", "bmp"])
def test_something_behind_a_picture_leaves_it_whole(name: str) -> None:
    assert np.array_equal(np.asarray(read_image(FILES[name] + b"more\0" * 9, name)), np.asarray(read_image(FILES[name], name)))


def test_damaged_exif_leaves_a_picture_as_it_is_stored_and_is_reported() -> None:
    data = encode(colours(), "PNG", exif=b"Exif\0\0XX*\0junk")
    assert np.array_equal(np.asarray(read_image(data)), np.asarray(colours()))
    kind = kind_of("image")
    inspector = kind.inspector(kind.medium(kind.settings(), 3), kind.settings())
    assert "its EXIF is damaged: it is used as it is stored" in inspector.look(data, "a.png", True)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_large_jpeg_is_decoded_smaller(factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.linear_gradient("L").resize((160, 96)).convert("RGB")
    data = encode(image, "JPEG", quality=95)
    monkeypatch.setenv(BUDGET, str(4 * 160 * 96 / factor**2 / 1e6))
    small = read_image(data, "a.jpg")
    assert small.size == (160 // factor, 96 // factor)
    assert np.abs(np.asarray(small, dtype=int) - np.asarray(image.reduce(factor), dtype=int)).max() <= 4
    kind = kind_of("image")
    inspector = kind.inspector(kind.medium(kind.settings(), 3), kind.settings())
    assert f"large: decoded at 1/{factor} of its size" in inspector.look(data, "a.jpg", True)
    with pytest.raises(BrokenImageError, match="too large"):
        read_image(encode(image, "JPEG", progressive=True), "a.jpg")


def test_a_profile_of_several_megabytes_is_read() -> None:
    data = encode(colours(), "PNG", icc_profile=bytes(3_000_000))
    assert len(open_image(data).info["icc_profile"]) == 3_000_000


def test_an_animation_damaged_behind_its_first_frame_is_reported_as_odd() -> None:
    data = bytearray(FILES["tiff"])
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * entries, len(data) + 100)  # where the next directory is
    kind = kind_of("image")
    assert kind.decode(bytes(data), "a.tif", kind.medium(kind.settings(), 3), kind.settings()).shape == (3, 64, 64)
    inspector = kind.inspector(kind.medium(kind.settings(), 3), kind.settings())
    assert "damaged behind its first frame, which alone is used" in inspector.look(bytes(data), "a.tif", True)
