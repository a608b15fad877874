"""Comparisons of tiny recipes of sound, end to end: tokenizers, and generators of sound effects and of speech."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.apps.comparison import Budget, Comparison, compare
from jielong.apps.comparison.report import html
from jielong.evaluation.evaluate import evaluate
from jielong.media.audio import write_audio
from jielong.system import load

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

BUDGET = Budget(samples=16)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 clips to train on and 6 held out, in classes, with captions."""
    root = tmp_path_factory.mktemp("tones")
    for split, count in (("train", 4), ("heldout", 2)):
        for name, hertz in {"low": 200, "middle": 500, "high": 1_200}.items():
            for place in range(count):
                times = torch.arange(3_000 + 200 * place) / 8_000
                path = root / split / name / f"{place}.wav"
                write_audio(path, 0.5 * torch.sin(2 * math.pi * hertz * times + place)[None], 8_000)
                path.with_suffix(".txt").write_text(f"{name} {'abcd'[place]}")
    return root


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory, tones: Path) -> tuple[Comparison, Path]:
    out = tmp_path_factory.mktemp("codecs")
    shorter = ["data.duration=0.48"]
    return compare(["encodec-tiny", "audio-kl-tiny"], out, BUDGET, data=str(tones), overrides=shorter, device="cpu"), out


def test_tokenizers_of_sound(codecs: tuple[Comparison, Path], tones: Path) -> None:
    comparison, out = codecs
    assert comparison.complete, [row.failed for row in comparison.rows]
    discrete, continuous = comparison.rows
    for row in comparison.rows:
        measured = evaluate(load(str(out / "runs" / row.label)), str(tones))
        for name in ("mel_distance", "si_sdr", "stft_distance"):
            assert row.figures[name] == pytest.approx(measured.figures[name].value)
        assert row.figures["frechet_mel"] >= 0
        assert row.figures["encode_ms"] > 0
        assert "psnr" not in row.figures
        assert "names no speaker" in row.omitted["pesq"]
    assert discrete.figures["bitrate"] == pytest.approx(discrete.figures["bits"] / 0.48 / 1000)
    assert "bitrate" in continuous.omitted
    assert comparison.settings["sample_rate"] == 8_000


def test_the_page_plays_sounds(codecs: tuple[Comparison, Path]) -> None:
    comparison, out = codecs
    page = html(comparison, "jielong compare")
    count = len(comparison.shown)
    assert count == 6
    assert page.count("<audio controls") == 3 * count  # the originals and two codecs
    assert all(name in page for name in comparison.shown)
    assert len(list((out / "sheets" / "encodec-tiny").glob("*.wav"))) == count
    with Image.open(out / "sheets" / "original.png") as strip:
        assert strip.width > count * 192


@pytest.mark.parametrize("speech", [False, True])
def test_generators_of_sound(codecs: tuple[Comparison, Path], tones: Path, tmp_path: Path, speech: bool) -> None:
    """Sound effects by class, and speech from transcripts, over the codecs."""
    _, out = codecs
    parts = [f"tokenizer={{checkpoint: {out / 'runs' / 'encodec-tiny'}}}", "data.duration=0.48"]
    parts += [] if speech else ["condition={class: {width: 64}}"]
    comparison = compare(["valle-tiny", "musicgen-tiny"], tmp_path, BUDGET, data=str(tones), overrides=parts, count=4, device="cpu")
    for row in comparison.rows:
        assert row.failed is None, row.failed
        assert row.kind == "generator"
        assert row.figures["seconds_per_clip"] > 0
        assert row.figures["frechet_mel"] >= 0
        assert row.figures["frechet_mel_real"] >= 0
        assert 0 <= row.figures["memorised"] <= 1
        assert "more items" in row.omitted["precision"]  # of 4 clips
        assert "dnsmos" not in {*row.figures, *row.omitted}
        assert ("wer" in {*row.figures}) or "text" in row.omitted["wer"] or "installed" in row.omitted["wer"]
    assert "real" in repr(comparison)


def test_the_command_line_compares_sounds(codecs: tuple[Comparison, Path], tones: Path) -> None:
    words = ["compare", "encodec-tiny", "audio-kl-tiny", "--samples", "16", "--data", str(tones), "--set", "data.duration=0.48"]
    done = CliRunner().invoke(app, [*words, "--out", str(codecs[1]), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.stderr
    assert [row["figures"]["samples"] for row in json.loads(done.stdout)["rows"]] == [16, 16]
