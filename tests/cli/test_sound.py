"""Sound on the command line: a tokenizer is trained, a generator on top of it, and what it makes is written to listen to."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.core.tokens import Tokens
from jielong.data.opening import open_data
from jielong.media.audio import encode_audio, resample, write_audio
from jielong.media.reading.sound import read_audio
from jielong.networks.decoder import Decoder
from jielong.system import load
from jielong.training.token_cache import read

from .conftest import command, succeed

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

TOKENIZER = """
data: {{set: {set}, sample_rate: 4000, duration: 0.5}}
tokenizer: {{vq: {{autoencoder: plain, dim: 8, quantizer: {{vector: {{codebook_size: 16}}}}}}}}
losses: {{regression: {{kind: l1}}}}
train: {{samples: 64, batch: 8, precision: fp32}}
"""
GENERATOR = """
data: {{set: {set}, sample_rate: 4000, duration: 0.5}}
tokenizer: {{checkpoint: {tokenizer}}}
order: raster
backbone: {{transformer: {{layers: 1, width: 32, heads: 2}}}}
head: softmax
train: {{samples: 32, batch: 8, precision: fp32}}
"""


class Unfold(Decoder):
    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.out = nn.ConvTranspose1d(dim, outputs, 50, 50)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(features)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.out.weight


@pytest.fixture
def tones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tones of 0.2 to 0.5 s, and a body declared for them."""

    class Plain(AutoencoderSettings, family="autoencoder", name="plain"):
        def build(
            self, *, channels: int, size: tuple[int, ...], dim: int, outputs: int | None = None, encoded: int | None = None
        ) -> Autoencoder:
            return Autoencoder(nn.Conv1d(channels, encoded or dim, 50, 50), Unfold(dim, outputs or channels), (50,))

    monkeypatch.setenv("JIELONG_CACHE", str(tmp_path / "cache"))
    for index in range(40):
        times = torch.arange(800 + 30 * index) / 4_000
        write_audio(tmp_path / "tones" / f"{index:02d}.wav", 0.5 * torch.sin(2 * math.pi * (200 + 5 * index) * times)[None], 4_000)
    return tmp_path / "tones"


CODEC = """
data: {{set: {set}, sample_rate: 4000, duration: 0.5}}
tokenizer:
  vq:
    autoencoder: {{seanet: {{channels: 2, ratios: [5, 4], lstm: 1}}}}
    dim: 8
    quantizer: {{residual: {{num_codebooks: 2, quantizer: {{vector: {{codebook_size: 16}}}}}}}}
losses: {{regression: {{kind: l1}}}}
train: {{samples: 16, batch: 8, precision: fp32}}
"""


def test_tokenize_round_trip_of_any_length(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "codec.yaml").write_text(CODEC.format(set=tones))
    run, tokens = tmp_path / "codec", tmp_path / "long.safetensors"
    succeed("train", tmp_path / "codec.yaml", "--out", run, "--device", "cpu")
    write_audio(tmp_path / "long.wav", torch.rand(2, 8_000 * 30 + 123, generator=torch.Generator().manual_seed(0)) - 0.5, 8_000)
    done = succeed("tokenize", run, "--data", tmp_path / "long.wav", "--out", tokens)
    samples = 120_062  # at 4 kHz
    assert f"30.0 s of audio, {-(-samples // 20):,} tokens" in done.stderr
    succeed("detokenize", run, tokens, "--out", tmp_path / "back")
    back, rate = read_audio(tmp_path / "back" / "0000.wav")
    assert (rate, back.shape) == (4_000, (1, samples))
    system = load(str(run))
    recording, given = read_audio(tmp_path / "long.wav")
    whole = system.tokenizer.encode(resample(recording.mean(0, keepdim=True), given, 4_000)[None])
    torch.testing.assert_close(system.tokenizer.decode(whole)[0, :, :samples], back, atol=2e-4, rtol=0)
    succeed("tokenize", run, "--data", tones, "--out", tmp_path / "set.safetensors")
    assert read(tmp_path / "set.safetensors").layout.grid == (100,)
    other = command("tokenize", "vq-emoji", "--data", tmp_path / "long.wav", "--out", tokens)
    assert other.exit_code != 0
    assert "not the single file" in other.stderr


