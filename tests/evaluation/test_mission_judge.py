"""The judge of `missions` against the simulator: real play is legal and solved, every corruption is named, noise changes nothing."""

from __future__ import annotations

import copy
import math
import random
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("minigrid")

from minigrid.core.actions import Actions

from jielong.core.json import JSON
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.judges.base import JudgedItems, judge_called
from jielong.evaluation.judges.missions import _clustered
from jielong.evaluation.missions import simulator
from jielong.evaluation.missions.faults import FAULTS, Fault
from jielong.evaluation.missions.judge import MissionJudge
from jielong.evaluation.missions.rooms import COLORS, EMPTY, SIDE, STEPS, THINGS, Agent, Cell, Place, Room, inside
from jielong.evaluation.missions.texts import KINDS, PLACES, Described, Mission, place_of, places_of
from jielong.evaluation.missions.tiles import PIXELS, UNKNOWN, Tile, draw, read, tile_table
from jielong.evaluation.provenance import Measurement
from jielong_zoo.builders.missions.level import Episode, MissionLevel, UnsuitableError, episode

WALL = Cell("wall")


def drawn(room: Room) -> Tensor:
    """A frame ``(64, 64, 3)`` in [-1, 1]."""
    return clip(room)[0]


def clip(*rooms: Room) -> Tensor:
    """Frames ``(T, 64, 64, 3)`` in [-1, 1]."""
    return draw(rooms).float() / 127.5 - 1


def room(agent: Agent, things: dict[Place, Cell] | None = None) -> Room:
    """Walls around an empty floor with an agent and things."""
    edge = (0, SIDE - 1)
    cells = [WALL if x in edge or y in edge else EMPTY for y in range(SIDE) for x in range(SIDE)]
    return put(Room(tuple(cells), (agent,)), things or {})


def put(given: Room, things: dict[Place, Cell]) -> Room:
    cells = list(given.cells)
    for (x, y), cell in things.items():
        cells[y * SIDE + x] = cell
    return replace(given, cells=tuple(cells))


def episodes(count: int) -> list[Episode]:
    """Episodes of all kinds in turn."""
    found, seed = [], 1_000_000
    while len(found) < count:
        seed += 1
        try:
            found.append(episode(KINDS[len(found) % len(KINDS)], seed))
        except UnsuitableError:
            continue
    return found


@pytest.fixture(scope="module")
def judge() -> MissionJudge:
    return MissionJudge()


@pytest.fixture(scope="module")
def played() -> list[Episode]:
    return episodes(30)


