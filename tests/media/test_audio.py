"""Sound in and out: what is written is read back, bad files get a sentence, and a tone stays a tone at any rate."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("soundfile")
pytest.importorskip("av")
pytest.importorskip("soxr")

from jielong.media import audio
from jielong.media.audio import encode_audio, level, normalise, resample, to_channels, to_integers, write_audio
from jielong.media.reading import libraries
from jielong.media.reading.faults import BrokenAudioError
from jielong.media.reading.sound import read_audio, read_header


def tone(seconds: float = 0.5, rate: int = 16_000, hertz: float = 440.0, channels: int = 1, peak: float = 0.5) -> Tensor:
    times = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (peak * torch.sin(2 * math.pi * hertz * times)).float().expand(channels, -1)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_sixteen_bits_come_back_exactly(suffix: str, channels: int, rate: int, tmp_path: Path) -> None:
    sound = torch.rand(channels, 1_001, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path = write_audio(tmp_path / f"a{suffix}", sound, rate)
    read, found = read_audio(path)
    assert found == rate
    assert torch.equal(read, to_integers(sound).float() / 32_768)
    header = read_header(path)
    assert (header.rate, header.channels, header.samples) == (rate, channels, 1_001)


@pytest.mark.parametrize(("suffix", "least"), [(".ogg", 20), (".opus", 15), (".mp3", 15), (".g722", 20)])
def test_lossy_kinds_come_back_alike(suffix: str, least: float, tmp_path: Path) -> None:
    sound = tone(1.0)
    read, rate = read_audio(write_audio(tmp_path / f"a{suffix}", sound, 16_000))
    assert rate in (16_000, 48_000)
    read = resample(read, rate, 16_000)
    # Codecs delay: the best of a few milliseconds is compared.
    best = -math.inf
    for shift in range(40):
        ours, theirs = read[0, 2_000 + shift : 14_000 + shift], sound[0, 2_000:14_000]
        best = max(best, float(10 * torch.log10(theirs.square().sum() / (ours - theirs).square().sum())))
    assert best > least


def test_one_sample_and_silence_are_sound() -> None:
    one, rate = read_audio(encode_audio(torch.tensor([[0.25]]), 8_000))
    assert one.tolist() == [[0.25]]
    assert resample(one, rate, 16_000).shape == (1, 2)
    assert resample(one, 16_000, 8_000).shape == (1, 1)
    silence, _ = read_audio(encode_audio(torch.zeros(2, 100), 16_000))
    assert not silence.any()
    assert torch.equal(normalise(silence), silence)
    assert level(silence) == -math.inf


@pytest.mark.parametrize(("start", "end"), [(8_000, 16_000), (44_100, 16_000), (16_000, 24_000)])
def test_a_tone_is_the_same_tone_at_another_rate(start: int, end: int) -> None:
    resampled, wanted = resample(tone(0.5, start, channels=2), start, end), tone(0.5, end)
    assert resampled.shape == (2, wanted.shape[1])
    inner = slice(end // 20, -end // 20)
    assert (resampled[:, inner] - wanted[:, inner]).abs().max() < 2e-3


def test_a_level_is_the_root_mean_square() -> None:
    assert level(tone(1.0, peak=1.0)) == pytest.approx(-3.0103, abs=1e-3)
    assert level(normalise(tone(1.0), -23.0)) == pytest.approx(-23.0, abs=1e-3)
    assert normalise(tone(1.0), 20.0).abs().max() == pytest.approx(1.0)


def test_a_level_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tone(1.0, channels=2) * torch.linspace(0, 1, 16_000)
    expected = level(sound)
    monkeypatch.setattr(audio, "_MEASURED", 777)
    assert level(sound) == pytest.approx(expected, abs=1e-9)


def test_channels() -> None:
    stereo = torch.stack([torch.ones(3), -torch.ones(3)])
    assert to_channels(stereo, 1).tolist() == [[0.0, 0.0, 0.0]]
    assert to_channels(torch.ones(1, 3), 2).shape == (2, 3)
    with pytest.raises(ValueError, match="3 channels cannot be converted to 2"):
        to_channels(torch.ones(3, 3), 2)


NOISE = torch.rand(1, 160_000, generator=torch.Generator().manual_seed(0)) - 0.5


def float_wave(values: list[float]) -> bytes:
    samples = struct.pack(f"<{len(values)}f", *values)
    form = struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32)
    autoencoder = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(autoencoder)) + autoencoder


def test_floating_point_is_kept_and_clamped() -> None:
    read, _ = read_audio(float_wave([0.1, -0.2, 1.5]))
    torch.testing.assert_close(read, torch.tensor([[0.1, -0.2, 1.0]]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"these are words" * 40, "cannot be read as sound"),
        (float_wave([0.1, math.nan]), "not finite"),
        (float_wave([0.1, 20_000.0]), r"up to 2e\+04; samples of floating point lie in \[-1, 1\]"),
        (float_wave([]), "no samples"),
        (encode_audio(tone(), 16_000)[:-1_000], "is cut off: its header declares 16,000 bytes"),
        (encode_audio(tone(), 16_000)[:40], "without samples"),
        (encode_audio(torch.rand(1, 20_000) - 0.5, 16_000, ".flac")[:-9_000], r"is cut off or damaged behind its first \d+,\d+ samples"),
        *((encode_audio(NOISE, 16_000, suffix)[:-60], "is cut off: it ends within a page of Ogg") for suffix in (".ogg", ".opus")),
        *((encode_audio(NOISE, 16_000, suffix)[:30], "is cut off: it ends within a page of Ogg") for suffix in (".ogg", ".opus")),
        (encode_audio(NOISE, 16_000, ".mp3")[:-2_000], r"is cut off: it ends within a frame, after"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",  # Ogg's serial numbers are random, and workers must find the same names
)
def test_bad_files_get_a_sentence(data: bytes, says: str) -> None:
    with pytest.raises(BrokenAudioError, match=f"clip.*{says}"):
        read_audio(data, "clip")


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_a_stream_of_whole_pages_with_something_behind_them_is_whole(suffix: str) -> None:
    data = encode_audio(NOISE, 16_000, suffix)
    assert read_audio(data + b"TAG" + bytes(125))[0].shape == read_audio(data)[0].shape == NOISE.shape
    with pytest.raises(BrokenAudioError, match="cut off"):
        read_header(data[:-60])


def test_a_missing_file_and_a_missing_library_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokenAudioError, match=r"nowhere\.wav cannot be read"):
        read_audio(tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match="is not a kind of sound"):
        encode_audio(tone(), 16_000, ".xyz")
    with pytest.raises(ValueError, match="holds mono at 16,000"):
        encode_audio(tone(rate=8_000), 8_000, ".g722")

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(libraries.importlib, "import_module", absent)
    with pytest.raises(libraries.MissingLibraryError, match=r"pip install 'jielong\[sound\]'"):
        read_audio(encode_audio(tone(), 16_000))
