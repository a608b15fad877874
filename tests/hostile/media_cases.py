"""Hostile pictures, sound, and the words beside them."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import soundfile
from PIL import Image

from .case import Case, Material, brief, put
from .damage import TEXTS, damaged, png, wav

INSPECT = ("data", "inspect", "set")
PICTURES = (INSPECT, ("train", "vqgan-tiny", "--data", "set", "--dry-run"), (*INSPECT, "--json"), INSPECT)
TRAIN_PICTURES = ("train", "vqgan-tiny", "--data", "set", "--out", "run", *brief())
TRAIN_SOUND = ("train", "vocos-tiny", "--data", "set", "--out", "run", *brief("losses.adversarial_sound=null"))
TRAIN_WORDS = ("train", "maskgit-tiny", "--data", "set", "--out", "run", *brief())


def whole_pictures() -> dict[str, bytes]:
    """A picture in several formats by ending."""
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    kinds = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF"}
    found = {}
    for ending, kind in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found[ending] = buffer.getvalue()
    return found


def lying_pictures() -> dict[str, bytes]:
    """Pictures that declare what they do not hold, or hold too much."""
    nothing = zlib.compress(b"\0" * 100)
    frames = [Image.new("P", (8, 8), number % 200) for number in range(2000)]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    profile = io.BytesIO()
    Image.new("RGB", (8, 8)).save(profile, "PNG", icc_profile=b"\0\0\0\x80" + b"x" * 124)
    bomb = zlib.compress((b"\0" * (1 + 3 * 13_300)) * 13_300, 1)
    bmp = whole_pictures()["bmp"]
    return {
        "of 13,300 x 13,300": png(13_300, 13_300, bomb),
        "of 100,000 x 100,000": png(100_000, 100_000, nothing),
        "of 2^31 x 2^31": png(0x7FFFFFFF, 0x7FFFFFFF, nothing),
        "of 0 x 0": png(0, 0, nothing),
        "of 16 bits": png(4, 4, zlib.compress(b"\0" * 4 * 25), 16),
        "of an unknown colour": png(4, 4, nothing, 8, 7),
        "with 2,000 frames": animated.getvalue(),
        "with a broken profile": profile.getvalue(),
        "bmp of -1 rows": bmp[:22] + struct.pack("<i", -(2**31)) + bmp[26:],
        "bmp of many colours": bmp[:46] + struct.pack("<I", 0xFFFFFFFF) + bmp[50:],
        "gif of 65,535 x 65,535": b"GIF89a\xff\xff\xff\xff\xf0\0\0" + b"\0" * 6 + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;",
        "webp of absurd length": b"RIFF\xff\xff\xff\x7fWEBPVP8X\n\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
        "tiff whose directory is itself": b"II*\0\x08\0\0\0\x01\0\x00\x01\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
        "tiff of many tags": b"II*\0\x08\0\0\0\xff\xff" + b"\x00\x01\x04\0\xff\xff\xff\xff\0\0\0\0" * 100,
    }


def hostile_drawings() -> dict[str, bytes]:
    """SVG that refers to files, is nested or repeated without end, or declares what no memory holds."""
    begin, end = b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ', b"</svg>"
    square = b'<rect id="u0" width="9" height="9"/>'
    uses = b"".join(b'<g id="u%d">%s</g>' % (n, b'<use xlink:href="#u%d"/>' % (n - 1) * 10) for n in range(1, 12))
    entities = b"".join(b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, 12))
    return {
        "of 10^9 x 10": begin + b'width="1e9" height="10">' + square + end,
        "of 10^300 x 1": begin + b'width="1e300" height="1">' + square + end,
        "of nothing": begin + b'width="0" height="-5">' + square + end,
        "with a password": begin + b'viewBox="0 0 9 9"><image href="/etc/passwd" width="9" height="9"/>' + end,
        "with a device": begin + b'viewBox="0 0 9 9"><image xlink:href="file:///dev/zero" width="9" height="9"/>' + end,
        "of repetitions": begin + b'viewBox="0 0 9 9"><defs>' + square + uses + b'</defs><use xlink:href="#u11"/>' + end,
        "of itself": begin + b'viewBox="0 0 9 9"><pattern id="p" width="1" height="1"><rect fill="url(#p)"/></pattern><g',
        "of entities": b'<!DOCTYPE svg [<!ENTITY e0 "lol">' + entities + b"]>" + begin + b'viewBox="0 0 9 9">&e11;' + end,
        "of layers": begin + b'viewBox="0 0 9 9">' + b'<g opacity="0.9">' * 900 + square + b"</g>" * 900 + end,
        "of a deep tree": begin + b'viewBox="0 0 9 9">' + b"<g>" * 300_000 + b"</g>" * 300_000 + end,
        "cut": begin + b'viewBox="0 0 9 9"><rect width="5"',
        "compressed without end": gzip.compress(begin + b'viewBox="0 0 9 9">' + b" " * 600_000_000, 1),
    }


def bad_files(
    special: Mapping[str, tuple[str, bytes]], whole: Mapping[str, bytes], draw: random.Random, count: int
) -> Iterator[tuple[str, str, bytes]]:
    """Name, ending and content: all special files, then damaged copies of whole ones up to ``count``."""
    for name, (ending, data) in special.items():
        yield name, ending, data
    for number in range(len(special), count):
        ending = draw.choice(list(whole))
        kind, data = damaged(whole[ending], draw)
        yield f"{kind} {ending} {number}", ending, data


def pictures(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Damaged, lying and disguised pictures among whole ones."""
    for name, words in (("inspected", INSPECT), ("trained", TRAIN_PICTURES)):
        yield Case(
            "pictures", f"whole, {name}", "", put("set/train/red/b.jpg", whole_pictures()["jpg"], material.pictures), words, whole=True
        )
    whole = whole_pictures()
    special = {f"a picture {name}": ("png", data) for name, data in lying_pictures().items()}
    special |= {f"{name} as {ending}": (ending, data) for name, data in TEXTS.items() for ending in ("png", "jpg")}
    special |= {f"a drawing {name}": ("svg", data) for name, data in hostile_drawings().items()}
    for number, (name, ending, data) in enumerate(bad_files(special, whole, draw, count)):
        command = TRAIN_PICTURES if number % 8 == 7 else PICTURES[number % len(PICTURES)]
        yield Case("pictures", name, f"bad.{ending}", put(f"set/train/red/bad.{ending}", data, material.pictures), command)


