"""A tokenizer of sound, from files to a checkpoint that loads at another length."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings, check_grid
from jielong.config.data import DataSection
from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.data.inspecting import inspect
from jielong.evaluation.evaluate import evaluate
from jielong.media.audio import write_audio
from jielong.media.kinds.audio import AudioData, audio_medium
from jielong.media.players import Sounds
from jielong.media.reading.sound import read_audio
from jielong.media.spectrograms import in_a_row, spectrogram
from jielong.networks.decoder import Decoder
from jielong.system import load
from jielong.training.experiment import prepare, run

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RECIPE = """
data: {{set: {set}, sample_rate: 4000, duration: 0.5}}
tokenizer:
  {tokenizer}
losses: {{regression: {{kind: l1}}}}
train: {{samples: 192, batch: 8, lr: 5.0e-3, warmup: 8, ema: 0.5, sample_every: 96, save_every: 96, log_every: 48, precision: fp32}}
"""
CODES = "vq: {autoencoder: short, dim: 8, quantizer: {residual: {num_codebooks: 2, quantizer: {vector: {codebook_size: 16}}}}}"
VECTORS = "kl: {autoencoder: short, dim: 8}"


class ShortDecoder(Decoder):
    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.out = nn.ConvTranspose1d(dim, outputs, 20, 20)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(features)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.out.weight


@pytest.fixture
def autoencoder() -> None:
    class Short(AutoencoderSettings, family="autoencoder", name="short"):
        def build(
            self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
        ) -> Autoencoder:
            check_grid(size, (20,))
            return Autoencoder(nn.Conv1d(channels, encoded or dim, 20, 20), ShortDecoder(dim, outputs or channels), (20,))


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """Tones between 200 and 400 Hz, of 0.2 to 1 s."""
    for index in range(40):
        times = torch.arange(800 + 80 * index) / 4_000
        write_audio(tmp_path / "tones" / f"{index:02d}.wav", 0.5 * torch.sin(2 * math.pi * (200 + 5 * index) * times)[None], 4_000)
    return tmp_path / "tones"


@pytest.mark.usefixtures("autoencoder")
@pytest.mark.parametrize("tokenizer", [CODES, VECTORS])
def test_trains_from_files_to_a_checkpoint(tokenizer: str, tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = parse(RECIPE.format(set=tones, tokenizer=tokenizer))
    summary = run(recipe, out, device="cpu")
    assert summary.finished
    assert set(summary.evaluation) == {"heldout_mel_distance", "heldout_si_sdr"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    recording, rate = read_audio(out / "samples" / "samples-000000000096.wav")
    shown = 2 * min(6, len(prepare(recipe).heldout))
    assert (rate, recording.shape) == (4_000, (1, shown * 3_000))
    with Image.open(out / "samples" / "samples-000000000096.png") as sheet:
        assert sheet.width > 4 * 192
    system = load(str(out))
    assert system.tokenizer.media == audio_medium(1, 2_000, 4_000)
    assert system.tokenizer.layout.grid == (100,)
    evaluation = evaluate(system)
    assert set(evaluation.figures) >= {"mel_distance", "si_sdr", "stft_distance"}
    assert math.isfinite(evaluation.figures["si_sdr"].value)
    if system.tokenizer.layout.discrete:
        assert evaluation.figures["bitrate"].value == pytest.approx(2 * 4 * 200 / 1_000)  # 2 levels of 4 bits, 200 times a second
    longer = load(str(out), media=audio_medium(1, 6_000, 4_000)).tokenizer
    assert longer.layout.grid == (300,)
    assert load(str(out), media=audio_medium(1, 6_000, 8_000)).tokenizer.media == system.tokenizer.media


@pytest.mark.usefixtures("autoencoder")
def test_figures_that_silence_lacks_are_left_out(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    tones.rename(tmp_path / "split" / "train")
    for length in (1, 3_000):
        write_audio(tmp_path / "split" / "test" / f"{length}.wav", torch.zeros(1, length), 4_000)
    summary = run(parse(RECIPE.format(set=tmp_path / "split", tokenizer=CODES)), tmp_path / "run", device="cpu")
    assert set(summary.evaluation) == {"heldout_mel_distance"}
    evaluation = evaluate(load(str(tmp_path / "run")))
    assert {"mel_distance", "bitrate"} <= evaluation.figures.keys()
    assert "silent" in evaluation.omitted["si_sdr"]
    assert "silent" in evaluation.omitted["stft_distance"]


@pytest.mark.usefixtures("autoencoder")
def test_the_stream_is_the_same_however_it_is_read(tones: Path) -> None:
    from jielong.training.stream import TrainingStream

    experiment = prepare(parse(RECIPE.format(set=tones, tokenizer=CODES)))
    stream = TrainingStream(experiment.data, seed=3)
    whole, last = stream.batch(30, 20), stream.batch(45, 5)
    assert torch.equal(whole.media[15:], last.media)
    assert not torch.equal(TrainingStream(experiment.data, seed=4).batch(45, 5).media, last.media)


def test_settings_are_of_one_medium() -> None:
    section = DataSection()
    usual = {"set": "emoji", "deduplicate": False, "missing_condition": "skip", "size": 64, "background": "white"}
    assert section.read({}).model_dump(exclude_none=True) == usual
    assert section.read({"duration": 2.0}) == AudioData(sample_rate=16_000, duration=2.0)
    assert section.read({"sample_rate": 8_000, "size": None}) == AudioData(sample_rate=8_000, duration=1.0)
    assert section.read({"kind": "image"}).model_dump(exclude_none=True) == {**usual, "kind": "image"}
    with pytest.raises(RecipeError, match="no kind of media called 'audoi'; did you mean 'audio'"):
        section.read({"kind": "audoi"})
    text = RECIPE.format(set="prompts", tokenizer="vq: {autoencoder: {seanet: {ratios: [5, 4, 2]}}}")
    assert parse(parse(text).to_yaml()).data == parse(text).data
    with pytest.raises(RecipeError, match=r"no keys of another \(size of image and sample_rate of audio and duration of audio\)"):
        parse(text.replace("sample_rate:", "size: 64, sample_rate:"))


def test_a_spectrogram_shows_a_tone_where_it_is() -> None:
    times = torch.arange(16_000) / 16_000
    heights = []
    for hertz in (250, 1_000, 4_000):
        picture = spectrogram(torch.sin(2 * math.pi * hertz * times)[None], 16_000)
        assert picture.shape == (3, 64, 192)
        assert picture.abs().max() <= 1
        light = picture.sum(0)[:, 20:-20].mean(1)
        heights.append(int(light.argmax()))
    assert heights[0] > heights[1] > heights[2]  # rows are counted from above
    silent = spectrogram(torch.zeros(1, 10), 16_000)
    assert torch.equal(silent, silent[:, :1, :1].expand_as(silent))
    assert in_a_row(torch.ones(3, 2, 100), 400).shape == (2, 600)


def test_sounds_save_themselves_as_a_set(tmp_path: Path) -> None:
    sounds = Sounds(torch.rand(3, 1, 800) - 0.5, 4_000, ["one", "two", "three"])
    written = sounds.save(tmp_path / "set")
    read, rate = read_audio(written[1])
    assert rate == 4_000
    torch.testing.assert_close(read, sounds[1].tensor, atol=2e-5, rtol=0)
    report = inspect(tmp_path / "set")
    assert (report.count, report.captions, report.facts["rates"]) == (3, 3, {4_000: 3})
    assert report.facts["seconds"].median == pytest.approx(0.2)
    assert report.facts["levels"].median == pytest.approx(-10.8, abs=0.5)  # uniform on [-0.5, 0.5]: 1 / sqrt 12
    assert report.write_sheet(tmp_path / "sheet.png").exists()
    (joined,) = sounds.save(tmp_path / "all.wav")
    assert read_audio(joined)[0].shape == (1, 3 * 1_800)
    assert sounds.save(tmp_path / "all.png")[0].exists()
    with pytest.raises(ValueError, match="3 items need as many captions"):
        Sounds(sounds.tensor, 4_000, ["one"])


def test_unusual_files_are_reported(tmp_path: Path) -> None:
    write_audio(tmp_path / "silent.wav", torch.zeros(1, 400), 4_000)
    write_audio(tmp_path / "loud.wav", torch.ones(2, 400), 8_000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "loud.wav").read_bytes()[:100])
    report = inspect(tmp_path)
    assert report.odd["silent.wav"] == ["silent"]
    assert "clipped: 100.0%" in report.odd["loud.wav"][0]
    assert "cut off" in report.broken["cut.wav"]
    assert json.loads(json.dumps(report.as_dict()))["channels"] == {"1": 1, "2": 1}
