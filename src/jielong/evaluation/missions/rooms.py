"""What a frame of the grid world shows: cells and agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

SIDE = 8
"""Cells along each side of a room, walls included."""
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Columns and rows of a step to the right, down, to the left and up: the directions that an agent faces."""
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
THINGS = ("key", "ball", "box")
"""Objects that can be carried."""
DOOR_STATES = ("open", "closed", "locked")

Place = tuple[int, int]
"""Column and row of a cell."""


class Cell(NamedTuple):
    """What is in a cell beside an agent; ``state`` is that of a door."""

    kind: str = "empty"
    color: str = ""
    state: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.state, self.color, self.kind)))

    @property
    def free(self) -> bool:
        """Whether an agent can enter it."""
        return self.kind == "empty" or self.state == "open"

    @property
    def identity(self) -> tuple[str, str]:
        """Kind and color, which no move changes."""
        return (self.kind, self.color)


EMPTY = Cell()


class Agent(NamedTuple):
    """An agent's column, row and direction, an index of :data:`STEPS`."""

    x: int
    y: int
    facing: int

    @property
    def place(self) -> Place:
        """Its cell."""
        return (self.x, self.y)

    @property
    def front(self) -> Place:
        """The cell in front of it, which may be outside the room."""
        step = STEPS[self.facing]
        return (self.x + step[0], self.y + step[1])


@dataclass(frozen=True)
class Room:
    """What a frame shows.

    Attributes:
        cells: Row by row.
        agents: All that are shown; one where the frame is right.
        unknown: Cells that show no tile.
    """

    cells: tuple[Cell, ...]
    agents: tuple[Agent, ...]
    unknown: tuple[Place, ...] = ()

    def at(self, place: Place) -> Cell:
        """What is in a cell."""
        return self.cells[place[1] * SIDE + place[0]]

    @property
    def agent(self) -> Agent | None:
        """The agent; ``None`` where none is shown, or several are."""
        return self.agents[0] if len(self.agents) == 1 else None

    @property
    def valid(self) -> bool:
        """Whether it is a state of the simulator: every cell is known, and there is one agent."""
        return self.agent is not None and not self.unknown

    def where(self, kind: str, color: str) -> list[Place]:
        """Cells that hold such an object."""
        return [(index % SIDE, index // SIDE) for index, cell in enumerate(self.cells) if cell[:2] == (kind, color)]


def inside(place: Place) -> bool:
    """Whether a cell is one of a room."""
    return 0 <= place[0] < SIDE and 0 <= place[1] < SIDE


def next_to(one: Place, other: Place) -> bool:
    """Whether two cells share a side."""
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) == 1
