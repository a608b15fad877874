"""Moving digits: two handwritten digits that bounce within the frame, drawn when they are read.

The protocol is that of Srivastava et al. (arXiv:1502.04681, section 4.1) as video pixel networks use it (arXiv:1610.00527, section 5.1):
20 frames of 64 x 64, of which the first ten are context; digits of 28 x 28 start at random places, in random directions, at one speed,
are reflected at the edges, and where they overlap the lighter value is seen. Clip ``i`` of a split is drawn from the seed ``(split, i)``
alone, so that the held-out clips are the same everywhere, and no handwritten digit is in both splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jielong.data.content_hash import hash_bytes
from jielong.data.ledger import Ledger
from jielong.data.source import DataError, Item, Source
from jielong.data.splits import Split
from jielong.media.images import encode

SIZE, FRAMES, CONTEXT, RATE = 64, 20, 10, 10.0
DIGIT, DIGITS = 28, 2
SPEED = 0.1
"""Of a digit, in free widths a frame: 3.6 pixels."""
TRAIN, HELDOUT = 100_000, 10_000
"""Clips of each split."""
_SEEDS: dict[Split, int] = {"train": 1, "heldout": 2}

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Handwritten:
    """Handwritten digits of one split.

    Attributes:
        pictures: ``(n, 28, 28)``, white on black.
        names: Which digit each is.
    """

    pictures: Grey
    names: tuple[str, ...]


def read_digits(path: Path) -> dict[Split, Handwritten]:
    """The digits of both splits, from the file that `jielong data build digits` writes.

    Raises:
        DataError: if it is damaged, or no such file.
    """
    try:
        table = pq.read_table(path, columns=["pixels", "digit", "split"])
        pixels, names, splits = (table.column(name).to_pylist() for name in ("pixels", "digit", "split"))
        pictures = np.frombuffer(b"".join(pixels), np.uint8).reshape(len(pixels), DIGIT, DIGIT)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} does not hold handwritten digits: {error}; remake it with `jielong data build digits`") from error
    found: dict[Split, Handwritten] = {}
    for split in _SEEDS:
        rows = [row for row, each in enumerate(splits) if each == split]
        if not rows:
            raise DataError(f"{path} holds no digits of the split {split!r}; remake it with `jielong data build digits`")
        found[split] = Handwritten(pictures[rows], tuple(str(names[row]) for row in rows))
    return found


def paths(split: Split, number: int) -> npt.NDArray[np.int64]:
    """Upper left corners ``(DIGITS, FRAMES, 2)`` of a clip's digits: straight lines at one speed, reflected at the edges."""
    rng = np.random.default_rng([_SEEDS[split], number])
    start, angle = rng.random((DIGITS, 1, 2)), 2 * np.pi * rng.random(DIGITS)
    step = SPEED * np.stack([np.sin(angle), np.cos(angle)], axis=-1)[:, None]
    free = start + step * np.arange(FRAMES)[:, None]
    reflected = 1 - np.abs(free % 2 - 1)  # a triangle wave: [0, 1] there and back
    corners: npt.NDArray[np.int64] = np.floor(reflected * (SIZE - DIGIT)).astype(np.int64).clip(0, SIZE - DIGIT)
    return corners


def moving(pictures: Grey, corners: npt.NDArray[np.int64]) -> Grey:
    """A clip ``(FRAMES, 64, 64)`` of digits at their places."""
    clip = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    for picture, path in zip(pictures, corners, strict=True):
        for frame, (row, column) in zip(clip, path, strict=True):
            part = frame[row : row + DIGIT, column : column + DIGIT]
            np.maximum(part, picture, out=part)
    return clip


class MovingDigits(Source):
    """Clips of both splits, drawn anew whenever they are read.

    Args:
        path: The file of handwritten digits.
        name: For messages.
        counts: Clips of each split.
    """

    def __init__(self, path: Path, name: str = "digits", counts: tuple[int, int] = (TRAIN, HELDOUT)) -> None:
        self.name, self.kind, self.unused, self.writing = name, "video", Ledger(), True
        self.native, self.channels = {"size": SIZE, "frames": FRAMES, "frame_rate": RATE}, 1
        self.drawn = True
        self._path, self._digits = path, read_digits(path)
        self._places: list[tuple[Split, int]] = [
            (split, number) for split, count in zip(_SEEDS, counts, strict=True) for number in range(count)
        ]
        self._rows = {  # of the digits of each clip; the first ones stay when there are more
            split: np.random.default_rng(_SEEDS[split]).integers(len(self._digits[split].names), size=(count, DIGITS))
            for split, count in zip(_SEEDS, counts, strict=True)
        }
        self.items = [self._item(split, number) for split, number in self._places]

    def _item(self, split: Split, number: int) -> Item:
        first, second = sorted(self._digits[split].names[row] for row in self._rows[split][number])
        return Item(f"{split}/{number:06d}", (f"the digits {first} and {second} move",), f"{first} {second}", split)

    def pixels(self, index: int) -> Grey:
        """A clip, ``(FRAMES, 64, 64)``."""
        split, number = self._places[index]
        return moving(self._digits[split].pictures[self._rows[split][number]], paths(split, number))

    def blob(self, index: int) -> bytes:
        """A clip as GIF, which keeps the 256 grey levels, and is encoded and decoded in a fraction of the time of WebP."""
        first, *others = map(Image.fromarray, self.pixels(index))
        return encode(first, "GIF", save_all=True, append_images=others, duration=round(1000 / RATE), optimize=False)

    @cached_property
    def content_hashes(self) -> list[str]:
        """Of the handwritten digits and the seed of each clip, in place of its pixels: none has to be drawn for it."""
        base = hash_bytes(self._path.read_bytes())
        return [hash_bytes(f"{base} {split} {number}".encode()) for split, number in self._places]
