"""The judge of `avatars`: the mouth's shape in each frame against that of the phoneme, closed eyes, and the face otherwise unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.core.medium import Medium
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.judges.base import Judge, JudgedItems, share
from jielong.evaluation.provenance import Measurement
from jielong.media.reading.faults import BrokenImageError
from jielong.media.reading.pictures import read_image

SIZE, RATE = 64, 12.5
"""Of the clips; mouths are compared pixel by pixel."""
MOUTH, EYES = (46, 20, 18, 24), (31, 10, 15, 44)
"""Top, left, height and width of the pixels that a mouth and a blink may change."""
SHAPES = ("closed", "teeth", "open", "wide", "round", "pucker", "bite", "tongue", "smile")
"""Of the templates in a row's picture ``mouths``, from above."""
NEAR = 32 / 255 * 2
"""Largest difference, in [-1, 1], of a pixel that counts as unchanged."""


@dataclass(frozen=True)
class Talking:
    """What a clip shows.

    Attributes:
        shapes: Mouth shape of each frame.
        closed: Whether the eyes are closed, of each frame.
        kept: Share of the pixels outside of mouth and eyes that are as in the real clip's first frame, of each frame.
    """

    shapes: tuple[str, ...]
    closed: tuple[bool, ...]
    kept: tuple[float, ...]


def read_talking(made: Tensor, first: Tensor, mouths: bytes, eyes: bytes) -> Talking:
    """What a clip shows, by the nearest template (least mean squared error) in the place of the mouth and of the eyes.

    Args:
        made: ``(3, T, 64, 64)`` in [-1, 1].
        first: The face as it should be, ``(3, 64, 64)``.
        mouths: Picture of this face's mouths, one above the other.
        eyes: Of its open and its closed eyes.

    Raises:
        JudgeError: if a picture of templates is damaged.
    """
    mouth = _nearest(made, MOUTH, _templates(mouths, MOUTH, len(SHAPES)))
    eye = _nearest(made, EYES, _templates(eyes, EYES, 2))
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    for top, left, height, width in (MOUTH, EYES):
        outside[top : top + height, left : left + width] = False
    same = (made - first[:, None]).abs().amax(0) <= NEAR  # (T, H, W)
    kept = same[:, outside].double().mean(1)
    return Talking(tuple(SHAPES[number] for number in mouth), tuple(number == 1 for number in eye), tuple(kept.tolist()))


def _templates(picture: bytes, box: tuple[int, int, int, int], count: int) -> Tensor:
    """``(count, 3, h, w)`` in [-1, 1]."""
    try:
        pixels = torch.from_numpy(np.array(read_image(picture, "the templates of a face"))).float() / 127.5 - 1
    except BrokenImageError as error:
        raise JudgeError(f"the templates of a face cannot be read: {error}") from error
    if pixels.shape != (count * box[2], box[3], 3):
        raise JudgeError(f"the templates of a face are {count} of {box[2]} x {box[3]} pixels, not a picture of {tuple(pixels.shape[:2])}")
    return pixels.unflatten(0, (count, box[2])).permute(0, 3, 1, 2)


def _nearest(made: Tensor, box: tuple[int, int, int, int], templates: Tensor) -> Sequence[int]:
    """The nearest template of each frame."""
    top, left, height, width = box
    seen = made[:, :, top : top + height, left : left + width].transpose(0, 1)  # (T, 3, h, w)
    errors = (seen[:, None] - templates).square().flatten(2).mean(2)
    nearest: list[int] = errors.argmin(1).tolist()
    return nearest


class AvatarJudge(Judge):
    """Figures of `avatars`.

    - ``mouth_shape``: share of frames whose mouth has the shape of the phoneme that is spoken, or of the smile that was asked for.
    - ``eyes_closed``: share of frames of a blink in which the eyes are closed.
    - ``eyes_open``: share of the other frames in which they are open.
    - ``face_unchanged``: share of pixels outside of mouth and eyes that stay as they are in the first frame of the real clip.
    """

    columns: ClassVar = ("shapes", "closed", "mouths", "eyes")
    names: ClassVar = ("mouth_shape", "eyes_closed", "eyes_open", "face_unchanged")

    def figures(self, items: JudgedItems) -> dict[str, Measurement]:
        """See :meth:`Judge.figures`."""
        check(items.medium)
        right: dict[str, list[bool]] = {name: [] for name in self.names[:3]}
        by: dict[str, list[bool]] = {}
        kept: list[float] = []
        for made, real, row in zip(items.made, items.real, items.rows, strict=True):
            seen = read_talking(made, real[:, 0], row["mouths"], row["eyes"])
            for shape, wanted, closed, asked in zip(seen.shapes, row["shapes"], seen.closed, row["closed"], strict=False):
                right["mouth_shape"].append(shape == wanted)
                by.setdefault(wanted, []).append(shape == wanted)
                right["eyes_closed" if asked else "eyes_open"].append(closed == asked)
            kept += seen.kept
        values: JSON = {shape: {"value": round(sum(hits) / len(hits), 4), "n": len(hits)} for shape, hits in sorted(by.items())}
        protocols = {
            "mouth_shape": "frames whose mouth is nearest to the template of the phoneme's shape",
            "eyes_closed": "frames of a blink whose eyes are nearest to closed ones",
            "eyes_open": "other frames whose eyes are nearest to open ones",
        }
        found = {name: share(name, right[name], text) for name, text in protocols.items() if right[name]}
        found["mouth_shape"].details["values"] = values
        protocol = f"pixels outside of mouth and eyes within {NEAR / 2:.3f} of the range of the real first frame, mean over frames"
        found["face_unchanged"] = Measurement("face_unchanged", sum(kept) / len(kept), len(kept), {"protocol": protocol})
        return found


def check(medium: Medium) -> None:
    """Refuse clips that are not as the set's.

    Raises:
        JudgeError: if the size, the rate or the channels differ.
    """
    if (medium.size[1:], medium.rate, medium.channels) != ((SIZE, SIZE), RATE, 3):
        raise JudgeError(f"the judge of avatars reads RGB clips of {SIZE} x {SIZE} pixels at {RATE} Hz, and these are {medium}")


JUDGE = AvatarJudge()
