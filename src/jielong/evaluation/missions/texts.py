"""Missions in words, as BabyAI writes them (Chevalier-Boisvert et al. 2019, arXiv:1810.08272), read back."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jielong.evaluation.missions.rooms import COLORS, STEPS, THINGS, Agent, Place, Room

KINDS = ("goto", "pickup", "open", "putnext", "gotoseq")
"""Go to something; pick it up; open a door; put something next to something else; go to one thing, then to another."""
PLACES = {"front": "in front of you", "behind": "behind you", "left": "on your left", "right": "on your right"}
"""Where something is, as the agent stands in the first frame, and its words."""
_THING = rf"(?:the|a) ({'|'.join(COLORS)}) ({'|'.join((*THINGS, 'door'))})(?: ({'|'.join(PLACES.values())}))?"
_FORMS = {
    "goto": re.compile(f"go to {_THING}"),
    "pickup": re.compile(f"pick up {_THING}"),
    "open": re.compile(f"open {_THING}"),
    "putnext": re.compile(f"put {_THING} next to {_THING}"),
    "gotoseq": re.compile(f"go to {_THING}, then go to {_THING}"),
}


@dataclass(frozen=True)
class Described:
    """Something that a mission names.

    Attributes:
        color: Its color.
        kind: ``key``, ``ball``, ``box`` or ``door``.
        place: One of :data:`PLACES`; ``None`` where the mission names none.
    """

    color: str
    kind: str
    place: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, ("the", self.color, self.kind, PLACES.get(self.place or ""))))

    def matching(self, room: Room) -> list[Place]:
        """Cells of a first frame that hold it, as BabyAI has it: what is before the agent and to its left is both."""
        found, agent = room.where(self.kind, self.color), room.agent
        if self.place is None:
            return found
        return [] if agent is None else [place for place in found if self.place in places_of(agent, place)]


@dataclass(frozen=True)
class Mission:
    """What an agent is to do.

    Attributes:
        kind: One of :data:`KINDS`.
        target: What to go to first, pick up, open or move.
        other: What to put it next to, or to go to then.
    """

    kind: str
    target: Described
    other: Described | None = None

    def __str__(self) -> str:
        target, other = self.target, self.other
        return {
            "goto": f"go to {target}",
            "pickup": f"pick up {target}",
            "open": f"open {target}",
            "putnext": f"put {target} next to {other}",
            "gotoseq": f"go to {target}, then go to {other}",
        }[self.kind]

    @property
    def named(self) -> tuple[Described, ...]:
        """What it names."""
        return (self.target,) if self.other is None else (self.target, self.other)

    @staticmethod
    def parse(text: str) -> Mission:
        """The mission that a caption describes.

        Raises:
            ValueError: if it describes none of these kinds.
        """
        for kind, form in _FORMS.items():
            if (found := form.fullmatch(" ".join(text.lower().split()).removesuffix("."))) is not None:
                words = found.groups()
                things = [_described(*words[first : first + 3]) for first in range(0, len(words), 3)]
                if kind != "open" or things[0].kind == "door":
                    return Mission(kind, *things)
        example = Mission("gotoseq", Described("red", "ball", "left"), Described("blue", "door"))
        raise ValueError(f"{text!r} is no mission: they go to, pick up, open or put something next to something, such as {str(example)!r}")


def _described(color: str, kind: str, words: str | None) -> Described:
    return Described(color, kind, next((place for place, each in PLACES.items() if each == words), None))


def places_of(agent: Agent, place: Place) -> set[str]:
    """Those of :data:`PLACES` at which a cell is."""
    ahead, right = _offsets(agent, place)
    names = {"front": ahead > 0, "behind": ahead < 0, "right": right > 0, "left": right < 0}
    return {name for name, holds in names.items() if holds}


def place_of(agent: Agent, place: Place) -> str | None:
    """The one of :data:`PLACES` at which a cell is most of all; ``None`` where two are alike."""
    ahead, right = _offsets(agent, place)
    if abs(ahead) == abs(right):
        return None
    if abs(ahead) > abs(right):
        return "front" if ahead > 0 else "behind"
    return "right" if right > 0 else "left"


def _offsets(agent: Agent, place: Place) -> tuple[int, int]:
    """Cells ahead of the agent and to its right."""
    across, down = place[0] - agent.x, place[1] - agent.y
    x, y = STEPS[agent.facing]
    return across * x + down * y, down * x - across * y
