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
from jielong.data.building import cache_folder
from jielong.media.images import write_bytes


def remember(
    condition: VoiceCondition, keys: Sequence[str], fingerprint: str, hear: Callable[[int], Recording], folder: Path | None = None
) -> None:
    """Give a condition the voices of all clips, by key: from the user's cache, or heard now and put there.

    A silent clip has no voice; zeros stand for it.

    Args:
        condition: The condition of the generator to be trained.
        keys: Names of the clips, as batches bring them.
        fingerprint: Of the set.
        hear: The recording at an index.
        folder: Where the cache is, instead of the user's.
    """
    key = hashlib.sha256(json.dumps([condition.describe(), fingerprint, list(keys)], sort_keys=True).encode()).hexdigest()[:32]
    path = (folder or cache_folder() / "voices") / f"{key}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError):  # no file yet, or not a whole one
        condition.remember(dict(zip(keys, load(path.read_bytes())["voices"].unbind(), strict=True)))
        return
    voices = torch.stack([_voice(condition, hear(index)) for index in range(len(keys))])
    condition.remember(dict(zip(keys, voices.unbind(), strict=True)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({"voices": voices}))


def _voice(condition: VoiceCondition, recording: Recording) -> torch.Tensor:
    if recording.waveform.numel() and bool(recording.waveform.square().mean() > 1e-9):
        return condition.voice(recording)
    return torch.zeros(condition.features)
