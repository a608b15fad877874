"""Near-duplicates among clips, by perceptual hashes of their frames (ImageHash)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from jielong.config.registry import Config
from jielong.curation.ranges import Measure
from jielong.curation.stages.base import Pixels, Stage
from jielong.data.duplicates import signs
from jielong.media.reading.libraries import library

BITS = 64
"""Of the hash of a frame."""
_BLOCK = 256

Hashes = tuple[int | None, ...]
"""Of the frames of a clip that are measured; ``None`` for a frame of one colour, which has none."""


class DuplicateLimits(Config):
    """Limits of what is a near-duplicate.

    Attributes:
        bits: Two clips are near-duplicates if the hashes of their frames differ in no more bits of 64, on average over the frames; 0 asks
            for equal ones.
    """

    bits: float = Field(default=4, ge=0, lt=32)


class Duplicates(Stage):
    """Drops clips that are nearly those of an earlier clip that is kept: the same frames scaled, compressed or recoloured."""

    name = "duplicates"
    about = "clips nearly equal to one that is kept"
    reason = "near-duplicate"
    measures = (Measure("bits", "bits of 64", "mean difference from the nearest clip kept before", "near-duplicate", "near-duplicate"),)

    def check(self) -> None:
        """ImageHash."""
        library("imagehash", "curate", "near-duplicates")

    @staticmethod
    def hashes(stills: Sequence[Pixels]) -> Hashes:
        """Perceptual hashes of frames."""
        phash = library("imagehash", "curate", "near-duplicates").phash
        return tuple(None if (frame == frame[:1, :1]).all() else int(str(phash(Image.fromarray(frame))), 16) for frame in stills)


def nearest_before(clips: Sequence[Hashes], bits: float) -> list[tuple[int, float] | None]:
    """For each clip the nearest one kept before it, and in how many bits their frames differ on average, if in no more than ``bits``.

    A clip with such a neighbour is not kept. Clips all of whose frames are of one colour are compared with none.

    Args:
        clips: Hashes of the frames of each clip, in order; the same number of frames each.
        bits: The most bits.
    """
    if not clips:
        return []
    known = np.array([[value is not None for value in clip] for clip in clips], np.float32)
    frames = signs([value or 0 for clip in clips for value in clip]).reshape(len(clips), -1, BITS) * known[:, :, None]
    rows = frames.reshape(len(clips), -1)
    kept, kept_rows, kept_known = list[int](), np.empty_like(rows), np.empty_like(known)
    found: list[tuple[int, float] | None] = []
    for begin in range(0, len(clips), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        before = len(kept)
        outer = _bits(rows[block], known[block], kept_rows[:before], kept_known[:before])
        inner = _bits(rows[block], known[block], rows[block], known[block])
        for place in range(len(outer)):
            distances = np.concatenate([outer[place], inner[place, [each - begin for each in kept[before:]]]])
            nearest = int(distances.argmin()) if len(distances) else -1
            if nearest >= 0 and distances[nearest] <= bits:
                found.append((kept[nearest], float(distances[nearest])))
            else:
                found.append(None)
                kept.append(begin + place)
        new = kept[before:]
        kept_rows[before : len(kept)], kept_known[before : len(kept)] = rows[new], known[new]
    return found


def _bits(
    rows: NDArray[np.float32], known: NDArray[np.float32], others: NDArray[np.float32], known_others: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Mean differing bits over the frames that have a hash in both, ``(n, m)``; infinite where there is none."""
    both = known @ known_others.T
    differing = (BITS * both - rows @ others.T) / 2
    return np.where(both > 0, differing / np.maximum(both, 1), np.float32(np.inf)).astype(np.float32)
