"""The judge of `strokes`: which stroke appears when, against the order in which the character is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.core.medium import Medium
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.judges.base import Judge, JudgedItems, share
from jielong.evaluation.provenance import Measurement

COVERED = 0.5
"""Share of a stroke's area that is ink when the stroke counts as drawn."""
INK = 0.0
"""Values below are ink, above paper."""
LONG = 8
"""Pairs of a stroke's pixels that appear in different frames, from which on its direction is judged."""


@dataclass(frozen=True)
class Writing:
    """What a clip shows of the strokes of its character.

    Attributes:
        drawn: Frame at which each stroke is drawn, in the right order of strokes; ``None`` for one that never is.
        forwards: Of each stroke, whether it grows in the direction in which it is written; ``None`` where too little of it is seen to grow.
        overlap: Intersection over union of the ink of the last frame with that of the character.
    """

    drawn: tuple[int | None, ...]
    forwards: tuple[bool | None, ...]
    overlap: float

    @property
    def pairs(self) -> list[bool]:
        """Of each stroke but the first, whether it is drawn after the one before it."""
        return [one is not None and other is not None and one < other for one, other in pairwise(self.drawn)]

    @property
    def right(self) -> bool:
        """Whether every stroke is drawn, and all in their order."""
        return None not in self.drawn and all(self.pairs)


def read_writing(made: Tensor, real: Tensor, ends: Sequence[int]) -> Writing:
    """What a clip shows.

    A stroke's area is the ink that the real clip has at its end and not at the end of the stroke before: what earlier strokes cover too
    says nothing about it.

    Args:
        made: ``(T, H, W)`` in [-1, 1], dark ink on light paper.
        real: The clip in which the character is written as it should be, of the same shape.
        ends: Frame of the real clip at which each stroke is complete, ascending.
    """
    ink, wanted = made < INK, real < INK
    drawn: list[int | None] = []
    forwards: list[bool | None] = []
    for before, end in pairwise([0, *ends]):
        area = wanted[end] & ~wanted[before]
        covered = (ink & area).sum((1, 2)) >= COVERED * area.sum()
        drawn.append(int(covered.int().argmax()) if bool(area.any()) and bool(covered.any()) else None)
        forwards.append(_forwards(_arrivals(ink, area), _arrivals(wanted, area)))
    union = (ink[-1] | wanted[-1]).sum()
    overlap = float((ink[-1] & wanted[-1]).sum() / union) if union else 1.0
    return Writing(tuple(drawn), tuple(forwards), overlap)


def _arrivals(ink: Tensor, area: Tensor) -> Tensor:
    """The first frame at which each pixel of an area is ink ``(pixels,)``; the number of frames where it never is."""
    inside = ink[:, area]
    return torch.where(inside.any(0), inside.int().argmax(0), len(ink))


def _forwards(made: Tensor, wanted: Tensor) -> bool | None:
    """Whether pixels appear in the order of the real stroke rather than against it (Kendall's rank correlation above 0)."""
    agreement = (made[:, None] - made).sign() * (wanted[:, None] - wanted).sign()  # of each pair of pixels, twice
    return None if int(agreement.abs().sum()) < 2 * LONG else bool(agreement.sum() > 0)


def frames_of(ends: Sequence[float], medium: Medium) -> list[int]:
    """The frames of a medium at which strokes end.

    Args:
        ends: In seconds.
        medium: Of the clip.

    Raises:
        JudgeError: if two strokes end in one frame, or one ends after the last frame.
    """
    rate = medium.rate or 1.0
    frames = [round(end * rate) for end in ends]
    if len(set(frames)) < len(frames):
        raise JudgeError(f"at {rate:g} frames a second two strokes end in one frame: read the set at 8 or more (data.frame_rate)")
    if frames[-1] >= medium.frames:
        wanted = frames[-1] + 1
        raise JudgeError(f"a character is finished in frame {wanted}, but {medium.frames} are read: set data.frames to {wanted} or more")
    return frames


class StrokeJudge(Judge):
    """Figures of `strokes`.

    - ``stroke_order``: share of strokes that are drawn after the stroke before them.
    - ``character_right``: share of characters of which every stroke is drawn, all in their order.
    - ``stroke_direction``: share of strokes that grow in their direction, of those that are seen to grow.
    - ``character_overlap``: intersection over union of the last frame's ink with the finished character's, mean over clips.
    """

    columns: ClassVar = ("ends",)
    names: ClassVar = ("stroke_order", "character_right", "stroke_direction", "character_overlap")

    def figures(self, items: JudgedItems) -> dict[str, Measurement]:
        """See :meth:`Judge.figures`."""
        seen = [
            read_writing(made.mean(0), real.mean(0), frames_of(row["ends"], items.medium))
            for made, real, row in zip(items.made, items.real, items.rows, strict=True)
        ]
        pairs = [pair for each in seen for pair in each.pairs]
        grown = [forwards for each in seen for forwards in each.forwards if forwards is not None]
        missing = sum(each.drawn.count(None) for each in seen)
        found = {"character_right": share("character_right", [each.right for each in seen], "every stroke is drawn, all in their order")}
        if pairs:
            protocol = f"strokes of which {COVERED:.0%} is first covered after that of the stroke before"
            found["stroke_order"] = share("stroke_order", pairs, protocol, missing_strokes=missing)
        if grown:
            found["stroke_direction"] = share("stroke_direction", grown, "strokes whose pixels appear in the order of the real ones")
        overlaps = torch.tensor([each.overlap for each in seen], dtype=torch.float64)
        details: JSON = {"protocol": "ink of the last frame: intersection over union"}
        found["character_overlap"] = Measurement("character_overlap", float(overlaps.mean()), len(seen), details)
        return {name: found[name] for name in self.names if name in found}


JUDGE = StrokeJudge()
