"""Reading any picture to 8-bit RGB, and the way between 8 bits and [-1, 1]."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from jielong.media.images import (
    animation,
    encode,
    fit,
    from_tensor,
    sheet,
    to_bytes,
    to_bytes_tensor,
    to_data_uri,
    to_float,
    to_tensor,
    write_bytes,
    write_image,
)
from jielong.media.reading.faults import BrokenImageError
from jielong.media.reading.pictures import read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def noise(height: int = 5, width: int = 7) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_every_8_bit_value_survives_the_way_to_float_and_back():
    values = torch.arange(256, dtype=torch.uint8)
    media = to_float(values)
    assert media.dtype == torch.float32
    assert media.min() == -1
    assert media.max() == 1
    assert torch.equal(to_bytes(media), values)


def test_out_of_range_is_clamped_and_halves_are_rounded_not_cut():
    assert to_bytes(torch.tensor([-7.0, 7.0, float("nan"), float("inf")])).tolist() == [0, 255, 128, 255]
    assert to_bytes(to_float(torch.tensor([9], dtype=torch.uint8)) + 0.6 / 127.5).item() == 10


def test_tensor_and_picture_are_inverse():
    image = noise()
    assert np.array_equal(np.asarray(from_tensor(to_tensor(image))), np.asarray(image))
    assert to_tensor(image).shape == (3, 5, 7)
    assert to_bytes_tensor(image, 1).shape == (1, 5, 7)
    with pytest.raises(ValueError, match="1 or 3"):
        from_tensor(torch.zeros(2, 4, 4))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode):
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    result = read_image(encode(image.convert(mode)))
    assert result.mode == "RGB"
    assert [result.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), WHITE]


def test_half_transparent_is_half_way():
    assert read_image(encode(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))).getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)


def test_transparent_palette_colour_is_laid_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    result = read_image(encode(image, transparency=1))
    assert [result.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    result = read_image(encode(Image.fromarray(values)))
    assert [result.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def test_float_tiff_between_0_and_1_is_scaled():
    result = read_image(encode(Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)), "TIFF"))
    assert [result.getpixel((x, 0))[1] for x in range(3)] == [0, 128, 255]


def test_exif_orientation_is_honoured():
    image = Image.new("RGB", (16, 8), "white")
    image.paste(RED, (0, 0, 8, 8))  # the left half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn right by 90 degrees to view": the left half comes up
    result = read_image(encode(image, "PNG", exif=exif))
    assert result.size == (8, 16)
    assert result.getpixel((4, 2)) == RED
    assert result.getpixel((4, 13)) == WHITE


def test_first_frame_of_an_animation_is_used():
    data = animation([Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")], 0.1, "GIF")
    assert read_image(data).getpixel((0, 0)) == RED


@pytest.mark.parametrize(("data", "word"), [(b"", "is empty"), (b"hello", "not a known"), (None, "decoded")])
def test_broken_data_is_named_with_the_reason(data, word):
    data = encode(noise(64, 64))[:3000] if data is None else data
    with pytest.raises(BrokenImageError, match=f"cat.png.*{word}"):
        read_image(data, "cat.png")


def test_fit_takes_the_centre_square_of_the_shorter_side():
    image = Image.new("RGB", (30, 10), "white")
    image.paste(RED, (10, 0, 20, 10))
    assert fit(image, (10, 10)).getcolors() == [(100, RED)]
    assert fit(image, (5, 5)).size == (5, 5)
    assert fit(image.resize((10, 10)), (10, 10)).size == (10, 10)


def test_shrinking_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (64, 32)))
    small = np.asarray(fit(stripes, (16, 16)))
    assert abs(small[:, 2:-2].astype(int) - 128).max() <= 1  # away from the borders; a filter without antialiasing would give 0 or 255


def test_sheet_places_pictures_in_rows():
    media = torch.stack([to_float(torch.full((3, 4, 4), v, dtype=torch.uint8)) for v in (10, 20, 30)])
    canvas = sheet(media, columns=2, padding=2)
    assert canvas.size == (2 * 6 + 2, 2 * 6 + 2)
    assert [canvas.getpixel(at)[0] for at in ((3, 3), (9, 3), (3, 9), (9, 9), (0, 0))] == [10, 20, 30, 255, 255]
    assert sheet(media, scale=2, padding=0).size == (24, 8)
    assert sheet(media, captions=["a", "b" * 99, ""]).height > sheet(media).height
    with pytest.raises(ValueError, match="captions"):
        sheet(media, captions=["a"])
    with pytest.raises(ValueError, match="at least one"):
        sheet([])


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_image(tmp_path / "new" / "a", noise())
    assert path.name == "a.png"
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(noise()))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"other")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    with pytest.raises(ValueError, match=r"\.xyz"):
        write_image(tmp_path / "a.xyz", noise())


def test_data_uri_holds_the_picture():
    head, data = to_data_uri(to_tensor(noise())).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), np.asarray(noise()))


@pytest.mark.parametrize("kind", ["WEBP", "GIF"])
def test_animation_has_every_frame_and_its_time(kind):
    frames = torch.stack([to_float(torch.full((3, 8, 8), v, dtype=torch.uint8)) for v in (0, 128, 255)])
    result = Image.open(io.BytesIO(animation(frames, [0.1, 0.2, 0.3], kind)))
    assert result.n_frames == 3
    times, values = [], []
    for index in range(3):
        result.seek(index)
        values.append(result.convert("RGB").getpixel((4, 4))[0])
        times.append(result.info["duration"])
    assert values == [0, 128, 255]
    assert sum(times) in (600, 300)  # Pillow reports a WebP frame's time when the next is read
    with pytest.raises(ValueError, match="durations"):
        animation(frames, [0.1], kind)