def whole_sounds() -> dict[str, bytes]:
    """A sound in several formats by ending."""
    tone = 0.5 * np.sin(np.arange(4000) / 8).astype(np.float32)
    found = {}
    for ending, kind in {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3", "aiff": "AIFF", "au": "AU"}.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, tone, 16000, format=kind)
        found[ending] = buffer.getvalue()
    return found


def lying_sounds() -> dict[str, bytes]:
    """Sound files that declare what they do not hold, or hold too much."""
    day = io.BytesIO()
    soundfile.write(day, np.zeros(16000 * 3600, np.int16), 16000, format="FLAC")  # an hour of silence in some kilobytes
    spikes = np.array([np.nan, np.inf, -np.inf, 1e38] * 1000, np.float32).tobytes()
    return {
        "an hour of silence.flac": day.getvalue(),
        "of rate 0.wav": wav(rate=0),
        "of rate 4 G.wav": wav(rate=0xFFFFFFFF),
        "of 65,535 channels.wav": wav(channels=0xFFFF),
        "of 0 channels.wav": wav(channels=0),
        "of 0 bits.wav": wav(bits=0),
        "of 64 bits.wav": wav(bits=64),
        "of unknown coding.wav": wav(kind=0x1234),
        "that declares 4 GB.wav": wav(declared=0xFFFFFFF0),
        "that declares 2 GB.wav": wav(declared=0x7FFFFFFF),
        "of NaN.wav": wav(bits=32, data=spikes, kind=3),
        "without samples.wav": wav(data=b""),
        "of one sample.wav": wav(data=b"\1\0"),
        "of an odd length.wav": wav(data=b"\1\0\1"),
        "of silence.wav": wav(data=b"\0" * 32000),
        "of absurd frames.au": b".snd" + struct.pack(">IIIII", 24, 0xFFFFFFFE, 3, 16000, 1) + b"\0" * 100,
        "of absurd offset.au": b".snd" + struct.pack(">IIIII", 0xFFFFFFFF, 100, 3, 16000, 1) + b"\0" * 100,
        "of absurd length.flac": whole_sounds()["flac"][:18] + b"\x03\xe8\x00\xff\xff\xff\xff\xff" + whole_sounds()["flac"][26:],
    }


def sounds(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Damaged, lying and disguised sound files among whole ones."""
    for name, words in (("inspected", INSPECT), ("trained", TRAIN_SOUND)):
        yield Case("sound", f"whole, {name}", "", put("set/train/b.flac", whole_sounds()["flac"], material.sounds), words, whole=True)
    whole = whole_sounds()
    special = {f"a sound {name}": (name.rpartition(".")[2], data) for name, data in lying_sounds().items()}
    special |= {f"{name} as {ending}": (ending, data) for name, data in TEXTS.items() for ending in ("wav", "mp3")}
    for number, (name, ending, data) in enumerate(bad_files(special, whole, draw, count)):
        command = TRAIN_SOUND if number % 8 == 7 else ("train", "vocos-tiny", "--data", "set", "--dry-run") if number % 3 == 2 else INSPECT
        yield Case("sound", name, f"bad.{ending}", put(f"set/train/bad.{ending}", data, material.sounds), command)


def captions(material: Material, draw: random.Random, count: int) -> Iterator[Case]:
    """Words beside pictures that are no text, too long, or of a wrong type."""
    yield Case("captions", "whole", "", put("set/train/red/0.txt", "红 ✓".encode(), material.pictures), TRAIN_WORDS, whole=True)
    deep = b"[" * 100_000 + b"]" * 100_000
    records: dict[str, bytes] = {
        **{name: data for name, data in TEXTS.items() if name != "long line"},
        "ten megabytes": b"word " * 2_000_000,
        "deep": deep,
        "deep object": b'{"a":' * 5000 + b"1" + b"}" * 5000,
        "not a number": b'{"caption": NaN, "label": Infinity}',
        "long number": b'{"caption": ' + b"9" * 10_000 + b"}",
        "lists": b'{"caption": [[1, null], {}], "label": []}',
        "nulls": b'{"caption": null, "label": null}',
        "surrogate": b'{"caption": "\\ud800\\udfff\\ud800"}',
        "twice": b'{"caption": "a", "caption": "b"}',
        "cut": b'{"caption": "a',
        "array": b'["caption", "a"]',
        "number": b"17",
        "boolean": b'{"caption": true}',
        "zero": b'{"caption": "a\\u0000b"}',
        "separators": "a\u2028b\u2029c\x85d\x1ce".encode(),
        "many keys": json.dumps({str(number): number for number in range(20_000)}).encode(),
        "emoji": "👨‍👩‍👧‍👦".encode() * 2000,
        "combining": ("e" + "\u0301" * 5000).encode(),
    }
    for number in range(max(count, 2 * len(records))):
        ending = ("txt", "json")[number % 2]
        if number < 2 * len(records):
            name, data = list(records.items())[number // 2]
        else:
            name, data = damaged(b'{"caption": "a red square", "label": "red", "split": "train"}', draw)
        command = TRAIN_WORDS if number % 3 == 2 else INSPECT
        yield Case(
            "captions", f"{name} {ending} {number}", f"0.{ending}", put(f"set/train/red/0.{ending}", data, material.pictures), command
        )
