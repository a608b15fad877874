from __future__ import annotations

import math

import pytest
import torch

from jielong.media.mel import mel_filters, mel_spectrum, spectrum, to_hertz, to_mel


@pytest.mark.parametrize(("rate", "window", "bands"), [(16000, 400, 40), (24000, 1024, 80), (44100, 2048, 128)])
def test_filters_are_the_public_ones(rate: int, window: int, bands: int) -> None:
    audio = pytest.importorskip("transformers.audio_utils")
    public = audio.mel_filter_bank(window // 2 + 1, bands, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(mel_filters(rate, window, bands), torch.from_numpy(public).T.double(), rtol=1e-6, atol=1e-9)


def test_the_scale_is_undone() -> None:
    hertz = torch.tensor([0.0, 440, 1000, 4000, 8000], dtype=torch.float64)
    torch.testing.assert_close(to_hertz(to_mel(hertz)), hertz)
    assert to_mel(torch.tensor([500.0, 1000.0, 6400.0])).tolist() == pytest.approx([7.5, 15, 42])


def test_a_tone_is_in_its_bin() -> None:
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16000, dtype=torch.float64) / 16000)
    power = spectrum(tone, 512, 128)
    assert power.shape == (257, 126)
    assert power[:, 60].argmax() == 1000 * 512 // 16000
    assert power[32, 60].item() == pytest.approx(128, rel=1e-6)  # half the sum of the window
    assert mel_spectrum(tone.expand(2, 3, -1), 16000, 512, 128, 20).shape == (2, 3, 20, 126)
