"""Dubbing: speech and frames last as the clip does, and what does not fit is said before anything is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch
from typer.testing import CliRunner

import jielong
from jielong.apps.cli import app
from jielong.conditions.voice import Recording
from jielong.config.recipe import parse
from jielong.media.kinds.base import kind_of
from jielong.media.kinds.video import video_medium
from jielong.media.reading.faults import BrokenVideoError
from jielong.media.reading.sound import read_audio
from jielong.media.reading.video import read_header
from jielong.media.soundtrack import Soundtrack, TrackWriter
from jielong.media.videos import Video
from jielong.system import DESCRIPTION, System, build_generator, build_tokenizer, describe, dubbing
from jielong.training.checkpoint import save_checkpoint

pytest.importorskip("espeakng_loader")
MEDIA = video_medium(3, 5, (8, 8), 4.0)
FACE = """\
data: {set: avatars, size: 8, frames: 5, frame_rate: 4}
tokenizer: {patches: {patch: 4}}
condition: {composite: {parts: {first_frame: {width: 8}, sound: {width: 8}}, width: 8}}
order: at_once
backbone: {none: {width: 16}}
head: {flow_matching: {network: {dit: {layers: 1, width: 16, heads: 2}}, steps: 2, diffusion_batch_mul: 1}}
train: {samples: 8}
"""
TEXT = "We had some jam and bread."


@pytest.fixture(scope="module")
def speaker() -> System:
    return jielong.load(dubbing.SPEAKER, device="cpu")


def made(recipe: str = FACE) -> System:
    torch.manual_seed(0)
    settings = parse(recipe)
    tokenizer = build_tokenizer(settings, MEDIA).eval()
    generator = build_generator(settings, tokenizer, []).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return System("toy", settings, tokenizer, generator)


def clip(path: Path, seconds: float = 2.0, sound: bool = True) -> Path:
    frames = torch.rand(3, round(seconds * 8), 10, 12, generator=torch.Generator().manual_seed(2)) * 2 - 1
    noise = 0.1 * torch.randn(1, round(seconds * 16_000), generator=torch.Generator().manual_seed(3))
    return Video(frames, 8.0, sound=Soundtrack(noise, 16_000) if sound else None).save(path)


def test_a_clip_longer_than_those_of_the_model_is_drawn_in_pieces(tmp_path: Path, speaker: System) -> None:
    face, lines = made(), dubbing.Lines.of(clip(tmp_path / "a.mkv"), TEXT)
    dubbed = dubbing.dub(lines, speaker, face, seed=4)
    assert dubbed.sound is not None
    assert dubbed.tensor.shape == (3, 8, 8, 8)
    assert dubbed.sound.waveform.shape == (1, 32_000)
    spoken = speaker.generate(text=TEXT, voice=lines.voice, seconds=2.0, seed=4)[0].tensor
    torch.testing.assert_close(dubbed.sound.waveform[:, : spoken.shape[1]], spoken[:, :32_000])
    first = kind_of(MEDIA).read(tmp_path / "a.mkv", MEDIA)[:, 0]
    parts = [Recording(dubbed.sound.waveform[:, begin:][:, :20_000], 16_000) for begin in (0, 16_000)]
    pieces = face.generate(first_frame=first, sound=parts, seed=4).tensor
    torch.testing.assert_close(dubbed.tensor, torch.cat([pieces[0], pieces[1][:, 1:4]], 1))
    assert not torch.equal(pieces[0], pieces[1])
    assert "8 frames in 2 pieces, each from the first frame, of 8 x 8 pixels at 4 Hz" in dubbing.describe(face, lines)


def test_what_a_file_says_is_checked_without_a_model(tmp_path: Path) -> None:
    silent = clip(tmp_path / "a.mkv", sound=False)
    assert dubbing.Lines.of(silent, TEXT).voice is None
    assert dubbing.Lines.of(silent, TEXT).seconds == pytest.approx(2.0)
    with pytest.raises(ValueError, match="the text is empty"):
        dubbing.Lines.of(silent, " \n")
    with pytest.raises(ValueError, match="there is no recording"):
        dubbing.Lines.of(silent, TEXT, tmp_path / "none.wav")
    with av.open(str(tmp_path / "b.mkv"), "w") as file:
        TrackWriter(file, ".mkv", Soundtrack(torch.rand(1, 4_000), 8_000)).write()
    with pytest.raises(BrokenVideoError, match="holds no stream of pictures, only sound"):
        dubbing.Lines.of(tmp_path / "b.mkv", TEXT)


def test_a_text_must_fit_the_time(tmp_path: Path, speaker: System) -> None:
    short = clip(tmp_path / "a.mkv", 1.0, sound=False)
    dubbing.check_speaker(speaker, dubbing.Lines.of(short, "We had some jam."))
    with pytest.raises(ValueError, match=r"more than 2 times faster: give a shorter text, of 0\.5 to 2\.0 s"):
        dubbing.check_speaker(speaker, dubbing.Lines.of(short, f"{TEXT} {TEXT}"))
    with pytest.raises(ValueError, match="more than 2 times slower: give a longer text"):
        dubbing.check_speaker(speaker, dubbing.Lines.of(clip(tmp_path / "b.mkv", 5.0, sound=False), "No."))
    with pytest.raises(ValueError, match=r"lasts 7\.00 s, and indextts2-speech says at most 6 s at once"):
        dubbing.check_speaker(speaker, dubbing.Lines.of(clip(tmp_path / "c.mkv", 7.0, sound=False), TEXT))
    with pytest.raises(ValueError, match="toy does not speak texts for a given duration"):
        dubbing.check_speaker(made(), dubbing.Lines.of(short, TEXT))


def test_other_models_are_no_faces(speaker: System) -> None:
    with pytest.raises(ValueError, match="toy is no model of talking faces: it takes first_frame, not first_frame and sound"):
        dubbing.check_face(
            made(FACE.replace("{composite: {parts: {first_frame: {width: 8}, sound: {width: 8}}, width: 8}}", "first_frame"))
        )
    with pytest.raises(ValueError, match="is no model of talking faces"):
        dubbing.check_face(speaker)


def test_the_command_writes_frames_and_sound(tmp_path: Path) -> None:
    face = made()
    assert face.generator is not None
    (tmp_path / "face").mkdir()
    save_checkpoint(tmp_path / "face", face.generator, face.recipe.to_yaml())
    (tmp_path / "face" / DESCRIPTION).write_text(json.dumps(describe(MEDIA, [], face.tokenizer, face.generator)))
    given = clip(tmp_path / "a.mkv", 1.25)

    def run(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["dub", str(given), "--device", "cpu", "--text", "We had jam.", *map(str, words)])
        return done.exit_code, done.output

    avatar = ("--avatar", tmp_path / "face")
    code, said = run(*avatar, "--out", tmp_path / "b.mkv")
    assert code == 0, said
    assert read_header(tmp_path / "b.mkv").frames in (5, None)
    sound, rate = read_audio(tmp_path / "b.mkv")
    assert sound.shape[1] / rate == pytest.approx(1.25, abs=1e-3)
    for words, fault in (
        (("--out", tmp_path / "c.mkv"), "no model of talking faces is shipped"),
        ((*avatar, "--out", tmp_path / "c.gif"), "holds no sound"),
        ((*avatar, "--out", given), "it is the clip itself"),
    ):
        code, said = run(*words)
        assert code == 2
        assert fault in " ".join(said.replace("│", " ").split())
