"""A cache of tensors on disk, for frozen encoders' features of a whole data set."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from jielong.core.files import remove_leftovers, write_bytes
from jielong.core.storage import cache_folder, optional


def cached(kind: str, key: object, compute: Callable[[], dict[str, Tensor]], folder: Path | None = None) -> dict[str, Tensor]:
    """Tensors of the cache, or computed now and written to it, if it is writable; an unreadable file is computed again.

    Args:
        kind: Folder in the user's cache.
        key: What the tensors depend on; anything that JSON can express.
        folder: The folder, instead of that in the user's cache.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = (folder or cache_folder() / kind) / f"{name}.safetensors"
    with contextlib.suppress(OSError, SafetensorError):  # no file yet, or an incomplete one
        return load(path.read_bytes())
    tensors = compute()
    with optional():
        remove_leftovers(path.parent)
        write_bytes(path, save(tensors))
    return tensors
