"""Whole runs: each clip fails one stage alone, hostile files are named, and stopped, divided and plain runs give the same result."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from curation_clips import COUNT, add_sound, cv2, moving, texture, write, write_sound
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.config.registry import plain
from jielong.config.yaml_text import write_yaml
from jielong.core.interrupts import exit_code
from jielong.curation import run as running_module
from jielong.curation.measuring import Clip, measure_file
from jielong.curation.report import as_dict, write_report
from jielong.curation.rules import Rules, parse_rules
from jielong.curation.run import Curated, curate
from jielong.curation.running import Workers
from jielong.curation.stages import caption as caption_stage
from jielong.curation.store import Store
from jielong.data import open_data
from jielong.data.source import DataError
from jielong.media.reading.video import read_header, shown_frames

LIMITS = {
    "metadata": "metadata: {short_side: {min: 40}}",
    "length": "length: {duration: {min: 1.5}}",
    "brightness": "brightness: {min: 0.3, max: 0.9}",
    "motion": "motion: {min: 2, max: 40}",
    "blur": "blur: {min: 15}",
    "caption": "caption: {min: 0}",
    "duplicates": "duplicates: {bits: 6}",
}
FAILS = {
    "small": ("metadata", "picture too small"),
    "short": ("length", "clip too short"),
    "dark": ("brightness", "too dark"),
    "still": ("motion", "too still"),
    "fast": ("motion", "too much motion"),
    "soft": ("blur", "blurred"),
    "wrong": ("caption", "caption does not match"),
    "same": ("duplicates", "near-duplicate"),
}
TWO = parse_rules(
    "shots: {detector: content}\nsets:\n  wide: {length: {duration: {min: 1.5}}, motion: {min: 2}, blur: {min: 15}}\n"
    "  strict: {extends: wide, motion: {max: 40}, brightness: {min: 0.3}, duplicates: {bits: 6}}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good clip, one of two shots, and one for each fault."""
    root = tmp_path_factory.mktemp("clips")
    good = moving(1)
    write(root / "good.mp4", good)
    write(root / "two.mp4", [*moving(2), *moving(3)])
    write(root / "small.mp4", moving(4, height=32, width=48))
    write(root / "short.mp4", moving(5, count=8))
    write(root / "dark.mp4", [(frame * 0.45).astype(np.uint8) for frame in moving(6)])
    write(root / "still.mp4", [texture(7, 48, 64)] * COUNT)
    write(root / "fast.mp4", moving(8, across=6))
    write(root / "soft.mp4", [cv2.GaussianBlur(frame, (0, 0), 3) for frame in moving(9)])
    write(root / "wrong.mp4", moving(10))
    write(root / "same.mp4", [cv2.resize(frame, (96, 72), interpolation=cv2.INTER_CUBIC) for frame in good])
    (root / "wrong.txt").write_text("another thing")
    (root / "good.txt").write_text("a texture that moves")
    return root


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for a trained one: captions of another thing score -1."""

    class Scorer:
        towers = SimpleNamespace(log_scale=torch.tensor(2.0))

        def __call__(self, pictures: torch.Tensor, captions: list[str]) -> torch.Tensor:
            assert pictures.shape == (1, 3, 48, 64)
            return self.towers.log_scale.exp() * torch.tensor([[-1.0 if "another" in caption else 1.0 for caption in captions]])

    monkeypatch.setattr(caption_stage, "_scorer", lambda name: Scorer())


def result_of(result: Curated) -> dict[str, object]:
    """Everything that must be equal between two runs: the report, the files, and their bytes."""
    write_report(result)
    report = json.loads((result.out / "report.json").read_text())
    files = {}
    for path in sorted(result.out.rglob("*")):
        name = path.relative_to(result.out).as_posix()
        if path.is_file() and not name.startswith(".") and name != "report.json":
            files[name] = path.read_bytes()
    return {"report": report, "files": files}


def dropped(result: Curated, name: str) -> dict[str, tuple[str, str]]:
    """File to stage and reason."""
    each = next(found for found in result.funnels if found.name == name)
    entries = [(row.stage, entry) for row in each.rows for entry in row.dropped]
    return {result.items[entry.file].key: (stage, entry.fault.reason) for stage, entry in entries if entry.fault is not None}


@pytest.mark.usefixtures("scorer")
def test_each_clip_is_dropped_by_its_stage_and_by_no_other(folder: Path, tmp_path: Path) -> None:
    sets = [f"  all: {{{', '.join(LIMITS.values())}}}"] + [f"  {name}: {{{limits}}}" for name, limits in LIMITS.items()]
    rules = parse_rules("shots: {detector: content}\ncaption: {scorer: mine}\nsets:\n" + "\n".join(sets))
    result = curate(folder, rules, tmp_path / "out", write=False)
    expected = {f"{name}.mp4": fault for name, fault in FAILS.items()}
    assert dropped(result, "all") == expected
    for stage in LIMITS:
        assert dropped(result, stage) == {name: fault for name, fault in expected.items() if fault[0] == stage}
    kept = [(result.items[entry.file].key, entry.clip) for entry in result.funnels[0].kept]
    assert kept == [("good.mp4", 0), ("two.mp4", 0), ("two.mp4", 1)]
    spans = [(clip.span.first, clip.span.stop) for clip in result.records[[item.key for item in result.items].index("two.mp4")].clips or ()]
    assert spans == [(0, COUNT), (COUNT, 2 * COUNT)]
    rows = {row.stage: row for row in result.funnels[0].rows}
    assert rows["caption"].note == "not looked for in 3 clips without a caption, which are kept"
    for before, after in zip(result.funnels[0].rows, result.funnels[0].rows[1:], strict=False):
        assert before.kept == after.before
        assert before.stage == "shots" or before.before == before.kept + len(before.dropped)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The result of an uninterrupted run with both sets."""
    return result_of(curate(folder, TWO, tmp_path_factory.mktemp("whole") / "out"))


