"""The tables of the set `faces`: distinct pictures with captions, split by combinations of style, hair and its colour."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jielong.core.json import JSON
from jielong.data.built import BuildError
from jielong.data.splits import unseen_combinations
from jielong.data.table import write_table
from jielong.media.images import encode
from jielong_zoo.builders.faces.captions import captions, captions_zh
from jielong_zoo.builders.faces.drawing import Combination, Face, Pixels, draw
from jielong_zoo.builders.faces.tables import STYLES

SIZE = 64
COUNT = 24_000
MOST_ROUNDS = 200
"""Times that further seeds of a style are drawn in place of faces that equal earlier ones."""
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Drawn:
    """A face and its picture, a lossless WebP."""

    name: str
    face: Face
    image: bytes


def rounded(pixels: Pixels) -> Pixels:
    """Six bits a channel, white kept: nothing to the eye, a fifth of the file."""
    return np.where(pixels == 255, 255, (pixels.astype(np.uint16) + 2) // 4 * 4).clip(0, 255).astype(np.uint8)


def webp(pixels: Pixels) -> bytes:
    """RGB pixels as a lossless WebP."""
    return encode(Image.fromarray(pixels), "WEBP", lossless=True, quality=80, method=4)


def drawn_faces(modules: Path, count: int, size: int, progress: Progress | None = None) -> Iterator[Drawn]:
    """Distinct pictures, equally many of each style; the first ones stay when ``count`` grows.

    Raises:
        BuildError: if a style does not have so many.
    """
    for place, style in enumerate(STYLES):
        wanted = count // len(STYLES) + (place < count % len(STYLES))
        seen: set[bytes] = set()
        number = 0
        for _ in range(MOST_ROUNDS):
            if len(seen) == wanted:
                break
            seeds = [f"{style}-{n:05d}" for n in range(number, number + wanted - len(seen))]
            faces = [Face(style, STYLES[style].draw(random.Random(seed)), seed) for seed in seeds]
            for face, pixels in zip(faces, map(rounded, draw(faces, modules, size)), strict=True):
                digest = hashlib.sha256(pixels.tobytes()).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield Drawn(face.seed, face, webp(pixels))
                    if progress is not None:
                        progress(1)
            number += len(seeds)
        if len(seen) < wanted:
            raise BuildError(f"{number:,} seeds of the style {style} give {len(seen):,} different faces, not {wanted:,}: build fewer")


def held_out(faces: Iterable[Face]) -> set[Combination]:
    """Combinations of style, hair and colour that training does not see."""
    return unseen_combinations(Counter(face.combination for face in faces if face.combination is not None))


def rows(drawn: Iterable[Drawn], out: set[Combination]) -> list[JSON]:
    """Rows of `faces`."""
    table: list[JSON] = []
    for each in drawn:
        face = each.face
        english, chinese = captions(face.style, face.attributes, face.seed), captions_zh(face.style, face.attributes, face.seed)
        table.append(
            {
                "image": each.image,
                "caption": english[0],
                "captions": english,
                "caption_zh": chinese[0],
                "captions_zh": chinese,
                "style": face.style,
                **face.attributes,
                "name": each.name,
                "split": "heldout" if face.combination in out else "train",
            }
        )
    return table


def write_faces(path: Path, drawn: list[Drawn], size: int) -> Mapping[str, int]:
    """Write `faces`; returns the number of rows of each split."""
    table = rows(drawn, held_out(each.face for each in drawn))
    write_table(path, table, item="image", caption="caption", label="style", key=["name"], size=size)
    return Counter(str(row["split"]) for row in table)
