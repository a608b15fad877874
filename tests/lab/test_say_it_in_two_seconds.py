"""Texts as tones, decoded in closed form; the verdict both ways; a run at a tiny budget."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from jielong.apps.lab import Bench, Verdict, conclude, run
from jielong.apps.lab.experiments import say_it_in_two_seconds as trial
from jielong.apps.lab.tones import FRAME, LETTERS, RATE, TEMPO, natural, read, recorded, spoken, texts
from jielong.media.reading.sound import read_audio

pytest.importorskip("soundfile")
pytest.importorskip("soxr")


def test_texts_are_decoded_at_every_tempo() -> None:
    words = texts(40, seed=1)
    assert words == texts(40, seed=1)
    assert set("".join(words)) == set(LETTERS)
    assert all(first != second for text in words for first, second in pairwise(text))
    for text in words:
        for tempo in (TEMPO[0], 0.75, 1.0, TEMPO[1]):
            sound = spoken(text, tempo * natural(text))
            assert read(sound) == text
            assert sound.shape[1] == round(tempo * natural(text) * RATE / FRAME) * FRAME
    noisy = spoken("abc", 1.0) + 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    assert read(noisy) == "abc"


def test_silence_and_noise_have_an_empty_transcript() -> None:
    assert read(torch.zeros(1, 10 * FRAME)) == ""
    assert read(torch.randn(1, 50 * FRAME, generator=torch.Generator().manual_seed(0))) == ""
    assert read(spoken("ab", 1.0, loudness=0.02)) == ""
    blip = torch.cat([spoken("a", 0.2), spoken("b", FRAME / RATE), spoken("a", 0.2)], 1)
    assert read(blip) == "a"  # a frame is too short to be a letter


def test_recordings_have_their_texts_beside_them(tmp_path: Path) -> None:
    folder = recorded(Bench(tmp_path), 6)
    for path in sorted(folder.glob("*.wav")):
        sound, rate = read_audio(path)
        assert rate == RATE
        assert read(sound) == path.with_suffix(".txt").read_text()
    assert len(list(folder.glob("*.wav"))) == 6


def synthesis(duration_error: float, letter_error: float, seed: int = 0, n: int = 12) -> trial.Synthesis:
    draw = torch.rand(2, n, 5, generator=torch.Generator().manual_seed(seed)).double()
    return trial.Synthesis(duration_error * (1 + 0.1 * draw[0]), letter_error * (1 + 0.1 * draw[1]), [], torch.ones(n, 5))


def test_the_claim_can_hold_and_fail() -> None:
    good, missing = synthesis(0.0, 0.0), synthesis(0.2, 0.3, 1)
    assert conclude(trial.judge(good, missing, 0)) is Verdict.HOLDS
    assert conclude(trial.judge(good, good, 0)) is Verdict.FAILS
    assert conclude(trial.judge(synthesis(0.0, 0.5), missing, 0)) is Verdict.FAILS
    assert conclude(trial.judge(synthesis(0.05, 0.0), missing, 0)) is Verdict.FAILS
    unclear = trial.Synthesis(good.duration_error, (torch.arange(60).view(12, 5) < 8) * 0.8, [], good.seconds)
    assert conclude(trial.judge(unclear, missing, 0)) is Verdict.UNKNOWN


def test_durations_are_whole_frames() -> None:
    seconds = trial.durations(["abcde", "gbeg"])
    assert seconds.shape == (2, 5)
    torch.testing.assert_close(seconds * RATE / FRAME, (seconds * RATE / FRAME).round())
    assert seconds[0].tolist() == pytest.approx([0.75 * 1.2, 1.2, 1.25 * 1.2, 1.5 * 1.2, 2.0], abs=FRAME / RATE / 2 + 1e-9)


def test_it_runs(tmp_path: Path) -> None:
    result = run("say-it-in-two-seconds", tmp_path, budget=0.01)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["verdict"] == str(result.verdict)
    assert (tmp_path / "plot.png").exists()
    assert record["figures"]["duration error, length regulator"]["value"] == 0
    assert record["figures"]["duration at 2 seconds, length regulator"]["value"] == 2
    assert record["figures"]["letter error rate, stop head"]["value"] >= 0
