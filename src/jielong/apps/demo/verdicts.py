"""What the judges of sets of clips say of one clip, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import Tensor

from jielong.core.medium import Medium
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.judges.base import JudgedItems, judge_called
from jielong.evaluation.judges.missions import mission_of
from jielong.evaluation.judges.strokes import frames_of, read_writing
from jielong.evaluation.missions.judge import MissionJudge
from jielong.media.reading.libraries import MissingLibraryError

FAULTS = 2
"""Faults that are listed by name; the others are counted."""


@dataclass(frozen=True)
class Judgement:
    """A verdict.

    Attributes:
        words: What the judge says.
        right: Whether the clip shows what it should; ``None`` where it could not be judged, or it is a matter of degree.
    """

    words: str
    right: bool | None = None


Verdict = Callable[[Tensor, Tensor, Mapping[str, Any], Medium], Judgement]
"""Of a clip ``(C, T, H, W)``, the real one, the columns of its item, and the medium of both."""


def _judged(verdict: Verdict) -> Verdict:
    """The same, which says why where a clip cannot be judged."""

    @wraps(verdict)
    def wrapped(made: Tensor, real: Tensor, row: Mapping[str, Any], medium: Medium) -> Judgement:
        try:
            return verdict(made, real, row, medium)
        except (JudgeError, MissingLibraryError, ValueError) as error:
            return Judgement(f"not judged: {error}")

    return wrapped


@_judged
def _mission(made: Tensor, real: Tensor, row: Mapping[str, Any], medium: Medium) -> Judgement:
    found = MissionJudge().judge(made.permute(1, 2, 3, 0), mission_of(dict(row)))
    parts = str(found).split("; ")
    summary, faults = parts[:2], [str(each) for each in found.faults]
    more = [f"{len(faults) - FAULTS} more faults"] if len(faults) > FAULTS else []
    return Judgement("; ".join([*summary, *faults[:FAULTS], *more]), found.solved is not None)


@_judged
def _writing(made: Tensor, real: Tensor, row: Mapping[str, Any], medium: Medium) -> Judgement:
    found = read_writing(made.mean(0), real.mean(0), frames_of(row["ends"], medium))
    drawn = sum(each is not None for each in found.drawn)
    order = "all in their order" if found.right else f"{sum(found.pairs)} of {len(found.pairs)} after the one before"
    return Judgement(f"{drawn} of {len(found.drawn)} strokes drawn, {order}; {found.overlap:.0%} of the ink in common", found.right)


@_judged
def _talking(made: Tensor, real: Tensor, row: Mapping[str, Any], medium: Medium) -> Judgement:
    figures = judge_called("avatars").figures(JudgedItems(made[None], real[None], [dict(row)], medium))
    words = {
        "mouth_shape": "of the mouths have the shape of what is spoken",
        "eyes_closed": "of the blinks are seen",
        "face_unchanged": "of the face stays as it was",
    }
    return Judgement("; ".join(f"{figures[name].value:.0%} {text}" for name, text in words.items() if name in figures))


VERDICTS: Mapping[str, Verdict] = {"missions": _mission, "strokes": _writing, "avatars": _talking}
"""By the name of a set's judge."""
