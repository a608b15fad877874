"""The table of the set `missions`: episodes as lossless WebP animations, split by combinations of object, color and place."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.data.built import BuildError, built_path
from jielong.data.splits import unseen_combinations
from jielong.data.table import write_table
from jielong.evaluation.missions.texts import KINDS
from jielong.evaluation.missions.tiles import SIZE

if TYPE_CHECKING:
    from jielong_zoo.builders.missions.level import Episode

COUNT = 5_000
STEPS = 16
"""Frames after the first at most."""
RATE = 4
"""Frames per second."""
HELD_OUT = 0.1
"""Share of the clips whose combinations are held out, about."""
ATTEMPTS = 1_000
"""Rooms that are drawn for a clip at most."""
LICENCE = Path(__file__).parents[2] / "data" / "LICENSE-missions.md"
"""Whose the levels and the drawings are; shipped with the set."""

Progress = Callable[[int], None]
Combination = tuple[str, str, str]
"""Object, color and place of a mission's target."""


@dataclass(frozen=True)
class Missions:
    """How `missions` is built.

    Attributes:
        count: How many clips.
        seed: Of the random numbers.
    """

    count: int = COUNT
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the set; another count or seed gives another set, so that the shipped one stays what it is."""
        count = "" if (self.count, self.seed) == (COUNT, 0) else f"-{self.count}"
        return f"missions{count}" + (f"-seed-{self.seed}" if self.seed else "")


@dataclass(frozen=True)
class Recorded:
    """An episode as it is stored.

    Attributes:
        name: Of its row.
        episode: The mission and its frames.
        clip: An animated WebP.
    """

    name: str
    episode: Episode
    clip: bytes

    @property
    def combination(self) -> Combination:
        """What the split goes by."""
        target = self.episode.mission.target
        return (target.kind, target.color, target.place or "")


def episode_of(number: int, seed: int, taken: set[bytes]) -> Episode:
    """The episode of a number, whose kind follows from it: the first suitable one whose first frame is not taken.

    Numbers draw from random generators of their own, so that a set can be built in parts. ``taken`` ends repetitions across them.

    Raises:
        BuildError: if no room in :data:`ATTEMPTS` is suitable.
    """
    level = import_module("jielong_zoo.builders.missions.level")
    for attempt in range(ATTEMPTS):
        digest = hashlib.sha256(f"missions/{seed}/{number}/{attempt}".encode()).digest()
        try:
            found: Episode = level.episode(KINDS[number % len(KINDS)], int.from_bytes(digest[:4], "big"))
        except level.UnsuitableError:
            continue
        first = hashlib.sha256(found.frames[0].tobytes()).digest()
        if first not in taken:
            taken.add(first)
            return found
    raise BuildError(f"{ATTEMPTS:,} rooms have no new mission of the kind {KINDS[number % len(KINDS)]}: build fewer clips")


def recorded(count: int, seed: int, progress: Progress | None = None) -> Iterator[Recorded]:
    """Clips with different first frames, equally many of each kind; the first ones stay when ``count`` grows.

    Raises:
        BuildError: if minigrid is not installed, or so many different clips do not exist.
    """
    try:
        import_module("jielong_zoo.builders.missions.level")
    except ImportError as error:
        raise BuildError(f"building 'missions' needs minigrid ({error}); pip install 'jielong[missions]'") from error
    taken: set[bytes] = set()
    for number in range(count):
        found = episode_of(number, seed, taken)
        yield Recorded(f"{number:06d}", found, animated(found))
        if progress is not None:
            progress(number + 1)


def animated(found: Episode) -> bytes:
    """The frames of an episode, no two of which are equal in succession, as a lossless WebP animation."""
    first, *others = (Image.fromarray(frame) for frame in found.frames)
    buffer = io.BytesIO()
    settings = {"lossless": True, "quality": 100, "method": 4, "minimize_size": True}
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=1000 // RATE, loop=0, **settings)
    return buffer.getvalue()


def rows(clips: Sequence[Recorded], out: set[Combination]) -> list[JSON]:
    """Rows of `missions`."""
    table: list[JSON] = []
    for each in clips:
        mission = each.episode.mission
        table.append(
            {
                "video": each.clip,
                "caption": str(mission),
                "kind": mission.kind,
                "object": mission.target.kind,
                "color": mission.target.color,
                "place": mission.target.place,
                "other_object": mission.other and mission.other.kind,
                "other_color": mission.other and mission.other.color,
                "steps": len(each.episode.actions),
                "actions": " ".join(each.episode.action_names),
                "name": each.name,
                "split": "heldout" if each.combination in out else "train",
            }
        )
    return table


def held_out(clips: Sequence[Recorded]) -> set[Combination]:
    """Combinations of object, color and place of which training sees no mission."""
    return unseen_combinations(Counter(each.combination for each in clips), HELD_OUT)


def write_missions(path: Path, clips: Sequence[Recorded]) -> Mapping[str, int]:
    """Write `missions`; returns the number of rows of each split."""
    table = rows(clips, held_out(clips))
    write_table(
        path,
        table,
        item="video",
        caption="caption",
        label="kind",
        key=["name"],
        size=SIZE,
        frames=STEPS + 1,
        frame_rate=RATE,
        judge="missions",
    )
    return Counter(str(row["split"]) for row in table)


def build_missions(progress: Progress | None, missions: Missions) -> Path:
    """Build the set; ``progress`` is called with the number of clips. Returns its file."""
    target = built_path(missions.name)
    clips = list(recorded(missions.count, missions.seed, progress))
    write_bytes(target.with_name(f"LICENSE-{missions.name}.md"), licence_text().encode())
    write_missions(target, clips)
    return target


def licence_text() -> str:
    """The licence beside the data, with the version of minigrid that drew them."""
    return LICENCE.read_text("utf-8").replace("minigrid 3.2.0", f"minigrid {version('minigrid')}")
