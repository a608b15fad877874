"""SVG: drawn at the size that is read, by itself, and bounded."""

from __future__ import annotations

import base64
import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jielong.config.recipe import load
from jielong.data.opening import open_data
from jielong.media.images import fit
from jielong.media.kinds.base import kind_of
from jielong.media.reading.faults import BrokenImageError
from jielong.media.reading.libraries import MissingLibraryError
from jielong.media.reading.pictures import open_image, read_image

pytest.importorskip("resvg_py")
SPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
LEFT = '<rect width="50%" height="100%" fill="#f00"/>'


def svg(inside: str = LEFT, size: str = 'width="20" height="10"', before: str = "") -> bytes:
    return f"{before}<svg {SPACES} {size}>{inside}</svg>".encode()


def left_half(width: int, height: int, background: str = "white") -> np.ndarray:
    image = Image.new("RGB", (width, height), background)
    image.paste("#f00", (0, 0, width // 2, height))
    return np.asarray(image)


SIZES = (
    'width="20" height="10"',
    'viewBox="0 0 20 10"',
    'viewBox="0 0 20 10" width="100%"',
    'width="20mm" height="10mm"',
    "viewBox='0 0 1 .5'",
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [16, 64, 200])
def test_a_drawing_covers_the_size_that_is_read_with_sharp_edges(size: str, rows: int) -> None:
    drawn = read_image(svg(size=size), covers=(rows, rows))
    difference = np.abs(np.asarray(drawn, dtype=int) - left_half(2 * rows, rows))
    assert difference.max() <= (1 if "mm" in size else 0)  # a millimetre is no binary fraction of a pixel


@pytest.mark.parametrize("size", ['width="33.3" height="99"', 'width="100" height="33.3"', 'width="37" height="37"', 'viewBox="0 0 1 3"'])
def test_the_centre_is_cut_without_resampling(size: str) -> None:
    drawn = read_image(svg(size=size), covers=(64, 64))
    left, top = (drawn.width - 64) // 2, (drawn.height - 64) // 2
    assert min(drawn.size) == 64
    assert np.array_equal(np.asarray(fit(drawn, (64, 64))), np.asarray(drawn.crop((left, top, left + 64, top + 64))))


def test_compressed_marked_and_disguised_drawings_are_read() -> None:
    plain = left_half(20, 10)
    for data in (gzip.compress(svg()), b"\xef\xbb\xbf" + svg(), svg(before='<?xml version="1.0"?><!-- a -->\n<!DOCTYPE svg>')):
        assert np.array_equal(np.asarray(read_image(data, "a.png")), plain)


def test_the_background_lies_behind_every_format_with_transparency(tmp_path: Path) -> None:
    kind = kind_of("image")
    settings = kind.settings(size=16, background="#00f")
    clear = Image.new("RGBA", (32, 16))
    clear.paste((255, 0, 0, 255), (0, 0, 16, 16))
    for ending in ("png", "webp", "gif", "tif"):
        clear.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    (tmp_path / "a.svg").write_bytes(svg())
    expected = left_half(16, 16, "#00f")
    for path in sorted(tmp_path.iterdir()):
        found = kind.decode(path.read_bytes(), path.name, kind.medium(settings, 3), settings)
        assert np.array_equal(found.numpy().transpose(1, 2, 0), expected), path
    plain, coloured = open_data(tmp_path, size=16), open_data(tmp_path, size=16, background="#00f")
    assert plain.fingerprint != coloured.fingerprint
    assert plain.fingerprint == open_data(tmp_path, size=16, background="#fff").fingerprint


@pytest.mark.parametrize("colour", ["nocolour", "#12345", "#11223344", 7])
def test_a_background_is_an_opaque_colour(colour: object) -> None:
    with pytest.raises(ValueError, match="write a colour, such as white"):
        kind_of("image").settings(background=colour)


BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
INNER = base64.b64encode(svg('<image width="9" height="9" href="blue.png"/>')).decode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (svg(size='width="1e9" height="1e9"'), "too large"),
        (svg(size='width="1e300" height="1"'), "too large"),
        (svg(before=f'<!DOCTYPE svg [<!ENTITY a0 "lol">{BOMB}]>', inside="&a11;"), "amplification"),
        (svg('<image width="9" height="9" xlink:href="file:///etc/passwd"/>'), "refers to file:///etc/passwd"),
        (svg('<image width="9" height="9" href="blue.png"/>'), "refers to blue.png"),
        (svg('<use href="other.svg#a"/>'), "refers to other.svg#a"),
        (svg('<g opacity="0.9">' * 900 + LEFT + "</g>" * 900), "nested too deep|nodes limit"),
        (svg('<g opacity="0.9">' * 100_000 + LEFT + "</g>" * 100_000), "nested too deep|nodes limit"),
        (svg()[:-9], "not whole SVG"),
        (svg("&nothing;"), "not whole SVG"),
        (gzip.compress(svg())[:-9], "cut off"),
        (svg(size='width="0" height="10"'), "has no area"),
        (svg("\xe9").decode().encode("latin-1"), "not whole SVG"),
        (b'<?xml version="1.0"?><html/>', "outermost element is html"),
    ],
)
def test_a_hostile_drawing_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(BrokenImageError, match=f"^bad.svg .*({says})"):
        read_image(data, "bad.svg")
    assert np.array_equal(np.asarray(read_image(svg())), left_half(20, 10))  # and the next one is drawn


def test_a_drawing_within_a_drawing_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "blue.png")
    monkeypatch.chdir(tmp_path)
    drawn = read_image(svg(f'<image width="20" height="10" href="data:image/svg+xml;base64,{INNER}"/>'))
    assert drawn.getcolors() == [(200, (255, 255, 255))]


def test_a_large_drawing_that_is_compressed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JIELONG_DECODED_MB", "1")
    with pytest.raises(BrokenImageError, match="too large"):
        read_image(gzip.compress(svg(" " * 2_000_000)), "a.svgz")


def test_without_resvg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingLibraryError, match=r"a.svg: SVG needs resvg_py.*pip install 'jielong\[svg\]'"):
        open_image(svg(), "a.svg")


def test_a_folder_of_drawings_is_a_set_by_the_bytes_of_its_files(tmp_path: Path) -> None:
    for number, colour in enumerate(("red", "blue", "lime")):
        (tmp_path / f"{number}.svg").write_bytes(svg(f'<rect width="20" height="10" fill="{colour}"/>'))
    found = open_data(tmp_path, size=8)
    assert [tuple(item.mean((1, 2)).tolist()) for item in found.media([0, 1, 2])] == [(1, -1, -1), (-1, -1, 1), (-1, 1, -1)]
    kind = kind_of("image")
    inspector = kind.inspector(found.medium, found.settings)
    assert inspector.look(svg('<text y="9">A</text>'), "a.svg", False) == ["text in SVG: drawn with the fonts of this system"]
    assert inspector.look(svg(size='width="4" height="4"'), "b.svg", True) == []


def test_a_colour_on_the_command_line_needs_no_quotes() -> None:
    assert kind_of("image").settings(background="#204060") == load("vqgan-tiny", ["data.background=#204060"]).data.model_copy(
        update={"set": "emoji", "size": 64}
    )
