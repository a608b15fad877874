"""A cache on disk of the voices in a set of recordings: heard once, trained on many times."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from jielong.conditions.voice import Recording, VoiceCondition
from jielong.data.built import cache_folder
from jielong.media.images import write_bytes

TOGETHER = 32
"""Recordings that are heard at a time."""


def remember(
    condition: VoiceCondition,
    keys: Sequence[str],
    fingerprint: str,
    hear: Callable[[int], Recording],
    folder: Path | None = None,
    speakers: Sequence[str | None] | None = None,
) -> None:
    """Give a condition the voices of all clips, by key: from the user's cache, or heard now and put there.

    A silent clip has no voice; zeros stand for it. A condition whose ``reference`` is ``other`` is given, in the place of a clip's voice,
    that of the next clip by the same speaker (:func:`others`).

    Args:
        condition: The condition of the generator to be trained.
        keys: Names of the clips, as batches bring them.
        fingerprint: Of the set.
        hear: The recording at an index.
        folder: Where the cache is, instead of the user's.
        speakers: Who speaks in each clip, where that is known.
    """
    key = hashlib.sha256(json.dumps([condition.describe(), fingerprint, list(keys)], sort_keys=True).encode()).hexdigest()[:32]
    path = (folder or cache_folder() / "voices") / f"{key}.safetensors"
    voices = _kept(path, len(keys))
    if voices is None:
        voices = _heard(condition, len(keys), hear)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({"voices": voices}))
    if condition.reference == "other" and speakers is not None:
        voices = voices[others(speakers, voices.any(1).tolist())]
    condition.remember(dict(zip(keys, voices.unbind(), strict=True)))


def others(speakers: Sequence[str | None], heard: Sequence[bool]) -> list[int]:
    """For each clip the next one by the same speaker that has a voice, the first after the last; its own where there is no other.

    One pairing for the whole of training, so that a run that goes on is told what it was told before.

    Args:
        speakers: Who speaks in each clip; ``None`` is nobody's.
        heard: Whether there is a voice in it.
    """
    clips: dict[str, list[int]] = {}
    for index, name in enumerate(speakers):
        if name is not None and heard[index]:
            clips.setdefault(name, []).append(index)
    following = list(range(len(speakers)))
    for own in clips.values():
        for index, after in zip(own, own[1:] + own[:1], strict=True):
            following[index] = after
    return following


def _kept(path: Path, count: int) -> torch.Tensor | None:
    """Voices of a file ``(count, features)``, if there is one and it is whole."""
    with contextlib.suppress(OSError, SafetensorError, KeyError):
        voices = load(path.read_bytes())["voices"]
        return voices if len(voices) == count else None
    return None


def _heard(condition: VoiceCondition, count: int, hear: Callable[[int], Recording]) -> torch.Tensor:
    """The voices in so many recordings ``(count, features)``, some at a time; zeros where there is none."""
    voices = torch.zeros(count, condition.features)
    for first in range(0, count, TOGETHER):
        recordings = {index: hear(index) for index in range(first, min(count, first + TOGETHER))}
        spoken = {index: own for index, own in recordings.items() if own.waveform.numel() and own.waveform.square().mean() > 1e-9}
        if spoken:
            voices[list(spoken)] = condition.voices(list(spoken.values()))
    return voices
