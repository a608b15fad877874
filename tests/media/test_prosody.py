"""Prosody: what is asked for by its name moves, and loudness, length and the order of magnitude of the pitch do not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jielong.media.prosody import FEATURES, MODULATIONS, RATE, pitch, prosody


def voice(hertz: Tensor) -> Tensor:
    """Twelve harmonics over a pitch a sample."""
    phase = 2 * math.pi * (hertz / RATE).cumsum(0)
    return sum((torch.sin(k * phase) / k for k in range(1, 13)), start=torch.zeros_like(phase)) * 0.2


def times(seconds: float = 2.0) -> Tensor:
    return torch.arange(int(seconds * RATE)) / RATE


STEADY = voice(torch.full((2 * RATE,), 150.0))


@pytest.mark.parametrize("hertz", [80.0, 150.0, 233.0, 380.0])
def test_the_pitch_is_that_of_a_tone(hertz: float) -> None:
    found, periodic = pitch(voice(torch.full((RATE,), hertz)))
    inner = slice(4, -4)
    assert float((found[inner] / hertz - 1).abs().max()) < 0.03
    assert float(periodic[inner].min()) > 0.8
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert float(pitch(noise)[1][inner].mean()) < 0.5


def test_a_gain_and_a_transposition_change_little() -> None:
    wavy = 150 * 2 ** (0.2 * torch.sin(2 * math.pi * 2 * times()))
    features = prosody(voice(wavy))
    assert features.shape == (FEATURES,)
    torch.testing.assert_close(prosody(0.1 * voice(wavy)), features, rtol=1e-3, atol=1e-3)
    higher = prosody(voice(1.5 * wavy))
    torch.testing.assert_close(higher[:5], features[:5], rtol=0.15, atol=0.05)


def test_melody_stress_and_rhythm_are_distinguished() -> None:
    flat = prosody(STEADY)
    wavy = prosody(voice(150 * 2 ** (0.25 * torch.sin(2 * math.pi * 2 * times()))))
    assert float(wavy[0]) == pytest.approx(4 * 0.25 / 2**0.5, rel=0.2)  # of the deviation of a sine, in octaves
    assert float(wavy[1]) == pytest.approx(2 * 0.5 * math.sin(0.4 * math.pi), rel=0.2)
    assert float(flat[0]) < 0.1
    falling = prosody(voice(200 * 2 ** (-0.5 * times())))
    assert float(falling[3]) == pytest.approx(-0.5, abs=0.1)
    assert abs(float(flat[3])) < 0.05
    for index, rate in enumerate(MODULATIONS[2:6]):
        beating = prosody(STEADY * (1 + 0.8 * torch.sin(2 * math.pi * rate * times())))
        rhythm = beating[9:]
        assert int(rhythm.argmax()) == index + 2
        assert float(beating[5]) > float(flat[5]) + 0.1
    paused = STEADY.clone()
    paused[RATE // 2 : RATE] = 0
    assert float(prosody(paused)[7]) == pytest.approx(0.25, abs=0.05)


def test_silence_and_scraps_are_zeros() -> None:
    assert torch.equal(prosody(torch.zeros(RATE)), torch.zeros(FEATURES))
    assert torch.equal(prosody(torch.ones(10)), torch.zeros(FEATURES))
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    assert bool(prosody(noise).isfinite().all())
