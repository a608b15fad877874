"""The verdict on a clip: which transitions are moves of the simulator, what is wrong with the others, and whether the mission is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from jielong.evaluation.missions.faults import Fault, faults_between, faults_of_frame
from jielong.evaluation.missions.goals import posed, shown_at
from jielong.evaluation.missions.rooms import THINGS, Cell, Room
from jielong.evaluation.missions.texts import Mission
from jielong.evaluation.missions.tiles import read
from jielong.media.reading.libraries import library

if TYPE_CHECKING:
    from jielong.evaluation.missions.simulator import Simulator

Paths = Mapping[Cell | None, tuple[int, ...] | None]
"""What the agent may carry, and actions from the first frame that lead to it; ``None`` after a transition that no action explains."""
DONE = 6
"""The action without effect, by its number in minigrid."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a clip.

    Attributes:
        legal: Of each transition, whether an action of the simulator leads from one frame to the next.
        still: Of each transition, whether nothing changes.
        faults: Of the first frame, and of transitions that are not legal.
        solved: Number of the frame at which the mission is done by legal moves from the first frame on; ``None`` if it is not.
        shown: Number of the first frame that shows it done, whatever led to it.
        posed: Whether the first frame shows what the mission names.
        margin: Least margin of a cell (:class:`~jielong.evaluation.missions.tiles.Reading`).
        error: Largest difference of a cell from its tile.
        rooms: What the frames show.
    """

    legal: tuple[bool, ...]
    still: tuple[bool, ...]
    faults: tuple[Fault, ...]
    solved: int | None
    shown: int | None
    posed: bool
    margin: float
    error: float
    rooms: tuple[Room, ...]

    def __str__(self) -> str:
        done = f"done by legal moves at frame {self.solved}" if self.solved is not None else "not done"
        if self.solved is None and self.shown is not None:
            done = f"shown as done at frame {self.shown}, but not by legal moves"
        share = f"{sum(self.legal)} of {len(self.legal)} transitions are legal"
        return "; ".join([f"mission {done}", share, *map(str, self.faults)])


class MissionJudge:
    """Judges clips of `missions`.

    Raises:
        jielong.media.reading.libraries.MissingLibraryError: if minigrid is not installed.
    """

    def __init__(self) -> None:
        self._module = library("jielong.evaluation.missions.simulator", "missions", "judging missions")
        self._simulator: Simulator = self._module.Simulator()

    def judge(self, frames: Tensor, mission: Mission | None) -> Verdict:
        """The verdict on a clip.

        Args:
            frames: ``(T, 64, 64, 3)``, float in [-1, 1] or 8-bit.
            mission: What was to be done; ``None`` where that was not said.

        Raises:
            ValueError: if there is no frame, or it has another size.
        """
        if not len(frames):
            raise ValueError("a clip without frames cannot be judged")
        reading = read(frames)
        rooms, solved = reading.rooms, None
        paths: Paths = {None: () if rooms[0].valid else None}
        legal, faults = list[bool](), faults_of_frame(rooms[0], 0)
        for number, (before, after) in enumerate(pairwise(rooms), 1):
            found = self._followed(before, after, paths)
            legal.append(bool(found))
            if found:
                paths = found
                continue
            solved = solved if solved is not None else self._solved(mission, rooms[0], paths)
            faults += faults_between(before, after, paths, number)
            paths = dict.fromkeys({None, *paths, *_vanished(before, after)})
        if mission is None:
            solved, shown = None, None
        else:
            solved, shown = solved if solved is not None else self._solved(mission, rooms[0], paths), shown_at(mission, rooms)
        return Verdict(
            tuple(legal),
            tuple(one == other for one, other in pairwise(rooms)),
            tuple(faults),
            solved,
            shown,
            mission is not None and posed(mission, rooms[0]),
            float(reading.margins.min()),
            float(reading.errors.max()),
            rooms,
        )

    def _followed(self, before: Room, after: Room, paths: Paths) -> Paths:
        """What the agent may carry after a transition; nothing where it is not legal."""
        if not (before.valid and after.valid):
            return {}
        if before == after:
            return {carried: None if actions is None else (*actions, DONE) for carried, actions in paths.items()}
        found: dict[Cell | None, tuple[int, ...] | None] = {}
        for carried, actions in paths.items():
            for move in self._simulator.moves(before, carried):
                if move.room == after and found.get(move.carried) is None:
                    found[move.carried] = None if actions is None else (*actions, move.action)
        return found

    def _solved(self, mission: Mission | None, first: Room, paths: Paths) -> int | None:
        """The frame at which one of the paths does the mission."""
        if mission is None:
            return None
        tried: Iterable[int | None] = (self._module.solved_at(mission, first, actions) for actions in paths.values() if actions is not None)
        return min((number for number in tried if number is not None), default=None)


def _vanished(before: Room, after: Room) -> set[Cell]:
    """Things that a frame has no more: an agent may have taken them, if not by a legal move."""
    return {one for one, other in zip(before.cells, after.cells, strict=True) if one.kind in THINGS and one != other}
