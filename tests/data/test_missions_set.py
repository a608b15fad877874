"""The set `missions`: the same from the same seed, captions that are its columns, new combinations held out, and no clip twice."""

from __future__ import annotations

import hashlib
import io
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

pytest.importorskip("minigrid")

from jielong.core.json import JSON
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.data import open_data
from jielong.data.built import BuildError, built_path
from jielong.data.licences import terms
from jielong.data.opening import open_source
from jielong.data.source import DataError
from jielong.evaluation.judges.missions import mission_of
from jielong.evaluation.missions.judge import MissionJudge
from jielong.evaluation.missions.texts import KINDS, PLACES, Mission, place_of
from jielong.evaluation.missions.tiles import read
from jielong_zoo.builders.building import build_set
from jielong_zoo.builders.missions.build import ATTEMPTS, COUNT, RATE, STEPS, Missions, episode_of
from jielong_zoo.builders.missions.level import MissionLevel, UnsuitableError, episode

SHIPPED = Path(import_module("jielong_zoo").path()) / "data" / "missions.parquet"


@pytest.fixture(scope="module")
def shipped() -> list[JSON]:
    return list(pq.read_table(SHIPPED).to_pylist())


def frames_of(clip: bytes) -> torch.Tensor:
    """``(T, 64, 64, 3)`` of 8 bits."""
    frames = []
    with Image.open(io.BytesIO(clip)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")))
            assert image.info["duration"] * RATE == 1000
    return torch.from_numpy(np.stack(frames))


def test_a_thousand_real_clips_are_legal_and_solved_at_their_last_frame(shipped: list[JSON]) -> None:
    judge, firsts = MissionJudge(), set()
    for row in shipped[:: len(shipped) // 1000][:1000]:
        mission, frames = Mission.parse(row["caption"]), frames_of(row["video"])
        verdict = judge.judge(frames, mission)
        assert all(verdict.legal), (row["name"], verdict)
        assert (verdict.solved, verdict.shown, verdict.posed) == (row["steps"], row["steps"], True), (row["name"], verdict)
        assert not any(verdict.still)
        assert verdict.error == 0
        assert mission == mission_of(row)
        first = verdict.rooms[0]
        agent, (target,) = first.agents[0], mission.target.matching(first)
        assert place_of(agent, target) == row["place"]
        firsts.add(first)
    assert len(firsts) == 1000


def test_the_shipped_split_holds_out_new_combinations_alone(shipped: list[JSON]) -> None:
    assert len(shipped) == COUNT
    assert SHIPPED.stat().st_size < 6_000_000
    assert Counter(row["kind"] for row in shipped) == dict.fromkeys(KINDS, COUNT // len(KINDS))
    assert len({hashlib.sha256(row["video"]).digest() for row in shipped}) == COUNT
    out, seen = {"train": set(), "heldout": set()}, {"train": set(), "heldout": set()}
    for row in shipped:
        out[row["split"]].add((row["object"], row["color"], row["place"]))
        seen[row["split"]] |= {(row["object"], row["color"]), (row["object"], row["place"]), (row["color"], row["place"]), row["kind"]}
        assert 1 <= row["steps"] <= STEPS
        assert row["place"] in PLACES
    assert not out["train"] & out["heldout"]
    assert len(out["train"] | out["heldout"]) == 4 * 6 * len(PLACES)  # keys, balls, boxes and doors of six colors at four places
    assert seen["heldout"] <= seen["train"]  # each pair of the three is known
    assert 0.09 < sum(row["split"] == "heldout" for row in shipped) / COUNT < 0.13


def test_the_set_opens_as_videos_whose_last_frame_is_repeated(shipped: list[JSON]) -> None:
    assert open_source("missions").judge == "missions"
    found = open_data("missions", "heldout")
    assert found.medium == Medium("video", 3, ALONG_FRAMES, (STEPS + 1, 64, 64), float(RATE))
    assert len(found) == sum(row["split"] == "heldout" for row in shipped)
    rows = {row["name"]: row for row in shipped}
    row = rows[found.columns["name"][0]]
    frames = frames_of(row["video"])
    expected = frames[[min(frame, len(frames) - 1) for frame in range(STEPS + 1)]].permute(3, 0, 1, 2)
    assert torch.equal(found.media([0])[0], expected.float() / 127.5 - 1)
    assert found.captions[found.resolve(0)] == row["caption"]
    assert [each.licence for each in terms("missions")] == ["MIT, Apache-2.0"]


def test_building_gives_the_same_bytes_twice_and_the_first_clips_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "one"))
    path = build_set("missions", progress=counted.append, missions=Missions(count=20))
    assert path == built_path("missions-20")
    assert counted == list(range(1, 21))
    assert "Minigrid" in path.with_name("LICENSE-missions-20.md").read_text("utf-8")
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "two"))
    assert build_set("missions", missions=Missions(count=20)).read_bytes() == path.read_bytes()
    rows = pq.read_table(path).to_pylist()
    fewer, other = (pq.read_table(build_set("missions", missions=each)).to_pylist() for each in (Missions(10), Missions(10, seed=1)))
    assert [row["video"] for row in fewer] == [row["video"] for row in rows[:10]]
    assert not {row["video"] for row in other} & {row["video"] for row in rows}
    assert built_path("missions-10-seed-1").is_file()


def test_the_shipped_clips_are_those_of_this_builder(shipped: list[JSON]) -> None:
    taken: set[bytes] = set()
    for number in range(8):
        found, row = episode_of(number, 0, taken), shipped[number]
        assert str(found.mission) == row["caption"]
        assert torch.equal(torch.from_numpy(found.frames), frames_of(row["video"]))


def test_frames_are_those_that_minigrid_renders() -> None:
    for seed in range(6):
        level = MissionLevel(KINDS[seed % len(KINDS)])
        try:
            level.reset(seed=seed)
            found = episode(KINDS[seed % len(KINDS)], seed)
        except UnsuitableError:
            continue
        rendered = level.grid.render(8, level.agent_pos, level.agent_dir)
        assert np.array_equal(found.frames[0], rendered)
        for number, action in enumerate(found.actions, 1):
            level.step(action)
            assert np.array_equal(found.frames[number], level.grid.render(8, level.agent_pos, level.agent_dir))
        assert found.mission.target.matching(read(torch.from_numpy(found.frames)).rooms[0])


def test_what_cannot_be_built_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="'missions' needs no packages"):
        build_set("missions", packages=tmp_path)
    with pytest.raises(DataError, match="a seed is for the set 'missions'"):
        build_set("faces", missions=Missions())
    level = import_module("jielong_zoo.builders.missions.level")

    def unsuitable(kind: str, seed: int) -> None:
        raise UnsuitableError

    monkeypatch.setattr(level, "episode", unsuitable)
    with pytest.raises(BuildError, match=f"{ATTEMPTS:,} rooms have no new mission of the kind goto"):
        build_set("missions", missions=Missions(count=5))
    monkeypatch.setitem(sys.modules, "jielong_zoo.builders.missions.level", None)
    with pytest.raises(BuildError, match=r"pip install 'jielong\[missions\]'"):
        build_set("missions", missions=Missions(count=5))
    assert not list(tmp_path.rglob("*.parquet"))
