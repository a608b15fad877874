"""Clips on the demo's page: models found by the judge of their set, inputs of held-out clips, verdicts, and the page."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageSequence
from rich.console import Console
from test_demo_page import Page, a_report
from typer.testing import CliRunner

import jielong_zoo
from jielong.apps import demo
from jielong.apps.cli import app
from jielong.apps.demo import clips as module
from jielong.apps.demo.clips import SUBJECTS, ClipSection, ShownClip, clip_models, clip_sections, speech
from jielong.apps.demo.page import render
from jielong.apps.demo.verdicts import VERDICTS, Judgement
from jielong.conditions.voice import Recording
from jielong.config import recipe
from jielong.data.opening import open_data
from jielong.evaluation.judges.base import rows_of
from jielong.media.images import to_tensor
from jielong.training import experiment

pytest.importorskip("minigrid")
pytest.importorskip("soundfile")

SETS = Path(jielong_zoo.path()) / "data"
FRAMES = {"missions": "frames: 17, frame_rate: 4", "strokes": "frames: 17, frame_rate: 8", "avatars": "frames: 25, frame_rate: 12.5"}
TEXT = "text: {encoder: bytes, length: 128, width: 16}"
CONDITIONS = {
    "missions": f"{{composite: {{width: 16, parts: {{{TEXT}, first_frame: {{width: 16}}}}}}}}",
    "strokes": "{text: {encoder: bytes, length: 32, width: 16}}",
    "avatars": f"{{composite: {{width: 16, parts: {{{TEXT}, first_frame: {{width: 16}}, sound: {{width: 16}}}}}}}}",
}
RECIPE = """
data: {{set: {data}, size: 64, {frames}}}
tokenizer: {{patches: {{patch: 32, std: 1.0}}}}
condition: {condition}
order: at_once
backbone: {{none: {{width: 16}}}}
head: {{flow_matching: {{network: {{dit: {{layers: 1, width: 16, heads: 2}}}}, steps: 2, diffusion_batch_mul: 1}}}}
train: {{samples: 4, batch: 2, warmup: 0, sample_every: 1000, save_every: 1000}}
"""


def part_of(name: str, folder: Path) -> Path:
    """Some clips of a built-in set, some of them held out, as a set of its own."""
    table = pq.read_table(SETS / f"{name}.parquet")
    split = table.column("split").to_pylist()
    held = [row for row, each in enumerate(split) if each == "heldout"][:4]
    kept = [row for row, each in enumerate(split) if each == "train"][:4]
    if name == "strokes":
        kept.append(
            next(
                row for row, each in enumerate(table.column("character").to_pylist()) if each == module.CHARACTER and split[row] == "train"
            )
        )
    path = folder / f"{name}.parquet"
    pq.write_table(table.take(held + kept), path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A tiny generator of each set, by the set's judge."""
    folder = tmp_path_factory.mktemp("clips")
    found = {}
    for name in SUBJECTS:
        data = part_of(name, folder)
        text = RECIPE.format(data=data, frames=FRAMES[name], condition=CONDITIONS[name])
        found[name] = folder / f"{name}-tiny"
        experiment.run(recipe.parse(text, name), found[name], progress=False, evaluate=False)
    return found


