"""A cache on disk of what a frozen text encoder says of a set's captions: encode them once, train on them many times."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from jielong.conditions.text import REMEMBERED, FrozenText
from jielong.data.built import cache_folder
from jielong.media.images import write_bytes


def remember(condition: FrozenText, captions: Sequence[str], folder: Path | None = None) -> None:
    """Give a condition the states of all captions: from the user's cache, or encoded now and put there.

    In batches, as the whole set is known, this takes a fraction of the time that one caption after the other does. A set of more
    than ``REMEMBERED`` different captions is left to be encoded as training meets them.

    Args:
        condition: The condition of the generator to be trained.
        captions: Of the whole set.
        folder: Where the cache is, instead of the user's.
    """
    texts = sorted({caption for caption in captions if caption and caption.strip()})
    if not texts or len(texts) > REMEMBERED:
        return
    key = hashlib.sha256(json.dumps([condition.describe(), texts], sort_keys=True).encode()).hexdigest()[:32]
    folder = folder or cache_folder() / "texts"
    path = folder / f"{key}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError):  # no file yet, or not a whole one
        stored = load(path.read_bytes())
        parts = stored["states"].split(stored["lengths"].tolist())
        condition.remember(dict(zip(texts, parts, strict=True)))
        return
    states = dict(condition.encode(texts))
    condition.remember(states)
    lengths = torch.tensor([len(states[text]) for text in texts])
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({"states": torch.cat([states[text] for text in texts]), "lengths": lengths}))