def test_two_sets_in_one_pass_are_two_passes(folder: Path, whole: dict, tmp_path: Path) -> None:
    for name in TWO.sets:
        rules = TWO.model_copy(update={"sets": {name: TWO.sets[name]}})
        alone = result_of(curate(folder, rules, tmp_path / name))
        assert alone["report"]["sets"][name] == whole["report"]["sets"][name]  # type: ignore[index]
        assert alone["files"][f"{name}/metadata.jsonl"]  # type: ignore[index]
        for path, content in alone["files"].items():  # type: ignore[attr-defined]
            if path.endswith(".mp4"):
                assert whole["files"][path] == content
    strict = {path for path in whole["files"] if path.startswith("strict/") and path.endswith(".mp4")}
    assert strict == {f"strict/{name}" for name in ("good.mp4", "small.mp4", "two_000000-000016.mp4", "two_000016-000032.mp4", "wrong.mp4")}


def test_a_set_is_opened_with_its_clips_and_captions(folder: Path, tmp_path: Path) -> None:
    result = curate(folder, TWO, tmp_path / "out")
    opened = open_data(str(result.folders["strict"]), size=16, frames=4, frame_rate=8)
    assert len(opened) == len(result.funnels[1].kept)
    assert dict(zip(opened.keys, opened.captions, strict=True))["good.mp4"] == "a texture that moves"
    assert opened.media([0]).shape == (1, 3, 4, 16, 16)
    original, copied = folder / "good.mp4", result.folders["strict"] / "good.mp4"
    assert original.read_bytes() == copied.read_bytes(), "a file that is one clip is copied as it is"
    frames = [np.asarray(each.picture()) for each in shown_frames(folder / "two.mp4", "two")][COUNT:]
    part = [np.asarray(each.picture()) for each in shown_frames(result.folders["strict"] / "two_000016-000032.mp4", "part")]
    assert len(part) == COUNT
    error = np.mean((np.array(frames, float) - np.array(part, float)) ** 2)
    assert 10 * np.log10(255**2 / error) > 30, "a part has the frames of its shot, encoded again"


