from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from jielong.media.audio import resample
from jielong.networks.efficientnet import WeightsError
from jielong.networks.speaker import RATE, SpeakerEncoder, read_weights, window_starts


def test_pieces_cover_the_recording() -> None:
    assert window_starts(1) == [0]
    assert window_starts(25600) == [0]
    assert window_starts(40000)[-1] * 160 + 25600 >= 40000 - 0.25 * 25600
    starts = window_starts(160000)
    assert all(after - before == 77 for before, after in itertools.pairwise(starts))


def test_wrong_and_missing_files_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "weights.pt"
    torch.save({"model_state": {}}, other)
    with pytest.raises(WeightsError, match="not the published weights"):
        read_weights(other)
    with pytest.raises(WeightsError, match="there is no weights file"):
        read_weights(tmp_path / "none.pt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install --no-deps resemblyzer"):
        SpeakerEncoder()


def test_one_voice_is_nearer_to_itself_than_to_another() -> None:
    for module in ("resemblyzer", "espeakng_loader", "soxr"):
        pytest.importorskip(module) if module != "resemblyzer" else _weights()
    from jielong.media.espeak import speak

    encoder = SpeakerEncoder()

    def embed(text: str, voice: str) -> torch.Tensor:
        waveform, rate = speak(text, voice)
        return encoder.embed(resample(waveform, rate, RATE)[0])

    first, again = embed("please enter your password", "en-us"), embed("the weather is fine today", "en-us")
    other = embed("the weather is fine today", "en-us+f3")
    assert first.norm().item() == pytest.approx(1, abs=1e-5)
    assert float(first @ again) > 0.75
    assert float(first @ again) > float(first @ other) + 0.1
    clips = [0.1 * torch.randn(count, generator=torch.Generator().manual_seed(0)) for count in (9_000, 70_000)]
    torch.testing.assert_close(encoder.embed_all(clips), torch.stack([encoder.embed(clip) for clip in clips]))
    with pytest.raises(ValueError, match="silent"):
        encoder.embed(torch.zeros(16000))
    with pytest.raises(ValueError, match="finite"):
        encoder.embed(torch.full((16000,), float("nan")))


def _weights() -> None:
    from jielong.networks.speaker import weights_path

    try:
        weights_path()
    except WeightsError as error:
        pytest.skip(str(error))
