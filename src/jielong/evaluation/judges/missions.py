"""The judge of `missions`: whether clips move by the rules of their grid world, and do what their captions say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch

from jielong.core.json import JSON
from jielong.core.medium import ALONG_FRAMES
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.judges.base import Judge, JudgedItems, share
from jielong.evaluation.missions.judge import MissionJudge, Verdict
from jielong.evaluation.missions.texts import KINDS, Described, Mission
from jielong.evaluation.missions.tiles import SIZE, read
from jielong.evaluation.neighbours import by_group
from jielong.evaluation.provenance import Measurement, package_version
from jielong.media.reading.libraries import MissingLibraryError

EXAMPLES = 20
"""Faults that the details of a figure list."""
_PROTOCOLS = {
    "legal": "share of transitions between frames to which an action of minigrid leads, those without a change included",
    "legal_moves": "share of transitions with a change to which an action of minigrid leads",
    "legal_clips": "share of clips all of whose transitions are legal, from a first frame with one agent and known tiles",
    "solved": "share of clips in which minigrid's verifier calls the mission done, by legal moves from the first frame on",
    "solved_any": "share of clips of which a frame shows the mission done, whatever led to it",
    "posed": "share of clips whose first frame shows what the mission names, where it names it",
    "first_frame_kept": "share of clips whose first frame is read as that of the real clip, which was given",
}


def mission_of(row: JSON) -> Mission:
    """The mission that the columns of an item describe.

    Raises:
        JudgeError: if they describe none.
    """
    kind, other = str(row["kind"]), row["other_object"]
    if kind not in KINDS:
        raise JudgeError(f"there is no mission of the kind {kind!r}: they are {', '.join(KINDS)}")
    target = Described(str(row["color"]), str(row["object"]), None if row["place"] is None else str(row["place"]))
    return Mission(kind, target, None if other is None else Described(str(row["other_color"]), str(other)))


class Missions(Judge):
    """See :mod:`jielong.evaluation.missions`."""

    columns: ClassVar = ("kind", "object", "color", "place", "other_object", "other_color")
    names: ClassVar = tuple(_PROTOCOLS)

    def figures(self, items: JudgedItems) -> dict[str, Measurement]:
        """Legal transitions, moves and clips; missions solved, if texts were given; first frames kept, if they were given.

        Raises:
            JudgeError: if minigrid is not installed, or items are not RGB clips of 64 x 64 pixels.
        """
        shape = items.made.shape[2:]
        if items.medium.axes != ALONG_FRAMES or items.medium.channels != 3 or tuple(shape[1:]) != (SIZE, SIZE):
            raise JudgeError(f"the judge of missions reads RGB clips of {SIZE} x {SIZE} pixels, and these are {items.medium}")
        clips = items.made.permute(0, 2, 3, 4, 1)
        missions = [mission_of(row) for row in items.rows]
        try:
            judge = MissionJudge()
            verdicts = [judge.judge(clip, mission) for clip, mission in zip(clips, missions, strict=True)]
            kept = None
            if items.given is None or "first_frame" in items.given:
                real = read(items.real[:, :, 0].permute(0, 2, 3, 1)).rooms
                kept = [verdict.rooms[0] == room for verdict, room in zip(verdicts, real, strict=True)]
        except (MissingLibraryError, ValueError) as error:
            raise JudgeError(str(error)) from error
        told = items.given is None or "text" in items.given
        return _figures(verdicts, [mission.kind for mission in missions], told, kept)


def _figures(verdicts: Sequence[Verdict], kinds: Sequence[str], told: bool, kept: Sequence[bool] | None) -> dict[str, Measurement]:
    origin: JSON = {
        "minigrid": package_version("minigrid"),
        "largest_error": round(max(each.error for each in verdicts), 4),
        "least_margin": round(min(each.margin for each in verdicts), 4),
    }
    faults: JSON = {
        "faults": dict(Counter(fault.name for each in verdicts for fault in each.faults).most_common()),
        "examples": [f"clip {number}, {fault}" for number, each in enumerate(verdicts) for fault in each.faults][:EXAMPLES],
    }

    def transitions(name: str, counted: Callable[[bool], bool], details: JSON) -> dict[str, Measurement]:
        parts = [[legal for legal, still in zip(each.legal, each.still, strict=True) if counted(still)] for each in verdicts]
        hits = [hit for part in parts for hit in part]
        if not hits:
            return {}
        return {name: share(name, hits, _PROTOCOLS[name], **{"standard_error": _clustered(parts), **details, **origin})}

    def clips(name: str, hits: Sequence[bool], details: JSON | None = None) -> dict[str, Measurement]:
        return {name: share(name, hits, _PROTOCOLS[name], **by_group(torch.tensor(hits).double(), kinds), **(details or {}), **origin)}

    found = transitions("legal", lambda still: True, faults) | transitions("legal_moves", lambda still: not still, {})
    found |= clips("legal_clips", [not each.faults and all(each.legal) for each in verdicts])
    if told:
        solved = [each.solved for each in verdicts]
        frames = [number for number in solved if number is not None]
        found |= clips("solved", [each is not None for each in solved], {"mean_frame": sum(frames) / len(frames) if frames else None})
        found |= clips("solved_any", [each.shown is not None for each in verdicts])
        found |= clips("posed", [each.posed for each in verdicts])
    return found | ({} if kept is None else clips("first_frame_kept", kept))


def _clustered(parts: Sequence[Sequence[bool]]) -> float:
    """Standard error of a share over transitions, of which those of a clip are not independent: that of a ratio over clips."""
    total = sum(map(len, parts))
    value = sum(map(sum, parts)) / total
    return math.sqrt(sum((sum(part) - value * len(part)) ** 2 for part in parts)) / total


JUDGE = Missions()