@pytest.fixture
def _no_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tone in place of shipped speech, which takes long."""

    def spoken(sentence: str, seconds: float, seed: int, missing: dict[str, str]) -> tuple[Recording, str]:
        return Recording(torch.sin(torch.arange(round(16_000 * seconds)) / 10)[None], 16_000), "a tone"

    monkeypatch.setattr(module, "speech", spoken)


@pytest.mark.usefixtures("_no_speech")
def test_sections_of_tiny_models(models: Mapping[str, Path], tmp_path: Path) -> None:
    missing: dict[str, str] = {}
    names = [str(models["avatars"]), str(models["missions"]), str(models["strokes"]), str(models["missions"])]
    sections = clip_sections(3, tmp_path, missing, names)
    assert missing == {}
    assert [each.judge for each in sections] == list(SUBJECTS)
    missions, strokes, avatars = sections
    assert [each.title for each in missions.clips] == ["data set", str(models["missions"]), str(models["missions"])]
    assert len({each.caption for each in missions.clips}) == 1, "every strategy gets the same mission"
    assert torch.equal(missions.clips[1].frames, missions.clips[2].frames), "one seed"
    assert missions.given == {"text", "first_frame"}
    assert missions.held_out
    real, made = (each.judgement for each in missions.clips[:2])
    assert real is not None
    assert made is not None
    assert real.right
    assert "16 of 16 transitions are legal" in real.words
    assert made.right is False
    assert "mission not done" in made.words
    assert strokes.clips[0].caption == f"write {module.CHARACTER}"
    assert strokes.clips[0].judgement == Judgement("5 of 5 strokes drawn, all in their order; 100% of the ink in common", True)
    assert not strokes.held_out, "the character is in the training set here"
    assert [each.sound is not None for each in avatars.clips] == [True, True, True]
    assert avatars.clips[0].judgement is not None
    assert avatars.clips[0].judgement.words.startswith("100% of the mouths")
    said = avatars.clips[2]
    assert said.judgement is None, "phonemes of generated speech are not known"
    assert "speech by a tone" in said.description
    assert "Please leave a message" in said.caption
    assert avatars.clips[1].frames.shape == said.frames.shape == (3, 25, 64, 64)
    assert not torch.equal(avatars.clips[1].frames, said.frames), "the sound is heard"


@pytest.mark.usefixtures("_no_speech")
def test_a_command_makes_the_clip_that_is_shown(models: Mapping[str, Path], tmp_path: Path) -> None:
    (section,) = clip_sections(0, tmp_path / "page", {}, [str(models["missions"])])
    shown = section.clips[1]
    words = shlex.split(shown.command)
    assert words[:2] == ["jielong", "generate"]
    words[2], words[-1] = str(models["missions"]), str(tmp_path / "made.webp")
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "made.webp") as made:
        last = [frame.convert("RGB") for frame in ImageSequence.Iterator(made)][-1]
    # The picture that the command reads has eight bits, and so does the file.
    assert float((to_tensor(last) - shown.frames[:, -1]).abs().mean()) < 0.05


def test_what_is_left_out_is_said_in_one_line(models: Mapping[str, Path], tmp_path: Path) -> None:
    missing: dict[str, str] = {}
    assert clip_sections(0, tmp_path, missing, []) == []
    assert missing == {"video": "no model that generates clips of missions or strokes or avatars is installed"}
    missing = {}
    (only,) = clip_sections(0, tmp_path, missing, [str(models["strokes"]), "maskgit-faces", str(tmp_path / "nothing")])
    assert only.judge == "strokes"
    assert set(missing) == {"video", "maskgit-faces", str(tmp_path / "nothing")}
    assert "missions or avatars" in missing["video"]
    assert "faces has none" in missing["maskgit-faces"]


def test_shipped_models_are_found_by_their_medium(models: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, text = models["strokes"].parent / "strokes.parquet", RECIPE.format(data="x", frames="frames: 17, frame_rate: 8", condition="null")
    network = "{causal_3d: {patch: 16, channels: [4, 4], blocks: [0, 0], strides: [[4, 1]]}}"
    tokenizer = tmp_path / "tokenizer"
    parts = [
        f"data: {{set: {data}, size: 64, frames: 17, frame_rate: 8}}",
        f"tokenizer: {{vq: {{autoencoder: {network}, dim: 4, quantizer: {{lookup_free: {{bits: 4}}}}}}}}",
        "losses: {regression: {}}",
        text[text.index("train:") :],
    ]
    experiment.run(recipe.parse("\n".join(parts), "tokenizer"), tokenizer, progress=False, evaluate=False)
    shipped = {"a": models["strokes"], "tokenizer": tokenizer, "none": tmp_path}
    monkeypatch.setattr("jielong.config.zoo.zoo", lambda: shipped)
    assert clip_models() == ["a"]


def test_speech_without_a_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "zoo", dict)
    missing: dict[str, str] = {}
    assert speech("Hello.", 2.0, 0, missing) is None
    assert list(missing.values()) == ["no model of speech with durations is installed that says it"]


def test_verdicts_of_faults() -> None:
    media = open_data("missions", "heldout", frames=17, size=64)
    real, row = media.media([1])[0], rows_of(media, [1])[0]
    frozen = real[:, :1].expand_as(real)
    judgement = VERDICTS["missions"](frozen, real, row, media.medium)
    assert judgement == Judgement("mission not done; 16 of 16 transitions are legal", False)
    shuffled = real[:, torch.arange(17).flip(0)]
    assert VERDICTS["missions"](shuffled, real, row, media.medium).words.count(";") <= 4, (
        "two faults are named, and the number of the others"
    )
    small = VERDICTS["missions"](real[..., :32, :32], real, row, media.medium)
    assert small.right is None
    assert small.words.startswith("not judged: ")


# --- the page -------------------------------------------------------------------------------------------------------------------------


def shown(sound: bool, right: bool | None) -> ShownClip:
    tone = Recording(torch.zeros(1600), 16_000) if sound else None
    frames = torch.linspace(-1, 1, 3 * 5 * 64).view(3, 5, 8, 8)
    return ShownClip(
        "tiny <1>", "order frames", "go & see", frames, 4.0, Judgement("done <b>", right), tone, "jielong generate tiny --text 'a<b'"
    )


def test_the_page_plays_clips(tmp_path: Path) -> None:
    sections = [
        ClipSection("missions", [shown(False, True), shown(False, False)], frozenset({"first_frame"}), True, ["MIT <x>"]),
        ClipSection("avatars", [shown(True, None)]),
    ]
    text = render(replace(a_report(tmp_path), clip_sections=sections))
    page = Page(text)
    assert "jielong generate tiny --text 'a<b'" in page.commands
    assert text.count('class="film"') == 3
    assert text.count("data:image/webp;base64") >= 3
    assert 'class="verdict right">done &lt;b&gt;' in text
    assert 'class="verdict wrong"' in text
    assert text.count('class="talking"') == 1
    assert 'data-count="5" data-rate="4"' in text
    assert "Given: first frame." in text
    assert "Text to image, audio and video" in text
    without = render(a_report(tmp_path))
    assert "Text to image and audio," in without
    assert 'class="film"' not in without


def test_the_demo_shows_clips(models: Mapping[str, Path], tmp_path: Path) -> None:
    output = io.StringIO()
    page = demo.run(
        tmp_path,
        minutes=0,
        models=[],
        tokenizer="none",
        sounds=[],
        clips=[str(models["missions"])],
        edits=(),
        console=Console(file=output, width=200),
    )
    text = page.read_text()
    assert "A mission by each strategy" in text
    assert "video (no model that generates clips of strokes or avatars is installed)" in output.getvalue()
    assert (tmp_path / "clips" / "missions" / "first-frame.png").exists()
