"""Tensors in a safetensors file with a checksum of every byte, which is compared when the file is read."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from jielong.core.files import write_bytes

_CHECKSUM = "xxh3_128"
_METADATA = "__metadata__"
_LONGEST = 100_000_000  # bytes of a header, as in safetensors

Header = dict[str, dict[str, object]]
"""The header of a safetensors file: type, shape and place by name, and the metadata."""


class DamagedError(ValueError):
    """A file of tensors is not as it was written; the text says in what, without the file's name."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], words: Mapping[str, str] | None = None) -> None:
    """Write tensors and words whole or not at all.

    Raises:
        jielong.core.storage.StorageError: if the file cannot be written.
    """
    whole = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    file = io.BytesIO(whole)
    header = _header(file)
    payload = memoryview(whole)[file.tell() :]
    header[_METADATA] = dict(words or {})
    header[_METADATA][_CHECKSUM] = _checksum(header, file)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(path, b"".join((len(text).to_bytes(8, "little"), text, payload)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the words.

    Raises:
        DamagedError: if it is another kind of file, cut off, or changed since it was written.
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        header = _header(file)
        words = header.get(_METADATA, {})
        written = words.pop(_CHECKSUM, None)
        if written is None:
            raise DamagedError("it has no checksum, as files of earlier versions")
        if written != _checksum(header, file):
            raise DamagedError("its checksum is another: it was changed after it was written")
    try:
        with safe_open(path, "pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}, {name: str(word) for name, word in words.items()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(str(error)) from None


def not_finite(values: Tensor) -> int | None:
    """The first row with NaN or infinity; ``None`` without one."""
    if not values.is_floating_point() or not values.numel() or all(map(math.isfinite, values.aminmax())):
        return None  # NaN is in both ends; this needs no memory, as isfinite does
    return int((~torch.isfinite(values).flatten(1).all(1)).nonzero()[0])


def _header(file: BinaryIO) -> Header:
    """The header of a safetensors file, which is read to its end."""
    length = int.from_bytes(file.read(8), "little")
    text = file.read(min(length, _LONGEST))
    try:
        header = json.loads(text)
    except ValueError:
        raise DamagedError("it is not a safetensors file, or cut off") from None
    if len(text) != length or not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise DamagedError("it is not a safetensors file")
    return header


def _checksum(header: Header, file: BinaryIO) -> str:
    """The hash of the header, and of the rest of the file."""
    total = xxhash.xxh3_128(json.dumps(header, sort_keys=True).encode())
    while chunk := file.read(1 << 20):
        total.update(chunk)
    return total.hexdigest()
