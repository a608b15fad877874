from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from jielong.conditions.voice import Recording, Voice, VoiceCondition

KEYS = ["a", "b", "quiet"]


def hear(index: int) -> Recording:
    return Recording(torch.full((1, 100), [0.1, 0.2, 0.0][index]), 16_000)


def test_voices_are_encoded_once_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    def hear_all(self: VoiceCondition, waveforms: list[torch.Tensor]) -> torch.Tensor:
        encoded.extend(float(each[0]) for each in waveforms)
        return torch.stack([each[:1].expand(256) for each in waveforms])

    with monkeypatch.context() as patch:
        patch.setattr(VoiceCondition, "encode", hear_all)
        first = Voice().build()
        first.precompute_recordings(KEYS, "set 1", hear, tmp_path)
        again = Voice().build()
        again.precompute_recordings(KEYS, "set 1", hear, tmp_path)
        assert encoded == pytest.approx([0.1, 0.2]), "once, and never the silent one"
        again.precompute_recordings(KEYS, "set 2", hear, tmp_path)
        assert len(encoded) == 4
    assert torch.equal(first.prepare(KEYS), again.prepare(KEYS))
    assert first.prepare(["b", "quiet"])[:, 0].tolist() == pytest.approx([0.2, 0])


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VoiceCondition, "encode", lambda self, waveforms: torch.ones(len(waveforms), 256))
    Voice().build().precompute_recordings(KEYS, "set", hear, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    Voice().build().precompute_recordings(KEYS, "set", hear, tmp_path)
    assert file.read_bytes() == whole


def test_another_recording_of_the_same_speaker_gives_the_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, speakers = ["a", "b", "quiet", "c", "nobody", "alone"], ["x", "y", "x", "x", None, "z"]
    loudness = [0.1, 0.2, 0.0, 0.3, 0.4, 0.5]

    def voices_of(reference: Literal["own", "other"]) -> list[float]:
        condition = Voice(reference=reference).build()
        hear = lambda index: Recording(torch.full((1, 9), loudness[index]), 16_000)  # noqa: E731
        condition.precompute_recordings(keys, "set", hear, tmp_path, speakers)
        return [round(number, 6) for number in condition.prepare(keys)[:, 0].tolist()]

    with monkeypatch.context() as patch:
        patch.setattr(VoiceCondition, "encode", lambda self, waveforms: torch.stack([each[:1].expand(256) for each in waveforms]))
        assert voices_of("own") == loudness
        assert voices_of("other") == [0.3, 0.2, 0.0, 0.1, 0.4, 0.5], "silence has no voice; clips without a second one use their own"
