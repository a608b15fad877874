"""Generators of continuous sound by their tiny recipes: tones that spell words, over the latents of a small autoencoder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from jielong.config.recipe import load as load_recipe
from jielong.media.audio import write_audio
from jielong.media.reading.sound import read_audio
from jielong.system import condition_inputs, load
from jielong.training.experiment import prepare

from .conftest import command, succeed
from .test_tiny_recipes import losses_of

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RATE, HOP = 4_000, 200
TOKENIZER = """
data: {{set: {set}, sample_rate: 4000, duration: 1}}
tokenizer: {{kl: {{dim: 4, weight: 1.0e-6, autoencoder: {{seanet: {{channels: 4, ratios: [8, 5, 5], lstm: 0, norm: none}}}}}}}}
losses: {{regression: {{kind: l1}}}}
train: {{samples: 128, batch: 16, lr: 5.0e-3, precision: fp32}}
"""
FEW = ("train.samples=64", "train.batch=16", "train.warmup=32", "train.sample_every=64", "train.save_every=32", "train.lr=3e-3")
SHAPE = ("data.sample_rate=4000", "data.duration=1")
RECIPES = ("matcha-tts-tiny", "indextts2-tiny", "sled-tiny", "audio-mntp-tiny", "impact-tiny")


@pytest.fixture(scope="module")
def spelt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 words of two to five letters, each letter a tone of a fifth of a second."""
    root = tmp_path_factory.mktemp("spelt")
    generator = torch.Generator().manual_seed(0)
    for index in range(40):
        letters = torch.randint(4, (2 + index % 4,), generator=generator)
        pitch = (200.0 * 1.5**letters).repeat_interleave(800)
        path = root / ("heldout" if index % 8 == 7 else "train") / f"{index:02d}.wav"
        write_audio(path, 0.5 * torch.sin(2 * math.pi * (pitch / RATE).cumsum(0))[None], RATE)
        path.with_suffix(".txt").write_text("".join("abcd"[letter] for letter in letters))
    return root


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory, spelt: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "autoencoder"
    recipe = out.parent / "tokenizer.yaml"
    recipe.write_text(TOKENIZER.format(set=spelt))
    succeed("train", recipe, "--out", out, "--device", "cpu")
    return out


def overrides_with(autoencoder: Path, *more: str) -> list[str]:
    return [word for each in (*FEW, *SHAPE, f"tokenizer.checkpoint={autoencoder}", *more) for word in ("--set", each)]


@pytest.mark.parametrize("name", RECIPES)
def test_tiny_recipe_trains_and_generates_speech(name: str, spelt: Path, autoencoder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("train", name, "--data", spelt, "--out", run, "--device", "cpu", *overrides_with(autoencoder))
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(loss) for loss in losses)
    assert list((run / "samples").glob("*.wav"))
    succeed("generate", run, "--text", "abca", "--seconds", "0.61", "--guidance", "1.5", "--out", tmp_path / "asked.wav")
    generated, rate = read_audio(tmp_path / "asked.wav")
    assert (rate, generated.shape) == (RATE, (1, 2_440))
    if not any(each.sets_duration for each in condition_inputs(load_recipe(name))):
        succeed("generate", run, "--text", "abca", "--out", tmp_path / "own.wav")
        assert read_audio(tmp_path / "own.wav")[0].shape[1] <= RATE
    system = load(str(run))
    texts, seconds = ["ab", "abcda", "dd"], [0.4, 1.0, 0.45]
    drawn = system.generate(text=texts, seconds=seconds, seed=3)
    alone = system.generate(text=texts[2], seconds=seconds[2], seed=3)
    assert [clip.tensor.shape[-1] for clip in drawn] == [1_600, 4_000, 1_800]
    assert [clip.tensor.shape[-1] for clip in alone] == [1_800]


@pytest.mark.parametrize("name", RECIPES)
def test_a_tiny_recipe_learns_a_few_clips(name: str, spelt: Path, autoencoder: Path) -> None:
    overrides = () if name in ("matcha-tts-tiny", "indextts2-tiny") else ("backbone.transformer.dropout=0",)
    experiment = prepare(load_recipe(name, (*overrides, *SHAPE, f"tokenizer.checkpoint={autoencoder}")), str(spelt))
    assert experiment.generator is not None
    assert experiment.generator.condition is not None
    experiment.generator.condition.precompute(experiment.data, experiment.heldout)
    found = losses_of(experiment, items=7, steps=140, lr=4e-3)
    assert sum(found[-10:]) / 10 < 0.8 * sum(found[:5]) / 5


def test_speech_without_text_ends_at_its_stop_head(spelt: Path, autoencoder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("train", "flow-slm-tiny", "--data", spelt, "--out", run, "--device", "cpu", *overrides_with(autoencoder))
    succeed("generate", run, "-n", 3, "--out", tmp_path / "talk")
    generated = [read_audio(tmp_path / "talk" / f"{index:04d}.wav")[0] for index in range(3)]
    assert all(0 < clip.shape[1] <= RATE for clip in generated)
    assert float((generated[0][:, :200] - generated[1][:, :200]).abs().max()) > 0
    succeed("generate", run, "--top-k", 1, "--seconds", 0.4, "--out", tmp_path / "one.wav")
    assert read_audio(tmp_path / "one.wav")[0].shape == (1, 1_600)
    slow = [part for name in ("dnsmos", "wer", "cer", "frechet", "kernel", "class_at_1") for part in ("--skip-metric", name)]
    measured = succeed("evaluate", run, "--data", spelt, "-n", 2, *slow)
    assert "frechet_mel" in measured.stdout
    assert "dnsmos omitted: skipped" in measured.stderr


def test_an_emotion_is_given_by_a_recording(spelt: Path, autoencoder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("train", "indextts2-tiny", "--data", spelt, "--out", run, "--device", "cpu", *overrides_with(autoencoder))
    manner = next((spelt / "train").glob("*.wav"))
    generated = []
    for index, more in enumerate(((), ("--emotion", manner))):
        out = tmp_path / f"{index}.wav"
        succeed("generate", run, "--text", "abc", "--seconds", "0.5", *more, "--out", out)
        generated.append(read_audio(out)[0])
    assert generated[0].shape == generated[1].shape == (1, 2_000)
    assert float((generated[0] - generated[1]).abs().max()) > 0


def test_a_text_that_is_stretched_lasts_as_long_as_those_it_learned_from(spelt: Path, autoencoder: Path, tmp_path: Path) -> None:
    parts = ("condition.characters.aligned=even",)
    succeed("train", "matcha-tts-tiny", "--data", spelt, "--out", tmp_path, "--device", "cpu", *overrides_with(autoencoder, *parts))
    system = load(str(tmp_path))
    assert system.generator is not None
    assert system.generator.durations.regulator is not None
    torch.testing.assert_close(system.generator.durations.regulator.rate, torch.tensor([4.0, -8.0]), rtol=0, atol=1e-3)  # of two edges
    drawn = system.generate(text=["ab", "abcd"])
    assert [clip.tensor.shape[-1] for clip in drawn] == [8 * HOP, 16 * HOP]
    refused = command("generate", tmp_path, "--text", "ab", "--seconds", "7", "--out", tmp_path / "x.wav")
    assert "at most 1 s" in refused.stderr
