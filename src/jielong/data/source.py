"""Where pictures come from: what every kind of set (folder, shards, table, idx files) offers to :class:`~jielong.data.sets.ImageSet`."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from jielong.media.images import open_image


class DataError(ValueError):
    """Data cannot be used; the text names the place, what is wrong and what would be right."""


@dataclass(frozen=True)
class Item:
    """What is known of one picture before it is decoded."""

    key: str
    caption: str | None = None
    label: str | None = None
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Source(ABC):
    """A list of items and the bytes of each; it knows nothing of sizes, tensors or splits."""

    name: str
    items: list[Item]
    broken: dict[str, str]  # what was left out at opening -> why
    medium: Literal["pictures", "sound"] = "pictures"
    classes: list[str] | None = None  # in their given order; None: the labels, sorted
    size: int = 64  # the side at which the set is used unless another is asked for
    channels: int = 3

    @abstractmethod
    def blob(self, index: int) -> bytes:
        """The encoded bytes of one picture or sound."""

    @abstractmethod
    def identity(self, indices: Sequence[int]) -> str:
        """A digest of the content of those items."""

    def picture(self, index: int) -> Image.Image:
        """One picture, not yet decoded.

        Raises:
            BrokenImageError: if its header is not that of a picture.
        """
        return open_image(self.blob(index), self.items[index].key)


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of a sequence of strings, each with its length, so that no two sequences collide by concatenation."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()


def fraction(text: str) -> float:
    """A number in ``[0, 1)`` that is a text's own, evenly spread over all texts: what is below a share of them is held out, for good."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def file_identity(path: str | os.PathLike[str], windows: int = 256, width: int = 65536) -> str:
    """A digest of a file's content: the whole of it when small, else its length and evenly spaced windows, first and last included.

    Compressed files end in checksums and shift when their content changes, so windows tell an edit without reading gigabytes;
    unlike a time stamp, the digest survives a copy.
    """
    length = Path(path).stat().st_size
    with open(path, "rb") as file:
        if length <= windows * width:
            return digest([str(length), file.read()])
        parts: list[str | bytes] = [str(length)]
        for window in range(windows):
            file.seek(window * (length - width) // (windows - 1))
            parts.append(file.read(width))
        return digest(parts)