def test_a_stopped_run_goes_on_to_the_same_result(folder: Path, whole: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, write_one, asked = tmp_path / "out", Store.write, []

    def stopping(store: Store, key: str, measured: object) -> None:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(key)
        write_one(store, key, measured)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", stopping)
        path = tmp_path / "rules.yaml"
        path.write_text(write_yaml(plain(TWO)))
        stopped = CliRunner().invoke(app, ["data", "curate", str(folder), "--rules", str(path), "--out", str(out), "--jobs", "1"])
    assert stopped.exit_code == exit_code(2)
    assert "the same command resumes" in stopped.stderr
    assert not (out / "wide").exists()
    work = out / ".curation" / "measured"
    (work / asked[0][:2] / ".half.abcdefgh.00000000-1.tmp").mkdir()  # of a process that was killed on another computer
    (work / asked[1][:2] / asked[1] / "record.json").write_text("{")  # damaged: it is measured again
    writes: list[str] = []
    write_clip = running_module.write_clip

    def failing(job: object) -> str:
        if len(writes) == 2:
            raise KeyboardInterrupt
        writes.append(str(job))
        return write_clip(job)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(running_module, "write_clip", failing)
        with pytest.raises(KeyboardInterrupt):
            curate(folder, TWO, out)
    result = curate(folder, TWO, out)
    assert result.measured == 0, "the second run measured the rest"
    assert result_of(result) == whole


def test_other_limits_measure_nothing_again_but_what_was_not_needed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = parse_rules("sets: {a: {length: {duration: {min: 1.5}}, motion: {min: 2}}}")
    assert curate(folder, first, out, write=False).measured == len(FAILS) + 2
    assert curate(folder, parse_rules("sets: {a: {motion: {min: 3}}, b: {motion: {max: 9}}}"), out, write=False).measured == 1, (
        "motion was not measured of the clip that was too short"
    )
    assert curate(folder, first, out, write=False).measured == 0, "what is added keeps what was there"
    assert curate(folder, parse_rules("size: 32\nsets: {a: {motion: {min: 3}}}"), out, write=False).measured == len(FAILS) + 2
    (out / "note.txt").write_text("of the user")
    write(folder / "new.mp4", moving(77))
    try:
        assert curate(folder, first, out, write=False).measured == 1
    finally:
        (folder / "new.mp4").unlink()


def test_processes_give_the_same_result(folder: Path, whole: dict, tmp_path: Path) -> None:
    assert result_of(curate(folder, TWO, tmp_path / "out", Workers(jobs=2))) == whole


def test_ray_gives_the_same_result(folder: Path, whole: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.data")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # of a loaded machine
    assert result_of(curate(folder, TWO, tmp_path / "out", Workers(jobs=2, ray=True))) == whole


def test_hostile_files_are_counted_and_named(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    good = write(root / "good.mp4", moving(1))
    data = good.read_bytes()
    (root / "zero.mp4").write_bytes(b"")
    (root / "cut.mp4").write_bytes(data[: len(data) // 2])
    (root / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    (root / "words.webm").write_text("this is no video")
    write_sound(root / "sound.mp4")
    write(root / "one.mp4", moving(2, count=1))
    times = [0, 0.1, 0.2, 0.5, 0.6, 0.7, 1.4, 1.5, 1.6, 1.7, 1.9, 2.0]
    write(root / "varying.mp4", moving(3, count=len(times)), times=times)
    write(root / "odd.mp4", moving(4, height=45, width=61))
    (root / "readme.md").write_text("nothing")
    rules = parse_rules("sets: {all: {length: {frames: {min: 2}}, motion: {min: 0.1}, blur: {min: 1}, duplicates: {}}}")
    result = curate(root, rules, tmp_path / "out")
    found = dropped(result, "all")
    assert {name: reason for name, (stage, reason) in found.items() if stage == "broken"} == {
        "zero.mp4": "empty file",
        "cut.mp4": "cut off",
        "sound.mp4": "no picture stream",
        "noise.mp4": found["noise.mp4"][1],
        "words.webm": found["words.webm"][1],
    }
    assert {found[name][1] for name in ("noise.mp4", "words.webm")} <= {"not readable as a video", "cut off"}
    assert found["one.mp4"] == ("length", "too few frames")
    kept = [result.items[entry.file].key for entry in result.funnels[0].kept]
    assert kept == ["good.mp4", "odd.mp4", "varying.mp4"]
    report = as_dict(result)
    assert report["varying_frame_rate"] == ["varying.mp4"]
    assert "readme.md" in json.dumps(report["unused"])
    record = result.records[[item.key for item in result.items].index("varying.mp4")]
    assert record.clips is not None
    assert record.clips[0].span.seconds == pytest.approx(2.0, abs=0.2)
    lines = (tmp_path / "out" / "all.dropped.jsonl").read_text().splitlines() if write_report(result) else []
    assert {json.loads(line)["file"] for line in lines} == set(found)


def test_parts_keep_times_odd_sizes_and_sound(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    times = [*(0.1 * frame for frame in range(12)), *(1.5 + 0.25 * frame for frame in range(8))]
    pictures = [*moving(1, count=12, height=45, width=61), *moving(2, count=8, height=45, width=61)]
    root.mkdir()
    add_sound(write(tmp_path / "silent.mp4", pictures, times=times), root / "long.mp4")
    result = curate(root, parse_rules("shots: {detector: content}\nsets: {all: {}}"), tmp_path / "out")
    assert result.incomplete == {}
    first, second = sorted(result.folders["all"].glob("*.mp4"))
    starts = [each.start for each in shown_frames(second, "second")]
    assert starts == pytest.approx([0.25 * frame for frame in range(8)], abs=2e-3)
    for part in (first, second):
        header = read_header(part)
        assert (header.width, header.height, header.sound) == (61, 45, True)


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".flv", ".avi", ".webp"])
def test_parts_of_any_container_have_the_frames_of_their_shots(suffix: str, tmp_path: Path) -> None:
    source, pictures = tmp_path / "clips" / f"long{suffix}", [*moving(1), *moving(2), *moving(3)]
    if suffix == ".webp":
        first, *others = [Image.fromarray(frame) for frame in pictures]
        source.parent.mkdir()
        first.save(source, save_all=True, append_images=others, duration=125, lossless=True)
    else:
        write(source, pictures)
    before = [np.asarray(each.picture(), float) for each in shown_frames(source, "source")]
    result = curate(source.parent, parse_rules("shots: {detector: content}\nsets: {all: {}}"), tmp_path / "out")
    parts = sorted(result.folders["all"].glob("*.mp4"))
    assert len(parts) == 3
    for number, part in enumerate(parts):
        after = [np.asarray(each.picture(), float) for each in shown_frames(part, "part")]
        assert len(after) == COUNT
        # halved colours cost this texture much; another frame, a pixel to the side, is below 20 dB
        error = np.mean((np.array(before[COUNT * number : COUNT * (number + 1)]) - np.array(after)) ** 2, axis=(1, 2, 3))
        assert (10 * np.log10(255**2 / error) > 22).all(), "each frame is the one of the file"


def test_a_process_that_dies_costs_its_file_alone(tmp_path: Path) -> None:
    items = [str(number) for number in range(3)]
    found = dict(Workers(jobs=2).run(_dies_at_one, items, lambda item: f"crashed {item}"))
    assert found == {0: "0", 1: "crashed 1", 2: "2"}


def _dies_at_one(item: str) -> str:
    if item == "1":
        os._exit(3)
    return item


def test_nothing_is_written_before_everything_is_checked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def refused(clips: Path, where: Path, rules: Rules = TWO) -> str:
        with pytest.raises((DataError, RuntimeError, OSError)) as error:
            curate(clips, rules, where)
        return str(error.value)

    assert "is no folder" in refused(folder / "good.mp4", out)
    assert "one within the other" in refused(folder, folder / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no videos" in refused(empty, out)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    assert "files that curation did not write" in refused(folder, mine)
    scored = parse_rules(f"caption: {{scorer: {tmp_path / 'none'}}}\nsets: {{a: {{caption: {{min: 0}}}}}}")
    assert "has no scorer" in refused(folder, out, scored)
    monkeypatch.setitem(__import__("sys").modules, "scenedetect", None)
    assert "pip install 'jielong[curate]'" in refused(folder, out)
    assert not out.exists()


def test_the_report_says_why(folder: Path, tmp_path: Path) -> None:
    result = curate(folder, TWO, tmp_path / "out", write=False)
    write_report(result)
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("near-duplicate", "too still", "clip too short", "data:image/webp;base64,", "<svg", "good.mp4", "no limits"):
        assert words in page
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    motion = next(stage for stage in report["sets"]["strict"]["stages"] if stage["stage"] == "motion")["measures"]["motion"]
    assert sum(motion["counts"]) == motion["count"]
    assert motion["limits"] == {"min": 2.0, "max": 40.0}
    assert motion["quantiles"]["0"] <= motion["quantiles"]["0.5"] <= motion["quantiles"]["1"]
    assert list(report["sets"]) == ["wide", "strict"]
    shutil.rmtree(tmp_path / "out")


def test_a_folder_of_frames_is_a_clip(tmp_path: Path) -> None:
    root = tmp_path / "clips" / "walk"
    root.mkdir(parents=True)
    for number, frame in enumerate(moving(1)):
        assert cv2.imwrite(str(root / f"{number:04d}.png"), frame)
    (root / "frames.json").write_text('{"frame_rate": 8}')
    write(tmp_path / "clips" / "other.mp4", moving(2))
    result = curate(tmp_path / "clips", parse_rules("sets: {all: {motion: {min: 1}}}"), tmp_path / "out")
    assert [result.items[entry.file].key for entry in result.funnels[0].kept] == ["other.mp4", "walk"]
    assert len(list((result.folders["all"] / "walk").glob("*.png"))) == COUNT
    assert len(open_data(str(result.folders["all"]), size=16, frames=4, frame_rate=8)) == 2


def test_measuring_a_file_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "gone.mp4"
    found = measure_file(Clip(path, "gone.mp4"), TWO)
    assert found.record.fault is not None
    assert "gone.mp4" in found.record.fault.detail
    assert found.strips == ()
