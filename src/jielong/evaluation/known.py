"""Features of a set's items, kept in the user's cache: the same for every model that is evaluated on the set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.core.storage import cache_folder, optional
from jielong.data.sets import MediaSet
from jielong.data.stored import DamagedError, read_tensors, write_tensors
from jielong.evaluation.context import BATCH, Progress


def features_of(
    media: MediaSet, rows: Sequence[int], details: JSON, extract: Callable[[Tensor, Sequence[int]], Tensor], report: Progress, what: str
) -> Tensor:
    """Features ``(n, D)`` of items, from the cache where they were computed before.

    Args:
        media: The set.
        rows: Its items.
        details: Provenance of the features, on which they depend.
        extract: ``(media, rows) -> features`` of a batch ``(B, C, *size)``.
        report: Progress callback.
        what: Its stage.
    """
    words = json.dumps([media.fingerprint, list(rows), details], sort_keys=True)
    path = cache_folder() / "features" / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.safetensors"
    if path.exists():
        try:
            values = read_tensors(path)[0]["values"]
        except (DamagedError, KeyError, OSError):
            path.unlink(missing_ok=True)
        else:
            report(what, len(rows), len(rows))
            return values
    parts = []
    for first in range(0, len(rows), BATCH):
        some = rows[first : first + BATCH]
        parts.append(extract(media.media(some), some))
        report(what, first + len(some), len(rows))
    values = torch.cat(parts)
    with optional():
        write_tensors(path, {"values": values})
    return values
