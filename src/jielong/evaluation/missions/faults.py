"""Names of what is wrong between two frames that no action of the simulator leads from one to the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from jielong.evaluation.missions.rooms import SIDE, STEPS, THINGS, Agent, Cell, Place, Room

FAULTS = {
    "unknown tile": "a cell shows nothing that the simulator draws",
    "agent gone": "no agent is shown",
    "several agents": "more than one agent is shown",
    "agent appeared": "an agent is shown where the frame before had none",
    "agent jumped": "the agent is in a cell that is not the one in front of it",
    "agent turned around": "the agent faces the opposite direction after one step",
    "agent moved and turned": "the agent took a step and faces another direction",
    "agent in an occupied cell": "the agent walked into a wall, a thing or a door that is not open",
    "wall changed": "a wall appeared or is gone",
    "door changed from afar": "a door opened, closed or was locked, and the agent did not face it",
    "door unlocked without its key": "the agent opened a locked door, and did not carry the key of its color",
    "door locked": "a door was locked, which no action does",
    "color changed": "a thing or a door has another color",
    "kind changed": "a thing became another one",
    "thing moved": "a thing is in another cell, where the agent did not put it",
    "thing vanished": "a thing or a door is gone that the agent did not take",
    "thing appeared": "a thing or a door is there that the agent did not carry",
    "second thing taken": "a thing is gone as if it was taken, and the agent carried another one",
    "two actions at once": "each change alone would be an action",
}
"""Faults and what they mean."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a frame.

    Attributes:
        frame: Its number; the first is 0.
        name: One of :data:`FAULTS`.
        cells: Where, as columns and rows.
    """

    frame: int
    name: str
    cells: tuple[Place, ...] = ()

    def __str__(self) -> str:
        where = " ".join(f"({x}, {y})" for x, y in self.cells)
        return f"frame {self.frame}: {self.name}" + (f" at {where}" if where else "")


def faults_of_frame(room: Room, frame: int) -> list[Fault]:
    """Why a frame is no state of the simulator; nothing where it is one."""
    found = [Fault(frame, "unknown tile", room.unknown)] if room.unknown else []
    if not room.agents:
        found.append(Fault(frame, "agent gone"))
    elif len(room.agents) > 1:
        found.append(Fault(frame, "several agents", tuple(agent.place for agent in room.agents)))
    return found


def faults_between(before: Room, after: Room, carried: Collection[Cell | None], frame: int) -> list[Fault]:
    """What is wrong between frames that no action leads from one to the other, the most visible first.

    Args:
        before: A frame.
        after: The next one.
        carried: What the agent may carry before.
        frame: The number of the next one.
    """
    found = faults_of_frame(after, frame)
    if before.agent is None and after.agent is not None:
        found.append(Fault(frame, "agent appeared" if not before.agents else "agent gone", (after.agent.place,)))
    if before.agent is not None and after.agent is not None:
        found += _of_agent(before, after, before.agent, after.agent, frame)
    found += _of_cells(before, after, carried, frame)
    return found or faults_of_frame(before, frame) or [Fault(frame, "two actions at once", _changed(before, after))]


def _of_agent(before: Room, after: Room, one: Agent, other: Agent, frame: int) -> Iterator[Fault]:
    turned = (other.facing - one.facing) % len(STEPS)
    if other.place == one.place:
        if turned == 2:
            yield Fault(frame, "agent turned around", (other.place,))
    elif other.place != one.front:
        yield Fault(frame, "agent jumped", (one.place, other.place))
    elif not before.at(other.place).free and after.at(other.place) != before.at(other.place):
        yield Fault(frame, "agent in an occupied cell", (other.place,))
    elif turned:
        yield Fault(frame, "agent moved and turned", (other.place,))


def _changed(before: Room, after: Room) -> tuple[Place, ...]:
    """Cells that differ; not those that are unknown in a frame, nor those that an agent came to stand in."""
    stood = {agent.place for agent in before.agents}
    covered = {*before.unknown, *after.unknown, *(agent.place for agent in after.agents if agent.place not in stood)}
    places = [
        (index % SIDE, index // SIDE) for index, (one, other) in enumerate(zip(before.cells, after.cells, strict=True)) if one != other
    ]
    return tuple(place for place in places if place not in covered)


def _of_cells(before: Room, after: Room, carried: Collection[Cell | None], frame: int) -> list[Fault]:
    """Faults of cells; things that are gone here and new there have moved."""
    faced = before.agent.front if before.agent is not None else None
    found, gone, new = list[Fault](), dict[Place, Cell](), dict[Place, Cell]()
    for place in _changed(before, after):
        one, other, near = before.at(place), after.at(place), place == faced
        if "wall" in (one.kind, other.kind):
            found.append(Fault(frame, "wall changed", (place,)))
        elif one.kind == "empty":
            if not (near and other in carried):
                new[place] = other
        elif other.kind == "empty":
            if not (near and one.kind in THINGS):
                gone[place] = one
            elif None not in carried and one.kind != "box":  # a box may have been opened, which removes it
                found.append(Fault(frame, "second thing taken", (place,)))
        elif one.kind != other.kind:
            found.append(Fault(frame, "kind changed", (place,)))
        elif one.color != other.color:
            found.append(Fault(frame, "color changed", (place,)))
        elif (name := _of_door(one, other, near, carried)) is not None:
            found.append(Fault(frame, name, (place,)))
    for place, cell in list(gone.items()):
        there = next((each for each, thing in new.items() if thing.identity == cell.identity), None)
        if there is not None:
            found.append(Fault(frame, "thing moved", (place, there)))
            del gone[place], new[there]
    found += [Fault(frame, "thing vanished", (place,)) for place in gone]
    return found + [Fault(frame, "thing appeared", (place,)) for place in new]


def _of_door(one: Cell, other: Cell, near: bool, carried: Collection[Cell | None]) -> str | None:
    if other.state == "locked":
        return "door locked"
    if not near:
        return "door changed from afar"
    if one.state == "locked":
        key = Cell("key", one.color)
        return "door unlocked without its key" if other.state == "open" and key not in carried else None
    return None
