"""A cache of tensors on disk, for frozen encoders' features of a whole data set."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from jielong.core.files import remove_leftovers
from jielong.core.storage import cache_folder, optional
from jielong.data.stored import DamagedError, not_finite, read_tensors, write_tensors

Shape = tuple[int | None, ...]
"""Sizes; ``None`` for any."""


def cached(
    kind: str, key: object, shapes: Mapping[str, Shape], compute: Callable[[], dict[str, Tensor]], folder: Path | None = None
) -> dict[str, Tensor]:
    """Tensors of the cache, or computed now and written to it, if it is writable; a damaged file is computed again, with a warning.

    Args:
        kind: Folder in the user's cache.
        key: What the tensors depend on; anything that JSON can express.
        shapes: Of each tensor.
        compute: The tensors.
        folder: The folder, instead of that in the user's cache.

    Raises:
        ValueError: if what is computed is not finite, or has another shape.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = (folder or cache_folder() / kind) / f"{name}.safetensors"
    try:
        tensors, _ = read_tensors(path)
        _check(tensors, shapes)
        return tensors
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} cannot be used ({error}) and is computed again", stacklevel=2)
    tensors = compute()
    try:
        _check(tensors, shapes)
    except DamagedError as error:
        raise ValueError(f"the {kind} computed for the cache cannot be used: {error}") from None
    with optional():
        remove_leftovers(path.parent)
        write_tensors(path, tensors)
    return tensors


def _check(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> None:
    if tensors.keys() != shapes.keys():
        raise DamagedError(f"it holds {', '.join(sorted(tensors)) or 'nothing'} instead of {', '.join(sorted(shapes))}")
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape)
        if len(found) != len(shape) or any(size not in (None, given) for size, given in zip(shape, found, strict=True)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise DamagedError(f"{name} has the shape {found} instead of ({wanted})")
        if (row := not_finite(tensors[name])) is not None:
            raise DamagedError(f"row {row} of {name} holds NaN or infinity")
