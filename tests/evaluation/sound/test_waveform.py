"""SI-SDR, mel and STFT distances, bitrates: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jielong.core.tokens import Layout
from jielong.evaluation.sound.protocol import mono, sound_hash
from jielong.evaluation.sound.waveform import CAP, bitrate, mel_distance, si_sdr, stft_distance

RATE = 16_000


def noise(seed: int = 0, samples: int = 16_000) -> Tensor:
    return 0.2 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_si_sdr_of_a_known_error() -> None:
    tone = torch.sin(2 * math.pi * 100 * torch.arange(16_000) / RATE)
    other = torch.cos(2 * math.pi * 100 * torch.arange(16_000) / RATE)  # of equal power, orthogonal
    for gain in (0.01, 0.1, 1.0):
        measured = si_sdr([0.3 * tone + 0.3 * gain * other + 0.1], [tone], RATE)
        assert measured.value == pytest.approx(-20 * math.log10(gain), abs=1e-3)
    assert si_sdr([tone * 0.5], [tone], RATE).value > 90, "its scale does not matter"
    assert si_sdr([tone], [tone], RATE).value == CAP
    shifted = si_sdr([noise().roll(1)], [noise()], RATE)
    assert shifted.value < -10, "a sample's shift of noise ruins it"


def test_silent_references_are_left_out_and_counted() -> None:
    silence = torch.zeros(16_000)
    measured = si_sdr([noise(), noise()], [noise(), silence], RATE)
    assert (measured.n, measured.details["left_out"]) == (1, 1)
    with pytest.raises(ValueError, match="none of these 1 clips"):
        si_sdr([noise()], [silence], RATE)


def test_a_gain_moves_every_band_by_its_decibels() -> None:
    x = noise()
    assert mel_distance([x], [x], RATE).value == 0
    for gain in (0.5, 0.1):
        assert mel_distance([gain * x], [x], RATE).value == pytest.approx(-20 * math.log10(gain), abs=1e-4)
        assert stft_distance([gain * x], [x], RATE).value == pytest.approx(1 - gain - math.log(gain), abs=2e-3)
    assert stft_distance([x], [x], RATE).value == 0
    assert stft_distance([noise(1)], [x], RATE).value > 0.5
    loud = mel_distance([noise() + 0.02 * noise(1)], [x], RATE).value
    louder = mel_distance([noise() + 0.2 * noise(1)], [x], RATE).value
    assert 0 < loud < louder


def test_an_inaudible_shift_changes_spectra_little() -> None:
    x = noise()
    assert mel_distance([x.roll(1)], [x], RATE).value < 0.5
    assert si_sdr([x.roll(1)], [x], RATE).value < -10


def test_the_floor_makes_silence_finite() -> None:
    quiet = mel_distance([torch.zeros(16_000)], [noise()], RATE)
    assert 30 < quiet.value < 100
    assert mel_distance([torch.zeros(16_000)], [torch.zeros(16_000)], RATE).value == 0


def test_published_bitrates() -> None:
    encodec = bitrate(Layout((75,), channels=8, vocabulary=1024), 1.0)
    assert encodec.value == pytest.approx(6.0)
    assert encodec.details["positions_per_second"] == 75
    assert bitrate(Layout((25,), channels=8, vocabulary=2048), 2.0).value == pytest.approx(1.1)
    with pytest.raises(ValueError, match="no bitrate"):
        bitrate(Layout((75,), channels=8), 1.0)
    with pytest.raises(ValueError, match="positive duration"):
        bitrate(Layout((75,), vocabulary=2), 0)


def test_what_is_not_sound_is_refused() -> None:
    x = noise()
    assert torch.equal(mono([torch.stack((x, -x))])[0], torch.zeros(16_000))
    for wrong, why in (
        ([], "no clips"),
        ([x, (x * 32768)], "number 1 reaches"),
        ([x * math.nan], "finite"),
        ([(x * 100).to(torch.int16)], "divide 16-bit"),
        ([x[None, None]], "channels, samples"),
        ([x[:0]], "a sample at least"),
    ):
        with pytest.raises(ValueError, match=why):
            mono(wrong)
    with pytest.raises(ValueError, match="2 clips and 1 references"):
        si_sdr([x, x], [x], RATE)
    with pytest.raises(ValueError, match="number 0 has 16000 samples and its reference 8000"):
        mel_distance([x], [x[:8000]], RATE)
    whole = (x * 32768).round() / 32768
    assert sound_hash([whole], RATE) == sound_hash([whole + 1e-6], RATE)
    assert len({sound_hash([x], RATE), sound_hash([x], 8000), sound_hash([x, x], RATE), sound_hash([x[:8000], x[8000:]], RATE)}) == 4
