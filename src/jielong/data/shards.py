"""WebDataset shards: tar files in which the members of one sample share a name up to the first dot."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

from jielong.core.json import JSON
from jielong.data.content_hash import hash_bytes, remembered
from jielong.data.source import DataError, Item, Source, digest
from jielong.data.words import CAPTION_NAMES, LABEL_NAMES, first, read_json
from jielong.media.kinds.base import MediaKind

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_TEXT_LIMIT = 1 << 20  # a caption file beyond this is not a caption


class ShardSource(Source):
    """Samples of one or more uncompressed tar shards, indexed once so that any sample can be read at random.

    A sample is the members that share a name up to the first dot of the file name: an item, and beside it ``.txt`` (caption), ``.json``
    (caption, label) or ``.cls`` (label). Samples without an item, or whose item has no readable header, are named in :attr:`broken`.
    """

    def __init__(self, files: Sequence[Path], name: str, kind: MediaKind) -> None:
        """Index the shards.

        Raises:
            DataError: if a file is not a tar file, or no shard holds an item.
        """
        self.name, self.files, self.kind, self._kind = name, list(files), kind.name, kind
        self.items, self.broken = [], {}
        self._places: list[tuple[int, int, int]] = []  # (file, offset, length)
        for number, path in enumerate(self.files):
            self._index(number, path)
        if not self.items and not self.broken:
            expected = ", ".join(sorted(kind.suffixes)[:4])
            raise DataError(f"{name}: no shard holds {kind.noun[1]} ({len(self.files)} tar files, members should end in {expected}, ...)")

    def _index(self, number: int, path: Path) -> None:
        length = path.stat().st_size
        prefix = f"{path.name}:" if len(self.files) > 1 else ""
        with open(path, "rb") as file:
            for stem, members in self._samples(path):
                key = prefix + stem
                words: JSON = {}
                place: tuple[int, int, int] | None = None
                for suffix, member in members.items():
                    if member.offset_data + member.size > length:
                        self.broken[key] = f"{path}: {member.name} is cut off at the end of the shard"
                        break
                    file.seek(member.offset_data)
                    if suffix in self._kind.suffixes:
                        place = place or (number, member.offset_data, member.size)
                    elif suffix in (".txt", ".cls", ".json") and member.size <= _TEXT_LIMIT:
                        words = _with_words(words, suffix, file.read(member.size), f"{path}: {member.name}")
                if key in self.broken:
                    continue
                if place is None:
                    self.broken[key] = f"{path}: sample {stem} has no {self._kind.noun[0]}, only {' '.join(sorted(members))}"
                    continue
                file.seek(place[1])
                try:
                    self._kind.check_header(file.read(place[2]), key)
                except ValueError as error:
                    self.broken[key] = str(error)
                    continue
                self._places.append(place)
                self.items.append(Item(key, first(words, CAPTION_NAMES), first(words, LABEL_NAMES), first(words, ("split",))))

    def _samples(self, path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                while True:
                    try:
                        member = archive.next()
                    except tarfile.TarError as error:
                        self.broken[f"{path.name} (end)"] = f"{path} is truncated or damaged after {len(samples)} samples: {error}"
                        break
                    if member is None:
                        break
                    folder, base = os.path.split(member.name)
                    if member.isfile() and not base.startswith("."):
                        stem, _, extension = base.partition(".")
                        suffix = "." + extension.lower().rpartition(".")[2]
                        samples.setdefault(os.path.join(folder, stem), {}).setdefault(suffix, member)
        except (tarfile.TarError, EOFError) as error:
            raise DataError(
                f"{path} is not an uncompressed tar file: {error}; unpack .tar.gz shards first, they cannot be read at random"
            ) from error
        yield from samples.items()

    def blob(self, index: int) -> bytes:
        """The bytes of one item; empty if the shard has vanished."""
        number, offset, length = self._places[index]
        try:
            with open(self.files[number], "rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            return b""

    @cached_property
    def content_hashes(self) -> list[str]:
        """The hash of every item's member."""
        inside: list[list[tuple[int, int]]] = [[] for _ in self.files]
        for number, offset, length in self._places:
            inside[number].append((offset, length))

        def compute(number: int) -> list[str]:
            with contextlib.suppress(OSError), open(self.files[number], "rb") as file:
                return [hash_bytes(file.read(length)) for offset, length in inside[number] if file.seek(offset) >= 0]
            return [hash_bytes(b"")] * len(inside[number])

        views = [digest(map(str, places)) for places in inside]
        return list(chain.from_iterable(remembered(f"{self.files[0].parent / self.name}", self.files, views, compute)))


def _with_words(words: JSON, suffix: str, data: bytes, name: str) -> JSON:
    if suffix == ".json":
        return {**read_json(data, name), **words}
    return {**words, "caption" if suffix == ".txt" else "label": data.decode("utf-8", "replace").strip()}


def expand(pattern: str) -> list[Path]:
    """The files that a folder (its ``.tar`` and ``.parquet`` files), a path, or a pattern with ``{a,b}``, ``{000..009}``, ``*`` names.

    Raises:
        DataError: if a brace names files that do not exist.
    """
    path = Path(pattern)
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix.lower() in (".tar", ".parquet") and not p.name.startswith("."))
    if path.is_file():
        return [path]
    if not any(mark in pattern for mark in "{*?["):
        return []
    files: list[Path] = []
    for one in _without_braces(pattern):
        found = sorted(map(Path, glob.glob(one, recursive=True)))
        if not found:
            raise DataError(f"{pattern}: no file matches {one}")
        files += found
    return files


def _without_braces(pattern: str) -> list[str]:
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    span = _RANGE.fullmatch(match[1])
    choices = [str(n).zfill(len(span[1])) for n in range(int(span[1]), int(span[2]) + 1)] if span else match[1].split(",")
    return [whole for choice in choices for whole in _without_braces(pattern[: match.start()] + choice + pattern[match.end() :])]