def test_unusual_audio_files_are_read_or_reported(tones: Path, tmp_path: Path) -> None:
    """Silence, clipping, a sample alone, other rates and channels go there and back; what is broken is named with what is wrong."""
    (tmp_path / "codec.yaml").write_text(CODEC.format(set=tones))
    run, tokens = tmp_path / "codec", tmp_path / "tokens.safetensors"
    succeed("train", tmp_path / "codec.yaml", "--out", run, "--device", "cpu")
    noise = torch.rand(2, 4_000, generator=torch.Generator().manual_seed(0)) - 0.5
    fine = {
        "silence.wav": (torch.zeros(1, 4_000), 4_000, 4_000),
        "clipped.wav": (noise.sign(), 4_000, 4_000),
        "one.wav": (noise[:1, :1], 4_000, 1),
        "slow.wav": (noise, 2_000, 8_000),
        "fast.flac": (noise, 16_000, 1_000),
        "five.wav": (noise[:1].repeat(5, 1), 4_000, 4_000),
    }
    for name, (waveform, rate, samples) in fine.items():
        write_audio(tmp_path / name, waveform, rate)
        done = succeed("tokenize", run, "--data", tmp_path / name, "--out", tokens)
        assert f"{-(-samples // 20):,} tokens" in done.stderr
        succeed("detokenize", run, tokens, "--out", tmp_path / "back")
        back, rate = read_audio(tmp_path / "back" / "0000.wav")
        assert (rate, back.shape) == (4_000, (1, samples))
    whole = {suffix: encode_audio(noise, 8_000, suffix) for suffix in (".wav", ".flac", ".ogg")}
    soundfile.write(tmp_path / "nan.wav", [0.1, math.nan], 4_000, subtype="FLOAT")
    broken = {
        "nan.wav": ((tmp_path / "nan.wav").read_bytes(), "holds numbers that are not finite"),
        "text.wav": (b"these are words" * 40, "cannot be read as sound"),
        "nothing.wav": (b"", "is empty"),
        **{f"cut{suffix}": (data[: 2 * len(data) // 3], "is cut off|cannot be read") for suffix, data in whole.items()},
    }
    for name, (data, why) in broken.items():
        (tmp_path / name).write_bytes(data)
        refused = command("tokenize", run, "--data", tmp_path / name, "--out", tmp_path / "none.safetensors")
        assert refused.exit_code == 1
        assert re.search(rf"error: \S*{name}\s(.|\n)*({why})", refused.stderr), refused.stderr
    assert not (tmp_path / "none.safetensors").exists()


CONTINUOUS = """
data: {{set: {set}, sample_rate: 4000, duration: 0.5}}
tokenizer: {{kl: {{autoencoder: plain, dim: 4}}}}
losses: {{regression: {{kind: l1}}}}
train: {{samples: 16, batch: 8, precision: fp32}}
"""


def test_continuous_tokens_of_a_set_come_back_as_sounds_that_end(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "kl.yaml").write_text(CONTINUOUS.format(set=tones))
    run, tokens = tmp_path / "kl", tmp_path / "tokens.safetensors"
    succeed("train", tmp_path / "kl.yaml", "--out", run, "--device", "cpu")
    assert "each with its log-variance" in succeed("tokenize", run, "--data", tones, "--split", "heldout", "--out", tokens).stderr
    succeed("detokenize", run, tokens, "--out", tmp_path / "back")
    tokenizer, read_back = load(str(run)).tokenizer, read(tokens)
    assert read_back.layout.channels == 8
    decoded = tokenizer.decode_padded(Tokens(read_back.values[..., :4], tokenizer.layout, read_back.lengths))
    for index, sound in enumerate(decoded):
        found = read_audio(tmp_path / "back" / f"{index:04d}.wav")[0]
        torch.testing.assert_close(found, sound, rtol=0, atol=2e-4)


def test_from_files_to_generated_sound(tones: Path, tmp_path: Path) -> None:
    report = json.loads(succeed("data", "inspect", tones, "--json").stdout)
    assert (report["count"], report["rates"]) == (40, {"4000": 40})
    (tmp_path / "tokenizer.yaml").write_text(TOKENIZER.format(set=tones))
    succeed("train", tmp_path / "tokenizer.yaml", "--out", tmp_path / "tokenizer", "--device", "cpu")
    figures = json.loads(succeed("evaluate", tmp_path / "tokenizer", "--json").stdout)
    assert figures["bitrate"] == pytest.approx(4 * 80 / 1_000)
    tokens = tmp_path / "tokens.safetensors"
    succeed("tokenize", tmp_path / "tokenizer", "--data", tones, "--out", tokens)
    succeed("detokenize", tmp_path / "tokenizer", tokens, "--out", tmp_path / "back", "-n", "2")
    assert read_audio(tmp_path / "back" / "0001.wav")[0].shape == (1, 2_000)
    (tmp_path / "generator.yaml").write_text(GENERATOR.format(set=tones, tokenizer=tmp_path / "tokenizer"))
    run = tmp_path / "generator"
    succeed("train", tmp_path / "generator.yaml", "--out", run, "--tokens", tokens, "--device", "cpu")
    succeed("generate", run, "-n", "3", "--out", tmp_path / "made")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"0000.wav", "0001.wav", "0002.wav", "sheet.png", "provenance.json"}
    succeed("generate", run, "-n", "1", "--out", tmp_path / "one.wav")
    one, rate = read_audio(tmp_path / "one.wav")
    assert (rate, one.shape) == (4_000, (1, 2_000))
    assert torch.equal(one, read_audio(tmp_path / "made" / "0000.wav")[0])
    succeed("generate", run, "--out", tmp_path / "one.flac")
    assert torch.equal(one, read_audio(tmp_path / "one.flac")[0])
    refused = command("generate", run, "--out", tmp_path / "one.mp3")  # of no rate of MP3
    assert refused.exit_code == 2
    assert "4,000 samples a second" in " ".join(refused.stderr.split())
    assert not (tmp_path / "one.mp3").exists()


CONTINUOUS = """
data: {{set: {set}, sample_rate: 4000, duration: 0.5}}
tokenizer: {{kl: {{autoencoder: plain, dim: 4}}}}
losses: {{regression: {{kind: l1}}}}
train: {{samples: 32, batch: 8, precision: fp32}}
"""
AT_ONCE = """
data: {{set: {set}, sample_rate: 4000, duration: 0.5}}
tokenizer: {{checkpoint: {tokenizer}}}
condition: {{length: {{width: 8}}}}
order: at_once
backbone: {{none: {{width: 16}}}}
head: {{flow_matching: {{network: {{dit: {{layers: 1, width: 16, heads: 2}}}}, steps: 6}}}}
train: {{samples: 16, batch: 8, precision: fp32}}
"""


def test_a_trace_of_sound_is_a_film_of_its_spectrogram(tones: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "made"
    (tmp_path / "tokenizer.yaml").write_text(CONTINUOUS.format(set=tones))
    (tmp_path / "generator.yaml").write_text(AT_ONCE.format(set=tones, tokenizer=tmp_path / "tokenizer"))
    succeed("train", tmp_path / "tokenizer.yaml", "--out", tmp_path / "tokenizer", "--device", "cpu")
    succeed("train", tmp_path / "generator.yaml", "--out", run, "--device", "cpu")
    # Clips of one length are drawn together, and yet each is told of in its place.
    succeed("generate", run, "--seconds", "0.2", "--seconds", "0.4", "--seconds", "0.2", "--trace", "--out", out)
    trace = json.loads((out / "trace.json").read_text())
    drawn = [step["pictures"] for step in trace["steps"]]
    assert len(drawn) == 6
    assert [len(clip["positions"]) for pictures in drawn[:-1] for clip in pictures] == 15 * [0]
    assert [len(clip["positions"]) for clip in drawn[-1]] == [16, 32, 16]
    with Image.open(out / "sheet.png") as sheet, Image.open(out / "trace.webp") as film:
        frames = []
        for index in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(index)
            frames.append(film.convert("RGB"))
        assert len({frame.tobytes() for frame in frames}) > 1
        last, cell = frames[-1], (2, 2, 2 + 192, 2 + 64)
        assert last.crop((2, 2, 2 + 384, 2 + 128)).resize((192, 64), Image.Resampling.NEAREST).tobytes() == sheet.crop(cell).tobytes()


TIMED = """
extends: {generator}
condition: {{length: {{width: 8}}}}
stop_head: {{threshold: 0.5}}
"""


def test_lengths_are_learned_asked_for_and_met(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.yaml").write_text(TOKENIZER.format(set=tones))
    (tmp_path / "generator.yaml").write_text(GENERATOR.format(set=tones, tokenizer=tmp_path / "tokenizer"))
    (tmp_path / "timed.yaml").write_text(TIMED.format(generator=tmp_path / "generator.yaml"))
    run, out = tmp_path / "run", tmp_path / "made"
    succeed("train", tmp_path / "tokenizer.yaml", "--out", tmp_path / "tokenizer", "--device", "cpu")
    succeed("tokenize", tmp_path / "tokenizer", "--data", tones, "--out", tmp_path / "tokens.safetensors")
    tokens = read(tmp_path / "tokens.safetensors")
    assert tokens.lengths is not None
    samples = [open_data(str(tones), "train", sample_rate=4_000, duration=0.5).length(index) for index in range(len(tokens))]
    assert tokens.lengths.tolist() == [math.ceil(count / 50) for count in samples]
    succeed("train", tmp_path / "timed.yaml", "--out", run, "--device", "cpu")
    succeed("generate", run, "--seconds", "0.301", "--seconds", "0.123", "--out", out)
    assert [read_audio(out / f"000{index}.wav")[0].shape[1] for index in (0, 1)] == [1_204, 492]
    assert (
        "--seconds: a duration must be above 0 and at most 0.5 s, not 0.75 s"
        in command("generate", run, "--seconds", "0.75", "--out", tmp_path / "no").stderr
    )
    succeed("generate", run, "-n", "2", "--out", tmp_path / "ended")
    assert all(read_audio(tmp_path / "ended" / f"000{index}.wav")[0].shape[1] % 50 == 0 for index in (0, 1))
    system = load(str(run))
    lengths = system.generate_tokens([0.3, 0.5], guidance=1.0).lengths
    assert lengths is not None
    assert lengths.tolist() == [24, 40]
    whole = system.generate(seconds=[0.301, 0.203], seed=4).tensor
    pieces = list(system.stream(seconds=[0.301, 0.203], seed=4))
    assert len(pieces) == math.ceil(1_204 / 50)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole[..., :1_204])
    ended = system.generate(count=2, seed=5)
    streamed = torch.cat(list(system.stream(count=2, seed=5, every=0.05)), dim=2)
    assert ended.lengths is not None
    torch.testing.assert_close(streamed, ended.tensor[..., : max(ended.lengths)])
    with pytest.raises(ValueError, match="`seconds`: a duration must be above 0"):
        system.stream(seconds=0.75)
