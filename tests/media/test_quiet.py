"""Lines that decoders print by themselves do not reach the terminal; others do."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from PIL import Image

from jielong.media.audio import encode_audio
from jielong.media.images import encode
from jielong.media.reading.faults import BrokenImageError
from jielong.media.reading.pictures import read_image
from jielong.media.reading.quiet import quiet
from jielong.media.reading.sound import read_audio


def test_damaged_files_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("soundfile")
    import torch

    data = bytearray(encode(Image.fromarray(np.arange(4_096, dtype=np.uint8).reshape(64, 64)), "TIFF", compression="tiff_deflate"))
    data[12:40] = bytes(28)
    with pytest.raises(BrokenImageError, match=r"a\.tif"):
        read_image(bytes(data), "a.tif")
    many = bytearray(encode(Image.new("RGB", (8, 8)), "TIFF"))
    many[many.index(struct.pack("<HHIHH", 277, 3, 1, 3, 0)) + 8] = 200  # samples a pixel
    with pytest.raises(BrokenImageError, match=r"b\.tif"):
        read_image(bytes(many), "b.tif")
    sound = encode_audio(torch.rand(1, 16_000) - 0.5, 16_000, ".mp3")
    read_audio(sound + bytes(3) + sound[300:], "a.mp3")
    assert capfd.readouterr() == ("", "")


def fails() -> None:
    with quiet(True):
        os.write(2, b"error: it ends\n")
        raise ZeroDivisionError


def test_what_others_print_meanwhile_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet(True):
        os.write(2, b"ZIPDecode: Decoding error at scanline 0\nwarning: a disk is full\n[src/libmpg123/id3.c:1] error: Whoa!\n")
    with pytest.raises(ZeroDivisionError):
        fails()
    os.write(2, b"behind\n")
    assert capfd.readouterr().err == "warning: a disk is full\nerror: it ends\nbehind\n"
