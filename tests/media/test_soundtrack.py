"""Videos with sound: both come back from the file, and files without sound are what they were."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.media.reading.sound import read_audio
from jielong.media.reading.video import read_header
from jielong.media.soundtrack import CODINGS, Soundtrack
from jielong.media.video import WRITTEN, encode_video
from jielong.media.videos import Video

RATE = 16_000


def clip(frames: int = 20) -> Tensor:
    return torch.rand(3, frames, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tone(seconds: float = 2.0, channels: int = 1, rate: int = RATE) -> Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    return torch.stack([0.5 * torch.sin(2 * math.pi * (300 + 200 * index) * time * (1 + time / 4)) for index in range(channels)])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", sorted(CODINGS))
def test_sound_is_read_back_in_time(tmp_path: Path, suffix: str, channels: int) -> None:
    sound = tone(channels=channels)
    path = Video(clip(), 10.0, sound=Soundtrack(sound, RATE)).save(tmp_path / f"a{suffix}")
    header = read_header(path)
    assert header.sound
    assert header.seconds == pytest.approx(2.0, abs=0.1)
    found, rate = read_audio(path)
    assert len(found) == channels
    assert found.shape[1] / rate == pytest.approx(2.0, abs=0.1)
    wanted = tone(channels=channels, rate=rate)
    common = min(found.shape[1], wanted.shape[1])
    for one, other in zip(found[:, :common], wanted[:, :common], strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.98, "a sweep matches itself at no other time"


def test_matroska_keeps_sixteen_bits(tmp_path: Path) -> None:
    sound = torch.randint(-(2**15), 2**15, (2, 12_345), generator=torch.Generator().manual_seed(1)) / 2**15
    path = Video(clip(), 10.0, sound=Soundtrack(sound, 22_050)).save(tmp_path / "a.mkv")
    found, rate = read_audio(path)
    assert rate == 22_050
    assert torch.equal(found, sound)


@pytest.mark.parametrize("suffix", sorted(set(WRITTEN) - set(CODINGS)))
def test_files_that_hold_no_sound_refuse_it(suffix: str) -> None:
    with pytest.raises(ValueError, match=f"{suffix} holds no sound: write one of .mp4"):
        encode_video(clip(2), 10.0, suffix, Soundtrack(tone(), RATE))


def test_what_is_no_sound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 or 2 channels, samples"):
        encode_video(clip(2), 10.0, ".mkv", Soundtrack(torch.zeros(3, 10), RATE))
    with pytest.raises(ValueError, match=r"1 or 2 channels, samples"):
        encode_video(clip(2), 10.0, ".mkv", Soundtrack(torch.zeros(1, 0), RATE))
