"""Fashion-MNIST and its kin: the idx files of the MNIST family."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from jielong.data.content_hash import hash_bytes
from jielong.data.ledger import Ledger
from jielong.data.source import DataError, Item, Source
from jielong.media.images import Array, encode

FASHION_CLASSES = ["t-shirt or top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_MOST_TIMES_LONGER = 1_032
"""Largest compression ratio of gzip."""
_PARTS = {"train": "train", "heldout": "t10k"}


class IdxSource(Source):
    """Grey pictures of ``train-`` and ``t10k-`` files (``images-idx3``, ``labels-idx1-ubyte``), plain or ``.gz``; t10k is held out."""

    def __init__(self, folder: Path, name: str, classes: Sequence[str]) -> None:
        """Read the files.

        Raises:
            DataError: if a file is missing, truncated or not an idx file, or pictures and labels do not match.
        """
        self.name, self.unused, self.classes = name, Ledger(), list(classes)
        self.writing = all(name.isdigit() for name in classes)
        self.items = []
        pictures: list[Array] = []
        for split, part in _PARTS.items():
            images = _read(folder, f"{part}-images-idx3-ubyte", 3)
            labels = _read(folder, f"{part}-labels-idx1-ubyte", 1)
            if len(images) != len(labels):
                raise DataError(f"{folder}: {part} has {len(images)} pictures but {len(labels)} labels")
            if labels.size and labels.max() >= len(classes):
                raise DataError(f"{folder}: {part} has label {labels.max()}, but there are {len(classes)} classes")
            if pictures and images.shape[1:] != pictures[0].shape[1:]:
                raise DataError(f"{folder}: {part} pictures are {images.shape[1:]}, the others {pictures[0].shape[1:]}")
            names = [classes[label] for label in labels.tolist()]
            self.items += [Item(f"{part}/{i}", captions=(word,), label=word, split=split) for i, word in enumerate(names)]
            pictures.append(images)
        self._pictures = np.concatenate(pictures)
        self.native, self.channels = {"size": self._pictures.shape[1:]}, 1

    def blob(self, index: int) -> bytes:
        """The picture as PNG."""
        return encode(self.content(index))

    def content(self, index: int) -> Image.Image:
        """One picture of the array, no decoding needed."""
        return Image.fromarray(self._pictures[index])

    @cached_property
    def content_hashes(self) -> list[str]:
        """The hash of every picture's pixels."""
        return [hash_bytes(picture.tobytes()) for picture in self._pictures]


def _read(folder: Path, name: str, dimensions: int) -> Array:
    names = (name, name.replace("-idx", ".idx"))  # both spellings circulate
    path = next((p for n in names for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None)
    if path is None:
        raise DataError(f"{folder} has no {name} (or {name}.gz)")
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
                raise DataError(f"{path} is not an idx file of bytes in {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            count = math.prod(shape)
            if count > _MOST_TIMES_LONGER * path.stat().st_size:
                raise DataError(f"{path} should hold {count:,} bytes after its header, more than a file of its size can")
            data = file.read(count + 1)  # no more is decompressed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    if len(data) != count:
        found = "more" if len(data) > count else f"{len(data):,}"
        raise DataError(f"{path} should hold {count:,} bytes after its header, but holds {found}; it is truncated or damaged")
    return np.frombuffer(data, np.uint8).reshape(shape)


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds the files of the MNIST family."""
    return any(folder.glob("train-images*idx3-ubyte*"))


def open_idx_folder(folder: Path) -> IdxSource:
    """The files of the MNIST family: Fashion-MNIST's classes if the folder's name says ``fashion``, else digits; raises ``DataError``."""
    return IdxSource(folder, str(folder), FASHION_CLASSES if "fashion" in folder.name.lower() else [str(n) for n in range(10)])


def open_fashion_mnist(folder: Path = FASHION_FOLDER) -> IdxSource:
    """Fashion-MNIST (28 x 28 grey, ten classes) from where Debian installs it, or from a folder of the original files.

    Raises:
        DataError: if it is not there; the text says how to get it.
    """
    if not folder.is_dir():
        raise DataError(
            f"fashion-mnist is not at {folder}; on Debian: apt install dataset-fashion-mnist; "
            "elsewhere give the path of a folder with the original four files (train-images-idx3-ubyte.gz, ...)"
        )
    return IdxSource(folder, "fashion-mnist", FASHION_CLASSES)
