"""An emotion beside a voice: from recordings, independent of their gain, blended, and asked for under its own name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from jielong.conditions.characters import Characters
from jielong.conditions.composite import Composite
from jielong.conditions.emotion import Emotion, EmotionCondition, blended
from jielong.conditions.voice import Recording, Voice
from jielong.config.registry import parse_part
from jielong.media.audio import write_audio
from jielong.media.prosody import FEATURES


def recording(seed: int = 0) -> Recording:
    times = torch.arange(16_000) / 16_000
    breath = 0.02 * torch.randn(16_000, generator=torch.Generator().manual_seed(seed))
    return Recording((0.3 * torch.sin(2 * math.pi * (150 + 20 * seed) * times * (1 + 0.2 * times)) + breath)[None], 16_000)


def test_settings_survive_their_own_dump() -> None:
    assert parse_part("condition", Emotion(width=8).model_dump(mode="json")) == Emotion(width=8)


def test_a_file_a_recording_and_a_vector_say_the_same(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    condition = Emotion(width=8).build()
    write_audio(tmp_path / "angry.wav", recording().waveform, 16_000)
    vector = condition.resolve(recording())
    assert vector.shape == (FEATURES,)
    prepared = condition.prepare([tmp_path / "angry.wav", recording(), vector])
    torch.testing.assert_close(prepared[0], prepared[1], rtol=1e-2, atol=1e-2)
    assert torch.equal(prepared[1], prepared[2])
    given = condition(prepared)
    assert given.states.shape == (3, 1, 8)
    louder = condition.resolve(Recording(2 * recording().waveform, 16_000))
    torch.testing.assert_close(louder, vector, rtol=1e-3, atol=1e-3)


def test_emotions_blend() -> None:
    condition = Emotion(width=8).build()
    first, other = condition.resolve(recording(0)), condition.resolve(recording(3))
    assert torch.equal(blended(first, other, 0.0), first)
    torch.testing.assert_close(blended(first, other, 1.0), other)
    assert torch.equal(blended(first, first, 0.7), first)


def test_it_combines_with_a_voice_and_is_encoded_once(tmp_path: Path) -> None:
    several = Composite(parts=(Characters(width=8, layers=1, heads=2), Voice(width=8), Emotion(width=8)), width=8).build()
    part = several.parts["emotion"]
    assert isinstance(part, EmotionCondition)
    part.precompute_recordings(["a", "quiet"], "set", lambda index: [recording(), Recording(torch.zeros(1, 9), 16_000)][index], tmp_path)
    values = [{"characters": "ab", "voice": torch.zeros(256), "emotion": "a"}, {"characters": "b", "emotion": "quiet"}]
    given = several(several.prepare(values))
    assert given.states.shape == (2, 2 + 1 + 1, 8)
    assert torch.equal(part.prepare(["quiet"]), torch.zeros(1, FEATURES))
    with pytest.raises(ValueError, match="an emotion is a vector of"):
        part.prepare([torch.zeros(3)])
    with pytest.raises(ValueError, match="an emotion condition reads a list"):
        part.prepare("angry.wav")
