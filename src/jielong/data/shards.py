"""WebDataset shards: tar files in which the members of one sample share a name."""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from jielong.core.json import JSON, printable
from jielong.data.content_hash import hash_bytes, remembered
from jielong.data.ledger import Cause, Ledger
from jielong.data.patterns import short_names
from jielong.data.source import DataError, Item, Source, digest
from jielong.data.tar_members import tar_members
from jielong.data.text import decode_text
from jielong.data.words import CAPTION_NAMES, LABEL_NAMES, check_size, first, read_json, several
from jielong.media.kinds.base import MediaKind

_COMPOUND = re.compile(r"[A-Za-z_][\w-]*")


class ShardSource(Source):
    """Samples of one or more uncompressed tar shards, indexed once so that any sample can be read at random.

    A sample is the members that share a name: an item, and beside it ``.txt`` (caption), ``.json`` (caption, label) or ``.cls`` (label).
    The name is everything before the last dot, so that names may hold dots (``22.05.png``). As WebDataset has it, an ending may itself hold
    dots: ``a.seg.png`` is the member ``seg.png`` of the sample ``a`` where the shard has members ``a.png``, ``a.txt`` or the like, and
    ``seg`` begins with a letter. A sample without an item, or whose item has no readable header, is in :attr:`unused`, as are its further
    items; members whose names begin with a dot are not counted.
    """

    def __init__(self, files: Sequence[Path], name: str, kind: MediaKind) -> None:
        """Index the shards.

        Raises:
            DataError: if a file is not a tar file, or no shard holds an item.
        """
        self.name, self.files, self.kind, self._kind = name, list(files), kind.name, kind
        self.items, self.unused, self._names = [], Ledger(), short_names(files)
        self._places: list[tuple[int, int, int]] = []  # (file, offset, length)
        for number, path in enumerate(self.files):
            self._index(number, path)
        if not self.items and not self.unused:
            expected = ", ".join(sorted(kind.suffixes)[:4])
            raise DataError(f"{name}: no shard holds {kind.noun[1]} ({len(self.files)} tar files, members should end in {expected}, ...)")

    def _index(self, number: int, path: Path) -> None:
        prefix = f"{self._names[number]}:" if len(self.files) > 1 else ""
        samples = self._samples(path, self._members(path))
        if not samples:
            return
        with open(path, "rb") as file:
            for stem, sample in samples.items():
                self._take(number, file, printable(prefix + stem), sample)

    def _take(self, number: int, file: BinaryIO, key: str, sample: Mapping[str, tarfile.TarInfo]) -> None:
        """Use one sample, or record why not."""
        path = self.files[number]
        length = path.stat().st_size
        cut = next((member.name for member in sample.values() if member.offset_data + member.size > length), None)
        if cut is not None:
            self.unused.add(Cause.BROKEN, key, f"{path}: {cut} is cut off at the end of the shard")
            return
        plain_first = sorted(sample.items(), key=lambda each: each[0].count("."))
        items = [member for suffix, member in plain_first if _last(suffix) in self._kind.suffixes]
        if not items:
            reason = f"{path}: sample {key} has no {self._kind.noun[0]}, only {' '.join(sorted(sample))}"
            self.unused.add(Cause.NO_ITEM, key, reason)
            return
        try:
            item = _item(file, key, plain_first, path)
        except DataError as error:
            self.unused.add(Cause.WORDS, key, str(error))
            return
        file.seek(items[0].offset_data)
        try:
            self._kind.check_header(file.read(items[0].size), key)
        except ValueError as error:
            self.unused.add(Cause.BROKEN, key, str(error))
            return
        for spare in items[1:]:
            self.unused.add(
                Cause.SPARE, spare.name, f"{path}: {spare.name} is not read, as {items[0].name} is the item of the sample {key}"
            )
        self._places.append((number, items[0].offset_data, items[0].size))
        self.items.append(item)

    def _samples(self, path: Path, members: Sequence[tarfile.TarInfo]) -> dict[str, dict[str, tarfile.TarInfo]]:
        """Samples by name, each with its members by ending in lower case."""
        split = [(*_split(member.name), member) for member in members]
        stems = {stem for stem, _, _ in split}
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        for name, ending, member in split:
            stem, suffix = name, ending
            while (parts := stem.rpartition("."))[0] in stems and _COMPOUND.fullmatch(parts[2]):
                stem, suffix = parts[0], f".{parts[2].lower()}{suffix}"
            sample = samples.setdefault(stem, {})
            if sample.setdefault(suffix, member) is not member:
                self.unused.add(Cause.SPARE, member.name, f"{path}: {member.name} occurs twice; the first is read")
        return samples

    def _members(self, path: Path) -> list[tarfile.TarInfo]:
        """The files of a shard without hidden ones; other members, and what is damaged, are recorded."""
        found: list[tarfile.TarInfo] = []
        try:
            for member in tar_members(path):
                if os.path.basename(member.name).startswith(".") or member.isdir():
                    continue
                if member.isfile() and not member.issparse():
                    found.append(member)
                else:
                    cause, what = (Cause.LINK, "a link") if member.islnk() or member.issym() else (Cause.SPECIAL, "not a plain file")
                    self.unused.add(cause, member.name, f"{path}: {member.name} is {what}; store the file itself")
        except tarfile.TarError as error:
            if not found and len(self.files) == 1:
                raise DataError(
                    f"{path} is not an uncompressed tar file: {error}; unpack .tar.gz shards first, they cannot be read at random"
                ) from error
            self.unused.add(Cause.BROKEN, f"{path.name} (end)", f"{path} is damaged after {len(found)} members: {error}")
        except OSError as error:
            if len(self.files) == 1:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            self.unused.add(Cause.BROKEN, path.name, f"{path} cannot be read: {error.strerror}")
        return found

    def blob(self, index: int) -> bytes:
        """The bytes of one item.

        Raises:
            DataError: if the shard cannot be read any more.
        """
        number, offset, length = self._places[index]
        try:
            with open(self.files[number], "rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise DataError(f"{self.items[index].key}: {self.files[number]} cannot be read: {error.strerror}") from error

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


def _split(name: str) -> tuple[str, str]:
    """A member's name before its last dot, and its ending in lower case."""
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower()


def _last(suffix: str) -> str:
    return f".{suffix.rpartition('.')[2]}"


def _item(file: BinaryIO, key: str, members: Sequence[tuple[str, tarfile.TarInfo]], path: Path) -> Item:
    """The words of a sample; of two members with the same ending the first counts."""
    beside = {_last(suffix): member for suffix, member in reversed(members)}
    words: JSON = {}
    for suffix in (".txt", ".cls", ".json"):
        if suffix in beside:
            check_size(beside[suffix].size, f"{path}: {beside[suffix].name}")
            file.seek(beside[suffix].offset_data)
            words = _with_words(words, suffix, file.read(beside[suffix].size), f"{path}: {beside[suffix].name}")
    return Item(key, several(words, CAPTION_NAMES), first(words, LABEL_NAMES), first(words, ("split",)))


def _with_words(words: JSON, suffix: str, data: bytes, name: str) -> JSON:
    if suffix == ".json":
        return {**read_json(data, name), **words}
    return {**words, "caption" if suffix == ".txt" else "label": decode_text(data, name)}