def test_every_tile_is_read_as_itself_with_half_the_distance_to_the_next_as_margin() -> None:
    table = tile_table()
    assert len(table.tiles) == len(set(table.tiles)) == 66
    least = (table.distances + 1e9 * torch.eye(len(table.tiles))).min(1).values
    assert least.min() > 1.7
    for first in range(0, len(table.tiles), SIDE * SIDE):
        some = list(range(first, min(first + SIDE * SIDE, len(table.tiles))))
        filled = some + [0] * (SIDE * SIDE - len(some))
        frame = table.pixels[filled].view(SIDE, SIDE, PIXELS, PIXELS, 3).transpose(1, 2).reshape(1, 64, 64, 3)
        reading = read(frame)
        assert reading.errors.max() == 0
        torch.testing.assert_close(reading.margins.flatten(), least[filled] / 2, atol=1e-3, rtol=0)
        for place, index in enumerate(some):
            tile = table.tiles[index]
            assert reading.rooms[0].cells[place] == tile.cell
            agent = Agent(place % SIDE, place // SIDE, tile.facing or 0)
            assert (agent in reading.rooms[0].agents) == (tile.facing is not None)
    torch.testing.assert_close(read((255 * (frame + 1) / 2).round().byte()).margins, reading.margins)


def test_a_cell_is_read_as_another_tile_beyond_its_margin_and_not_before() -> None:
    table, frame = tile_table(), drawn(room(Agent(3, 3, 0)))
    distances, generator = table.distances + 1e9 * torch.eye(len(table.tiles)), torch.Generator().manual_seed(2)

    def tile_of(pixels: Tensor) -> Tile:
        changed = frame.clone()
        changed[PIXELS : 2 * PIXELS, PIXELS : 2 * PIXELS] = pixels.view(PIXELS, PIXELS, 3)
        found = read(changed[None]).rooms[0]
        return Tile(found.at((1, 1)), next((agent.facing for agent in found.agents if agent.place == (1, 1)), None))

    for index, tile in enumerate(table.tiles):
        near = int(distances[index].argmin())
        margin, step = float(distances[index, near]) / 2, (table.pixels[near] - table.pixels[index]) / distances[index, near]
        assert tile_of(table.pixels[index] + 0.98 * margin * step) == tile
        assert tile_of(table.pixels[index] + 1.02 * margin * step) != tile
        anywhere = torch.randn(len(step), generator=generator)
        assert tile_of(table.pixels[index] + 0.98 * margin * anywhere / anywhere.norm()) == tile


def test_noise_of_a_tenth_changes_no_reading(played: list[Episode]) -> None:
    # A tile at distance d is nearer than the own one with probability Phi(-d / (2 * 0.1)); the nearest is at 1.756.
    frames = torch.cat([torch.from_numpy(each.frames) for each in played]).float() / 127.5 - 1
    least = (tile_table().distances + 1e9 * torch.eye(66)).min().item()
    alarms = frames[..., 0].numel() / PIXELS**2 * 65 * math.erfc(least / 0.2 / math.sqrt(2)) / 2
    assert alarms < 1e-9
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    clean, noisy = read(frames), read(frames + 0.1 * noise)
    assert noisy.rooms == clean.rooms
    assert 0.05 < noisy.errors.min() < noisy.errors.max() < UNKNOWN


def test_frames_of_another_size_or_type_are_refused(judge: MissionJudge) -> None:
    for frames in (torch.zeros(2, 3, 64, 64), torch.zeros(2, 32, 32, 3), torch.zeros(64, 64, 3)):
        with pytest.raises(ValueError, match=r"frames of missions are \(frames, 64, 64, 3\)"):
            judge.judge(frames, None)
    with pytest.raises(ValueError, match="float in"):
        judge.judge(torch.zeros(1, 64, 64, 3, dtype=torch.int32), None)
    with pytest.raises(ValueError, match="not finite"):
        judge.judge(torch.full((1, 64, 64, 3), math.nan), None)
    with pytest.raises(ValueError, match="without frames"):
        judge.judge(torch.zeros(0, 64, 64, 3), None)


def test_episodes_of_the_bot_are_legal_and_solved_at_their_last_frame(judge: MissionJudge, played: list[Episode]) -> None:
    for each in played:
        held = torch.from_numpy(each.frames)
        padded = torch.cat([held, held[-1:].expand(3, -1, -1, -1)])
        verdict = judge.judge(padded, each.mission)
        steps = len(each.actions)
        assert all(verdict.legal), verdict
        assert verdict.faults == ()
        assert (verdict.solved, verdict.shown, verdict.posed) == (steps, steps, True), (verdict, each.mission)
        assert verdict.still == (False,) * steps + (True,) * 3
        assert verdict.error == 0
        assert "done by legal moves" in str(verdict)
        shorter = judge.judge(held[:-1], each.mission)
        assert (shorter.solved, shorter.shown) == (None, None)


def any_level(rng: random.Random) -> MissionLevel:
    while True:
        level = MissionLevel(rng.choice(KINDS))
        try:
            level.reset(seed=rng.randrange(1 << 31))
        except UnsuitableError:
            continue
        return level


def front(level: MissionLevel) -> Place:
    agent = simulator.room_of(level).agents[0]
    return agent.front


def test_moves_are_those_of_the_simulator_and_random_play_is_legal(judge: MissionJudge) -> None:
    rng, world, taken = random.Random(3), simulator.Simulator(), 0
    for _ in range(10):
        level, rooms, hidden = any_level(rng), list[Room](), list[Cell | None]()
        facing_something(level, rng)
        for _ in range(16):
            rooms.append(simulator.room_of(level))
            hidden.append(None if level.carrying is None else simulator.shown(level.carrying))
            if not inside(front(level)):
                break
            found = {move.action: (move.room, move.carried) for move in world.moves(rooms[-1], hidden[-1])}
            assert set(found) == set(range(7))
            for action, expected in found.items():
                other = copy.deepcopy(level)
                other.step(action)
                carried = None if other.carrying is None else simulator.shown(other.carrying)
                assert expected == (simulator.room_of(other), carried)
            useful = [action for action, (after, _) in found.items() if after != rooms[-1]]
            acting = [action for action in useful if action in (Actions.pickup, Actions.drop, Actions.toggle)]
            action = rng.choice(rng.choice([each for each in (acting, useful, list(found)) if each]))
            taken += action in acting
            level.step(action)
        verdict = judge.judge(clip(*rooms), None)
        assert all(verdict.legal), verdict
        assert verdict.rooms == tuple(rooms)
    assert taken > 10  # things were taken and put down, and doors opened


def test_a_changed_frame_is_legal_only_where_the_simulator_has_an_action_to_it(judge: MissionJudge) -> None:
    rng, legal = random.Random(5), 0
    others = [Cell("door", color, state) for color in COLORS for state in ("open", "closed", "locked")]
    others += [EMPTY, WALL, *(Cell(kind, color) for kind in THINGS for color in COLORS)]
    for _ in range(60):
        level = any_level(rng)
        faced = facing_something(level, rng)
        before, reachable = simulator.room_of(level), set[Room]()
        for action in range(7):
            other = copy.deepcopy(level)
            other.step(action)
            reachable.add(simulator.room_of(other))
        there = before.at(faced)
        likely = [EMPTY, there._replace(state="open"), there._replace(state="closed")] if there.kind == "door" else [EMPTY]
        for place in (faced, (rng.randrange(SIDE), rng.randrange(SIDE))):
            for cell in (*likely, *rng.sample(others, 4)):
                if place == before.agents[0].place and not cell.free:
                    continue
                after = put(before, {place: cell})
                verdict = judge.judge(clip(before, after), None)
                assert verdict.legal == (after in reachable,), (before, after)
                assert bool(verdict.faults) != verdict.legal[0]
                legal += verdict.legal[0] and after != before
    assert legal > 20


def facing_something(level: MissionLevel, rng: random.Random) -> Place:
    """Turn the agent to a thing or a door from a free cell beside it; where it then looks."""
    now = simulator.room_of(level)
    things = [(x, y) for x in range(SIDE) for y in range(SIDE) if now.at((x, y)).kind not in ("empty", "wall")]
    sides = [((x - dx, y - dy), facing, (x, y)) for x, y in things for facing, (dx, dy) in enumerate(STEPS)]
    place, facing, faced = rng.choice([each for each in sides if inside(each[0]) and now.at(each[0]) == EMPTY])
    level.agent_pos, level.agent_dir = place, facing
    return faced


BALL, KEY, BOX = Cell("ball", "red"), Cell("key", "blue"), Cell("box", "green")
CLOSED, OPEN, LOCKED = (Cell("door", "blue", state) for state in ("closed", "open", "locked"))
RIGHT, DOWN, LEFT, UP = range(4)
HERE = Agent(3, 3, RIGHT)
AT_DOOR, TWO, NONE = Agent(6, 3, RIGHT), (HERE, Agent(5, 5, UP)), ()
TAKEN, TURNED = {(3, 2): KEY}, Agent(3, 3, UP)
CORRUPTED: list[tuple[str, tuple[Room, ...]]] = [
    ("agent gone", (room(HERE), replace(room(HERE), agents=NONE))),
    ("agent gone", (replace(room(HERE), agents=TWO), room(HERE))),
    ("several agents", (room(HERE), replace(room(HERE), agents=TWO))),
    ("agent appeared", (replace(room(HERE), agents=NONE), room(HERE))),
    ("agent jumped", (room(HERE), room(Agent(5, 3, RIGHT)))),
    ("agent jumped", (room(HERE), room(Agent(2, 3, RIGHT)))),
    ("agent jumped", (room(HERE), room(Agent(3, 4, RIGHT)))),
    ("agent turned around", (room(HERE), room(Agent(3, 3, LEFT)))),
    ("agent moved and turned", (room(HERE), room(Agent(4, 3, UP)))),
    ("agent in an occupied cell", (room(HERE, {(4, 3): BALL}), room(Agent(4, 3, RIGHT)))),
    ("agent in an occupied cell", (room(AT_DOOR), room(Agent(7, 3, RIGHT), {(7, 3): EMPTY}))),
    ("wall changed", (room(HERE), room(HERE, {(0, 5): EMPTY}))),
    ("wall changed", (room(HERE), room(HERE, {(4, 3): WALL}))),
    ("door changed from afar", (room(HERE, {(7, 5): CLOSED}), room(HERE, {(7, 5): OPEN}))),
    ("door changed from afar", (room(HERE, {(7, 5): LOCKED}), room(HERE, {(7, 5): OPEN}))),
    ("door unlocked without its key", (room(AT_DOOR, {(7, 3): LOCKED}), room(AT_DOOR, {(7, 3): OPEN}))),
    ("door locked", (room(AT_DOOR, {(7, 3): CLOSED}), room(AT_DOOR, {(7, 3): LOCKED}))),
    ("color changed", (room(HERE, {(5, 5): BALL}), room(HERE, {(5, 5): Cell("ball", "yellow")}))),
    ("color changed", (room(HERE, {(7, 5): CLOSED}), room(HERE, {(7, 5): Cell("door", "red", "closed")}))),
    ("kind changed", (room(HERE, {(5, 5): BALL}), room(HERE, {(5, 5): Cell("box", "red")}))),
    ("thing moved", (room(HERE, {(5, 5): BALL}), room(HERE, {(5, 6): BALL}))),
    ("thing vanished", (room(HERE, {(5, 5): BALL}), room(HERE))),
    ("thing vanished", (room(AT_DOOR, {(7, 3): CLOSED}), room(AT_DOOR, {(7, 3): EMPTY}))),
    ("thing appeared", (room(HERE), room(HERE, {(4, 3): BALL}))),
    ("thing appeared", (room(HERE), room(HERE, {(5, 5): BALL}))),
    ("thing appeared", (room(HERE), room(HERE, {(3, 3): OPEN}))),
    ("two actions at once", (room(HERE, {(4, 3): BALL}), room(TURNED))),
    ("second thing taken", (room(HERE, {(4, 3): BALL} | TAKEN), room(HERE, TAKEN), room(TURNED, TAKEN), room(TURNED))),
]


@pytest.mark.parametrize(("name", "made"), CORRUPTED)
def test_every_corruption_is_named(judge: MissionJudge, name: str, made: tuple[Room, ...]) -> None:
    verdict = judge.judge(clip(*made), None)
    assert not verdict.legal[-1]
    assert name in [fault.name for fault in verdict.faults if fault.frame == len(verdict.legal)]
    assert name in str(verdict)


def test_a_cell_that_shows_no_tile_is_named(judge: MissionJudge) -> None:
    frames = clip(room(HERE), room(HERE), room(HERE))
    frames[1, 2 * PIXELS : 3 * PIXELS, 5 * PIXELS : 6 * PIXELS] = torch.tensor([1.0, -1.0, 1.0])
    verdict = judge.judge(frames, None)
    assert verdict.legal == (False, False)
    assert verdict.faults[0] == Fault(1, "unknown tile", ((5, 2),))
    assert str(verdict.faults[0]) == "frame 1: unknown tile at (5, 2)"
    assert {name for name, _ in CORRUPTED} | {"unknown tile"} == set(FAULTS)


def test_real_clips_with_a_corrupted_frame_are_faulted_there_alone(judge: MissionJudge, played: list[Episode]) -> None:
    rng = random.Random(7)
    for each in played:
        rooms = list(read(torch.from_numpy(each.frames)).rooms)
        number = rng.randrange(1, len(rooms))
        empty = [(x, y) for x in range(1, 7) for y in range(1, 7) if rooms[number].at((x, y)) == EMPTY]
        away = [place for place in empty if place != rooms[number].agents[0].place]
        rooms[number] = put(rooms[number], {rng.choice(away): Cell("ball", "grey")})
        verdict = judge.judge(clip(*rooms), each.mission)
        wrong = {place for place, legal in enumerate(verdict.legal, 1) if not legal}
        assert number in wrong
        assert wrong <= {number, number + 1}
        assert verdict.solved is None or verdict.solved < number


def test_what_is_carried_is_followed_through_what_is_seen(judge: MissionJudge) -> None:
    facing, turned = {(4, 3): BOX, (3, 2): KEY}, Agent(3, 3, UP)
    gone, upwards = room(HERE, {(3, 2): KEY}), room(turned, {(3, 2): KEY})
    free = room(turned)
    # The box was taken or opened: minigrid's boxes are empty here, and an opened one is gone.
    assert judge.judge(clip(room(HERE, facing), gone, upwards, free), None).legal == (True, True, True)
    back = room(Agent(3, 3, RIGHT), {(3, 2): KEY})
    assert all(judge.judge(clip(room(HERE, facing), gone, upwards, back, room(HERE, facing)), None).legal)
    # Not both: the key was taken, so the box had been opened.
    away = room(Agent(3, 3, RIGHT))
    verdict = judge.judge(clip(room(HERE, facing), gone, upwards, free, away, room(HERE, {(4, 3): BOX})), None)
    assert verdict.legal == (True, True, True, True, False)
    assert [fault.name for fault in verdict.faults] == ["thing appeared"]
    # A locked door opens for its key.
    start = Agent(6, 3, UP)
    rooms = (
        room(start, {(6, 2): KEY, (7, 3): LOCKED}),
        room(start, {(7, 3): LOCKED}),
        room(Agent(6, 3, RIGHT), {(7, 3): LOCKED}),
        room(Agent(6, 3, RIGHT), {(7, 3): OPEN}),
    )
    verdict = judge.judge(clip(*rooms), Mission.parse("open the blue door on your right"))
    assert all(verdict.legal)
    assert verdict.solved == 3
    other = tuple(put(each, {(6, 2): Cell("key", "red")} if each.at((6, 2)) == KEY else {}) for each in rooms)
    assert [fault.name for fault in judge.judge(clip(*other), None).faults] == ["door unlocked without its key"]


def test_after_a_fault_the_clip_is_judged_on(judge: MissionJudge) -> None:
    frames = clip(room(HERE, {(5, 5): BALL}), room(HERE), room(HERE, {(4, 3): BALL}), room(Agent(3, 3, UP), {(4, 3): BALL}))
    verdict = judge.judge(frames, Mission.parse("put the red ball next to the blue key"))
    assert verdict.legal == (False, True, True)  # the ball may have been taken, and is put down
    assert not verdict.posed


BALLS, PAIR = {(3, 5): BALL, (3, 1): BALL}, {(4, 3): BALL, (3, 2): KEY}
NEAR_KEY = {(3, 1): KEY}
TO_THE_RIGHT = (room(HERE, BALLS), room(Agent(3, 3, DOWN), BALLS), room(Agent(3, 4, DOWN), BALLS))
SEEN_BALL, SEEN_KEY = room(HERE, PAIR), room(TURNED, PAIR)


@pytest.mark.parametrize(
    ("text", "rooms", "solved", "shown"),
    [
        ("pick up the red ball", (room(HERE, {(4, 3): BALL}), room(HERE)), 1, 1),
        ("pick up the red ball", (room(HERE, {(5, 5): BALL}), room(HERE)), None, 1),
        ("pick up the blue key", (room(HERE, {(4, 3): BALL, (5, 5): KEY}), room(HERE, {(5, 5): KEY})), None, None),
        ("pick up the red ball behind you", (room(HERE, {(4, 3): BALL}), room(HERE)), None, None),
        ("go to the red ball", (room(HERE, {(5, 3): BALL}), room(Agent(4, 3, RIGHT), {(5, 3): BALL})), 1, 1),
        ("go to the red ball", (room(HERE, {(6, 3): BALL}), room(Agent(5, 3, RIGHT), {(6, 3): BALL})), None, 1),
        ("go to the red ball", (room(HERE, {(6, 3): BALL}), room(Agent(4, 3, RIGHT), {(6, 3): BALL})), None, None),
        # the one on the left, not the one on the right
        (
            "go to the red ball on your left",
            (room(HERE, BALLS), room(Agent(3, 3, DOWN), BALLS), room(Agent(3, 4, DOWN), BALLS)),
            None,
            None,
        ),
        ("go to the red ball on your right", (room(HERE, BALLS), room(Agent(3, 3, DOWN), BALLS), room(Agent(3, 4, DOWN), BALLS)), 2, 2),
        (
            "put the red ball next to the blue key",
            (
                room(HERE, NEAR_KEY | {(4, 3): BALL}),
                room(HERE, NEAR_KEY),
                room(TURNED, NEAR_KEY),
                room(TURNED, NEAR_KEY | {(3, 2): BALL}),
            ),
            3,
            3,
        ),
        ("go to the red ball, then go to the blue key", (room(Agent(3, 3, DOWN), PAIR), SEEN_BALL, SEEN_KEY), 2, 2),
        ("go to the blue key, then go to the red ball", (room(Agent(3, 3, DOWN), PAIR), SEEN_BALL, SEEN_KEY), None, None),
        ("open the blue door", (room(AT_DOOR, {(7, 3): OPEN}), room(AT_DOOR, {(7, 3): CLOSED})), None, None),
        ("open the blue door", (room(AT_DOOR, {(7, 3): CLOSED}), room(AT_DOOR, {(7, 3): OPEN})), 1, 1),
    ],
)
def test_missions_are_done_or_not(judge: MissionJudge, text: str, rooms: tuple[Room, ...], solved: int | None, shown: int | None) -> None:
    verdict = judge.judge(clip(*rooms), Mission.parse(text))
    assert (verdict.solved, verdict.shown) == (solved, shown)


def test_missions_are_parsed_as_they_are_written() -> None:
    things = [Described(color, kind, place) for color in COLORS for kind in (*THINGS, "door") for place in (*PLACES, None)]
    rng = random.Random(1)
    for _ in range(300):
        kind, one, two = rng.choice(KINDS), rng.choice(things), rng.choice(things)
        if kind == "open":
            one = replace(one, kind="door")
        mission = Mission(kind, one, two if kind in ("putnext", "gotoseq") else None)
        assert Mission.parse(str(mission)) == mission
        assert Mission.parse(str(mission).capitalize() + ".") == mission
    for text in ("", "go", "open the red ball", "go to the pink ball", "pick up the red ball, then go to the red key"):
        with pytest.raises(ValueError, match="is no mission"):
            Mission.parse(text)


def test_places_are_those_of_babyai() -> None:
    for facing in range(len(STEPS)):
        for place in ((x, y) for x in range(1, 7) for y in range(1, 7) if (x, y) != (3, 3)):
            agent = Agent(3, 3, facing)
            there = room(agent, {place: BALL})
            found = {name for name in PLACES if Described("red", "ball", name).matching(there)}
            theirs = {name for name in PLACES if simulator.matched(Described("red", "ball", name), there)}
            assert found == theirs == places_of(agent, place)
            assert place_of(agent, place) in {*theirs, None}


def judged(
    played: list[Episode], made: Callable[[Tensor], Tensor] | None = None, given: frozenset[str] | None = None
) -> dict[str, Measurement]:
    """Figures of clips in place of the real ones, whose last frames are repeated."""
    clips = [torch.from_numpy(each.frames[[min(frame, len(each.actions)) for frame in range(17)]]) for each in played]
    real = torch.stack(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    rows: list[JSON] = []
    for mission in (each.mission for each in played):
        target, other = mission.target, mission.other
        row: JSON = {"kind": mission.kind, "object": target.kind, "color": target.color, "place": target.place}
        rows.append(row | {"other_object": other and other.kind, "other_color": other and other.color})
    medium = Medium("video", 3, ALONG_FRAMES, (17, 64, 64), 4.0)
    return judge_called("missions").figures(JudgedItems(real if made is None else made(real), real, rows, medium, given))


def test_figures_of_real_clips_are_all_right_and_of_reversed_ones_are_not(played: list[Episode]) -> None:
    some = played[:10]
    found = judged(some)
    assert set(found) == set(judge_called("missions").names)
    assert {name: each.value for name, each in found.items()} == dict.fromkeys(found, 1.0)
    moves = sum(len(each.actions) for each in some)
    assert (found["legal"].n, found["legal_moves"].n, found["solved"].n) == (160, moves, 10)
    assert found["legal"].details["faults"] == {}
    assert found["solved"].details["by_class"] == {kind: {"value": 1.0, "n": 2} for kind in KINDS}
    backwards = judged(some, lambda real: real.flip(2), frozenset({"text"}))
    assert "first_frame_kept" not in backwards
    assert backwards["solved"].value == 0
    assert 0 < backwards["legal_moves"].value < 0.8
    assert "agent jumped" in backwards["legal"].details["faults"]
    assert "clip 0, frame" in backwards["legal"].details["examples"][0]
    assert judged(some, lambda real: real.flip(2), frozenset({"first_frame"}))["first_frame_kept"].value == 0
    assert "solved" not in judged(some, None, frozenset({"first_frame"}))
    still = judged(some, lambda real: real[:, :, :1].expand_as(real), frozenset({"text", "first_frame"}))
    assert (still["legal"].value, still["solved"].value, still["first_frame_kept"].value) == (1, 0, 1)
    assert "legal_moves" not in still


def test_what_cannot_be_judged_is_said(played: list[Episode], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JudgeError, match="not finite"):
        judged(played[:2], lambda real: real * math.nan)
    with pytest.raises(JudgeError, match="reads RGB clips of 64 x 64 pixels"):
        judged(played[:2], lambda real: real[..., :32, :32])
    monkeypatch.setitem(sys.modules, "jielong.evaluation.missions.simulator", None)
    with pytest.raises(JudgeError, match=r"pip install 'jielong\[missions\]'"):
        judged(played[:2])


def test_the_error_of_a_share_of_transitions_is_that_of_clips() -> None:
    # Ten clips right throughout and ten wrong throughout are ten of twenty, however many transitions they have.
    assert _clustered([[True] * 16] * 10 + [[False] * 16] * 10) == pytest.approx(math.sqrt(0.25 / 20))
