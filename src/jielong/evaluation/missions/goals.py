"""Whether frames show a mission done, whatever led to it."""

from __future__ import annotations

from collections.abc import Sequence

from jielong.evaluation.missions.rooms import Place, Room, next_to
from jielong.evaluation.missions.texts import Described, Mission


def posed(mission: Mission, first: Room) -> bool:
    """Whether a first frame shows everything that a mission names, where it names it."""
    return all(thing.matching(first) for thing in mission.named)


def shown_at(mission: Mission, rooms: Sequence[Room]) -> int | None:
    """The number of the first frame that shows the mission done; ``None`` if none does.

    Moves are not looked at: a thing to be picked up need only be gone, a door open. Minigrid's own verifier decides whether a mission
    is solved (:func:`jielong.evaluation.missions.simulator.solved_at`).

    Args:
        mission: The mission.
        rooms: All frames.
    """
    first = rooms[0]
    targets = mission.target.matching(first)
    if not posed(mission, first):
        return None
    if mission.kind == "gotoseq" and mission.other is not None:
        begun = _faced_at(mission.target, targets, rooms, 1)
        return None if begun is None else _faced_at(mission.other, mission.other.matching(first), rooms, begun)
    if mission.kind == "goto":
        return _faced_at(mission.target, targets, rooms, 1)
    return next((number for number, room in enumerate(rooms) if number and _done(mission, targets, first, room)), None)


def _faced_at(thing: Described, places: Sequence[Place], rooms: Sequence[Room], start: int) -> int | None:
    """The first frame from ``start`` on in which the agent faces something."""
    for number in range(start, len(rooms)):
        agent = rooms[number].agent
        if agent is not None and agent.front in places and agent.front in rooms[number].where(thing.kind, thing.color):
            return number
    return None


def _done(mission: Mission, targets: Sequence[Place], first: Room, room: Room) -> bool:
    thing = mission.target
    if mission.kind == "open":
        return any(room.at(place).state == "open" and first.at(place).state != "open" for place in targets)
    now = room.where(thing.kind, thing.color)
    if mission.kind == "pickup":
        return any(place not in now for place in targets) and len(now) < len(first.where(thing.kind, thing.color))
    other = mission.other
    if other is None:
        return False
    left = set(first.where(thing.kind, thing.color)) - set(targets)  # the same things elsewhere, which the mission does not mean
    return any(next_to(one, two) for one in now if one not in left for two in room.where(other.kind, other.color) if one != two)
