"""Models of listeners: what is equal is best, and noise makes it worse."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from jielong.evaluation.sound import listening
from jielong.evaluation.sound.opus import OpusOutput, opus_roundtrip
from jielong.evaluation.sound.protocol import MissingError
from jielong.evaluation.sound.waveform import mel_distance, si_sdr


@pytest.fixture(scope="module")
def speech() -> tuple[Tensor, int]:
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("soxr")
    from jielong.media.audio import resample
    from jielong.media.espeak import speak

    waveform, rate = speak("Please enter your password, followed by the pound key.")
    return resample(waveform, rate, 16_000), 16_000


def worse(clip: Tensor, gain: float) -> Tensor:
    return clip + gain * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "module", "best"), [("pesq_wb", "pesq", 4.64), ("stoi", "pystoi", 1.0), ("visqol", "visqol", None)])
def test_equal_is_best_and_noise_is_worse(speech: tuple[Tensor, int], name: str, module: str, best: float | None) -> None:
    pytest.importorskip(module)
    clip, rate = speech
    measure = getattr(listening, name)
    values = [measure([worse(clip, gain)], [clip], rate).value for gain in (0.0, 0.005, 0.05)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[2] * 1.05
    if best is not None:
        assert values[0] == pytest.approx(best, abs=0.01)
    else:
        assert values[0] > 4


@pytest.mark.parametrize(("name", "module"), [("pesq_wb", "pesq"), ("stoi", "pystoi")])
def test_clips_without_speech_are_left_out(speech: tuple[Tensor, int], name: str, module: str) -> None:
    pytest.importorskip(module)
    clip, rate = speech
    silence = torch.zeros_like(clip)
    measured = getattr(listening, name)([clip, clip, clip[:, :2000]], [clip, silence, clip[:, :2000]], rate)
    assert (measured.n, measured.details["left_out"]) == (1, 2)


def test_dnsmos_measures_noise_without_a_reference(speech: tuple[Tensor, int]) -> None:
    pytest.importorskip("onnxruntime")
    if not _installed("speechmos"):
        pytest.skip("speechmos is not installed")
    clip, rate = speech
    clean, noisy = (listening.dnsmos([worse(clip, gain)], rate) for gain in (0.0, 0.05))
    assert 1 < noisy.value < clean.value - 0.3 < 5
    assert noisy.details["bak"] < clean.details["bak"] - 0.5
    longer = listening.dnsmos([clip.repeat(1, 5)], rate)
    assert longer.value == pytest.approx(clean.value, abs=0.5)


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize(("name", "module"), [("pesq_wb", "pesq"), ("stoi", "pystoi"), ("visqol", "visqol")])
def test_absence_is_reported(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    listening._visqol.cache_clear()
    with pytest.raises(MissingError, match=r"pip install 'jielong\[speech"):
        getattr(listening, name)([torch.ones(100) / 2], [torch.ones(100) / 2], 16_000)


def test_opus_output_is_aligned_and_improves_with_bitrate(speech: tuple[Tensor, int]) -> None:
    pytest.importorskip("av")
    clip, rate = speech
    coded = {kbps: opus_roundtrip(clip, rate, kbps) for kbps in (6, 12, 64)}
    for kbps, output in coded.items():
        assert isinstance(output, OpusOutput)
        assert output.waveform.shape == clip.shape
        assert output.kbps == pytest.approx(kbps, rel=0.4)
    distances = [mel_distance([output.waveform], [clip], rate).value for output in coded.values()]
    assert distances == sorted(distances, reverse=True)
    ratios = {shift: si_sdr([coded[64].waveform.roll(shift)], [clip], rate).value for shift in (-40, -2, -1, 0, 1, 2, 40)}
    assert max(ratios, key=ratios.__getitem__) == 0
    assert ratios[0] > 8


def test_opus_at_other_rates_and_unsupported_bitrates() -> None:
    pytest.importorskip("av")
    pytest.importorskip("soxr")
    tone = 0.3 * torch.sin(torch.arange(22_050) * 0.05)
    output = opus_roundtrip(tone, 22_050, 32)
    assert output.waveform.shape == tone.shape
    assert si_sdr([output.waveform], [tone], 22_050).value > 5
    for wrong in (1.5, 500):
        with pytest.raises(ValueError, match="from 6 to 256"):
            opus_roundtrip(tone, 22_050, wrong)
    with pytest.raises(ValueError, match="on one channel, not 2"):
        opus_roundtrip(torch.stack((tone, tone)), 22_050, 32)
