"""Codes in several codebooks, in three ways, from files of sound to generated sound of asked and of drawn lengths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jielong.media.reading.sound import read_audio
from jielong.system import load

from .conftest import command, succeed

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

CODEC = """
data: {set: sounds, sample_rate: 8000, duration: 0.16}
tokenizer:
  vq:
    autoencoder: {seanet: {channels: 4, ratios: [5, 4, 4]}}
    dim: 8
    quantizer: {residual: {num_codebooks: 4, quantizer: {vector: {codebook_size: 16}}}}
losses: {regression: {kind: l1}}
train: {samples: 64, batch: 16, precision: fp32}
"""


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    (folder / "codec.yaml").write_text(CODEC)
    succeed("train", folder / "codec.yaml", "--out", folder / "run", "--device", "cpu")
    return folder / "run"


@pytest.mark.parametrize("name", ["musicgen-tiny", "valle-tiny", "moshi-speech-tiny"])
def test_trains_and_generates_sound_of_given_and_of_predicted_lengths(name: str, codec: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = (f"tokenizer.checkpoint={codec}", "train.samples=1024")
    succeed("train", name, *(part for each in settings for part in ("--set", each)), "--out", run, "--device", "cpu")
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    system = load(str(run))
    assert system.tokenizer.layout.channels == 3, "three of the four levels"
    succeed("generate", run, "--text", "snare drum", "--seconds", "0.301", "--out", tmp_path / "asked.wav")
    asked, rate = read_audio(tmp_path / "asked.wav")
    assert (rate, asked.shape) == (8_000, (1, 2_408))
    ended = system.generate(text=["snare drum", "bass"], seed=3)
    for options in ({"cache": False}, {"batch": 1}):
        other = system.generate(text=["snare drum", "bass"], seed=3, **options)
        assert other.lengths == ended.lengths
        torch.testing.assert_close(other.tensor, ended.tensor, atol=1e-4, rtol=1e-3)
    recording = tmp_path / "asked.wav"
    succeed("generate", run, "--text", "snare drum", "--complete", recording, "--seconds", "0.45", "--out", tmp_path / "longer.wav")
    assert read_audio(tmp_path / "longer.wav")[0].shape == (1, 3_600)
    longer = system.complete(asked, text="snare drum", seconds=0.45, seed=1).tensor
    begun = system.decode(system.encode(torch.nn.functional.pad(asked, (0, 3_840 - 2_408))[None]))
    torch.testing.assert_close(longer[..., :2_400], begun[..., :2_400], atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="this recording has 48 of the 48 tokens of an item"):
        system.complete(torch.zeros(1, 3_840), text="snare drum")
    whole = system.generate(text="snare drum", seconds=0.3, seed=1).tensor[..., :2_400]
    torch.testing.assert_close(torch.cat(list(system.stream(text="snare drum", seconds=0.3, seed=1)), dim=2), whole)


def test_levels_that_there_are_not_are_refused(codec: Path, tmp_path: Path) -> None:
    for levels, words in ((5, "has 4 codebooks; it cannot keep 5"), (1, "has one codebook")):
        settings = (f"tokenizer.checkpoint={codec}", f"tokenizer.num_codebooks={levels}")
        refused = command(
            "train", "musicgen-tiny", *(part for setting in settings for part in ("--set", setting)), "--out", tmp_path / "no"
        )
        assert refused.exit_code != 0
        assert words in " ".join(refused.stderr.split())
