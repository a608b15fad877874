"""The grid world by minigrid (Chevalier-Boisvert et al. 2023, arXiv:2306.13831): its tiles, its moves, and its verdict on a mission."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from minigrid.core.actions import Actions
from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, STATE_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.roomgrid import Room as Enclosure
from minigrid.core.world_object import Ball, Box, Door, Key, Wall, WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import BeforeInstr, GoToInstr, Instr, ObjDesc, OpenInstr, PickupInstr, PutNextInstr
from minigrid.minigrid_env import MiniGridEnv

from jielong.evaluation.missions.rooms import EMPTY, SIDE, Agent, Cell, Room, inside
from jielong.evaluation.missions.texts import Described, Mission

NEVER = 1 << 30
"""Steps after which an episode would be cut."""
_THINGS = {"key": Key, "ball": Ball, "box": Box}
_STATES = {index: state for state, index in STATE_TO_IDX.items()}


def made(cell: Cell) -> WorldObj | None:
    """An object of minigrid; ``None`` of an empty cell."""
    if cell.kind == "empty":
        return None
    if cell.kind == "wall":
        return Wall()
    if cell.kind == "door":
        return Door(cell.color, cell.state == "open", cell.state == "locked")
    return _THINGS[cell.kind](cell.color)


def shown(thing: WorldObj | None) -> Cell:
    """What a cell with an object of minigrid shows."""
    if thing is None:
        return EMPTY
    kind, color, state = thing.encode()
    name = IDX_TO_OBJECT[kind]
    return Cell(name, "" if name == "wall" else IDX_TO_COLOR[color], _STATES[state] if name == "door" else "")


def draw_tile(cell: Cell, facing: int | None, pixels: int) -> npt.NDArray[np.uint8]:
    """A cell ``(pixels, pixels, 3)`` without the highlight of what the agent sees."""
    return np.asarray(Grid.render_tile(made(cell), facing, highlight=False, tile_size=pixels), np.uint8)


def room_of(env: MiniGridEnv) -> Room:
    """What an environment of 8 x 8 cells shows."""
    return Room(tuple(map(shown, env.grid.grid)), (_agent(env),))


def _agent(env: MiniGridEnv) -> Agent:
    return Agent(int(env.agent_pos[0]), int(env.agent_pos[1]), int(env.agent_dir))


@dataclass(frozen=True)
class Move:
    """An action and what it leads to.

    Attributes:
        action: Of minigrid's ``Actions``.
        room: What is shown after it.
        carried: What the agent carries after it.
    """

    action: int
    room: Room
    carried: Cell | None


class _World(MiniGridEnv):
    """A room without a mission, whose agent needs no observations."""

    carrying: Any

    def __init__(self) -> None:
        super().__init__(MissionSpace(lambda: ""), width=SIDE, height=SIDE, max_steps=NEVER)

    def _gen_grid(self, width: int, height: int) -> None:
        """It is set from frames."""

    def gen_obs(self) -> Any:
        """Nothing: it takes longer than the step."""
        return {}


_ORDER = (Actions.done, Actions.left, Actions.right, Actions.forward, Actions.pickup, Actions.drop, Actions.toggle)
"""Actions; where several have no effect, ``done`` explains what is seen."""


@cache
def _constant(cell: Cell) -> WorldObj | None:
    """An object that no action changes, since the agent does not face it."""
    return made(cell)


class Simulator:
    """Takes steps of minigrid from any state; not for several threads."""

    def __init__(self) -> None:
        self._env = _World()

    def moves(self, room: Room, carried: Cell | None) -> list[Move]:
        """What each action leads to; nothing where the agent faces out of the room, from where minigrid takes no step.

        An action changes the agent, what it carries, and the cell in front of it alone, so that the others are set once.

        Args:
            room: A valid state.
            carried: What the agent carries.
        """
        agent, env = room.agent, self._env
        if agent is None or not inside(front := agent.front):
            return []
        found = []
        env.grid.grid = [_constant(cell) for cell in room.cells]
        place = front[1] * SIDE + front[0]
        for action in _ORDER:
            env.agent_pos, env.agent_dir, env.step_count = agent.place, agent.facing, 0
            env.grid.grid[place] = made(room.cells[place])
            env.carrying = None if carried is None else made(carried)
            env.step(action)
            cells = (*room.cells[:place], shown(env.grid.grid[place]), *room.cells[place + 1 :])
            found.append(Move(int(action), Room(cells, (_agent(env),)), None if env.carrying is None else shown(env.carrying)))
        return found


def instruction(mission: Mission) -> Instr:
    """A mission as minigrid verifies it."""
    target = _description(mission.target)
    if mission.other is None:
        return {"goto": GoToInstr, "pickup": PickupInstr, "open": OpenInstr}[mission.kind](target)
    other = _description(mission.other)
    return PutNextInstr(target, other) if mission.kind == "putnext" else BeforeInstr(GoToInstr(target), GoToInstr(other))


def _description(thing: Described) -> ObjDesc:
    return ObjDesc(thing.kind, thing.color, thing.place)


class _Episode(RoomGridLevel):
    """A mission from a given first frame."""

    def __init__(self, mission: Mission, room: Room) -> None:
        super().__init__(SIDE, max_steps=NEVER, num_rows=1, num_cols=1)
        agent = room.agents[0]
        self.room_grid = [[Enclosure((0, 0), (SIDE, SIDE))]]
        self.agent_pos, self.agent_dir, self.carrying, self.step_count = agent.place, agent.facing, None, 0
        for index, cell in enumerate(room.cells):
            thing = made(cell)
            if thing is None:
                self.grid.set(index % SIDE, index // SIDE, None)
            else:
                self.put_obj(thing, index % SIDE, index // SIDE)
        self.instrs = instruction(mission)
        self.instrs.reset_verifier(self)

    def gen_obs(self) -> Any:
        """Nothing: it takes longer than the step."""
        return {}


def matched(thing: Described, room: Room) -> bool:
    """Whether minigrid finds what a mission describes in a first frame."""
    return bool(_description(thing).find_matching_objs(_Episode(Mission("goto", thing), room))[0])


def solved_at(mission: Mission, room: Room, actions: Sequence[int]) -> int | None:
    """The number of actions after which minigrid's verifier calls a mission done; ``None`` if they do not do it.

    Args:
        mission: The mission.
        room: The valid first frame.
        actions: All of which can be taken in turn.
    """
    episode = _Episode(mission, room)
    for number, action in enumerate(actions, 1):
        if not inside(_agent(episode).front):
            return None
        if episode.step(Actions(action))[2]:
            return number
    return None
