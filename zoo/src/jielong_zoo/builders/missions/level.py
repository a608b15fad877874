"""A level of BabyAI in one room of 8 x 8 cells, and the episode in which its bot solves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from minigrid.core.actions import Actions
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import Door, WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import Instr, PutNextInstr
from minigrid.utils.baby_ai_bot import BabyAIBot

from jielong.evaluation.missions.rooms import SIDE, Agent, Place
from jielong.evaluation.missions.simulator import instruction, room_of
from jielong.evaluation.missions.texts import Described, Mission, place_of
from jielong.evaluation.missions.tiles import draw
from jielong_zoo.builders.missions.build import STEPS

THINGS = (2, 5)
"""Fewest things in a room, and one more than the most, without a twin."""
DOORS = {"open": (1, 4)}
"""The same of doors, which are in the outer walls."""
OTHER_DOORS = (0, 3)
TWINS = 0.25
"""Share of rooms with a second thing of the target's kind and color at another place, so that the place is needed."""


class UnsuitableError(Exception):
    """A room does not fit the mission, or the mission does not fit a clip; the next one is drawn."""


@dataclass(frozen=True)
class Episode:
    """A mission from its first frame to success.

    Attributes:
        mission: What is done.
        frames: ``(steps + 1, 64, 64, 3)``.
        actions: Of minigrid's ``Actions``, one between each two frames.
    """

    mission: Mission
    frames: npt.NDArray[np.uint8]
    actions: tuple[int, ...]

    @property
    def action_names(self) -> tuple[str, ...]:
        """The names of the actions, such as ``forward``."""
        return tuple(Actions(action).name for action in self.actions)


class MissionLevel(RoomGridLevel):
    """A room with a few different things, doors in its outer walls, and a mission of one kind.

    BabyAI's own levels with doors have several rooms, which are more than 8 cells wide; no mission of this set needs another room.

    Args:
        kind: One of :data:`~jielong.evaluation.missions.texts.KINDS`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(SIDE, num_rows=1, num_cols=1)
        self.kind = kind

    def gen_obs(self) -> Any:
        """Nothing: the bot looks at the room itself."""
        return {}

    def validate_instrs(self, instr: Instr) -> None:
        """The instructions are checked where they are made, without a message on the screen."""

    def gen_mission(self) -> None:
        """Fill the room, and choose the mission.

        Raises:
            UnsuitableError: if they do not fit.
        """
        doors = self._doors(*DOORS.get(self.kind, OTHER_DOORS))
        self.place_agent()
        keys = [self.add_object(0, 0, "key", doors[0].color)[0]] if self.kind == "open" and doors[0].is_locked else []
        things = keys + self.add_distractors(num_distractors=int(self._rand_int(*THINGS)) - len(keys), all_unique=True)
        pool = doors[:1] if self.kind == "open" else [*things, *doors] if self.kind in ("goto", "gotoseq") else things
        target = self._rand_elem(pool)
        if target.type != "door" and self._rand_float(0, 1) < TWINS:
            self.add_object(0, 0, target.type, target.color)
        if not self.check_objs_reachable(raise_exc=False):
            raise UnsuitableError("something cannot be reached")
        others = [each for each in pool if each is not target]
        other = self._rand_elem(others) if self.kind in ("putnext", "gotoseq") else None
        self.target_mission = Mission(self.kind, self._described(target, placed=True), None if other is None else self._described(other))
        self.instrs = instruction(self.target_mission)
        self._check(target)

    def _doors(self, least: int, limit: int) -> list[Door]:
        """Doors of different colors in different walls, closed or locked."""
        number = int(self._rand_int(least, limit))
        colors, walls = self._rand_subset(COLOR_NAMES, number), self._rand_subset(range(4), number)
        doors = []
        for color, wall in zip(colors, walls, strict=True):
            along = int(self._rand_int(1, SIDE - 1))
            door = Door(color, is_locked=bool(self._rand_bool()))
            self.put_obj(door, *((SIDE - 1, along), (along, SIDE - 1), (0, along), (along, 0))[wall])
            doors.append(door)
        return doors

    def _described(self, thing: WorldObj, placed: bool = False) -> Described:
        return Described(thing.color, thing.type, self._place(thing) if placed else None)

    def _place(self, thing: WorldObj) -> str:
        agent = Agent(int(self.agent_pos[0]), int(self.agent_pos[1]), int(self.agent_dir))
        if (place := place_of(agent, _at(thing))) is None:
            raise UnsuitableError("the target is as far ahead as aside")
        return place

    def _check(self, target: WorldObj) -> None:
        """The first description fits the target alone, and things to be put together are apart."""
        if self.target_mission.target.matching(room_of(self)) != [_at(target)]:
            raise UnsuitableError("the description fits two things")
        if isinstance(self.instrs, PutNextInstr):
            self.instrs.reset_verifier(self)
            if self.instrs.objs_next():
                raise UnsuitableError("they are next to each other already")


def _at(thing: WorldObj) -> Place:
    if thing.cur_pos is None:
        raise UnsuitableError("a thing has no place")
    return (int(thing.cur_pos[0]), int(thing.cur_pos[1]))


class SeeingBot(BabyAIBot):
    """BabyAI's bot that knows the whole room, as whoever sees the frames does; its own explores what it has not seen yet."""

    def _process_obs(self) -> None:
        self.vis_mask[:] = True


def episode(kind: str, seed: int) -> Episode:
    """The episode of a seed.

    Args:
        kind: Of the mission.
        seed: 0 or more.

    Raises:
        UnsuitableError: if the room does not fit the mission, or the bot needs more than 16 steps, one that changes nothing, or fails.
    """
    env = MissionLevel(kind)
    env.reset(seed=seed)
    if env.mission != str(env.target_mission):
        raise UnsuitableError(f"BabyAI calls the mission {env.mission!r}")
    bot, rooms, actions, action = SeeingBot(env), [room_of(env)], list[int](), None
    while len(actions) < STEPS:
        try:
            action = bot.replan(action)
        except (AssertionError, RecursionError) as error:
            raise UnsuitableError(f"the bot fails: {error}") from error
        done = env.step(action)[2]
        actions.append(int(action))
        rooms.append(room_of(env))
        if rooms[-1] == rooms[-2]:
            raise UnsuitableError("a step changes nothing")
        if done:
            return Episode(env.target_mission, draw(rooms).numpy(), tuple(actions))
    raise UnsuitableError(f"the bot needs more than {STEPS} steps")
