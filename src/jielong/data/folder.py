"""A folder of files of one kind: class sub-folders, captions beside the files, or a metadata file."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from jielong.core.json import JSON, printable
from jielong.data.content_hash import hash_file, remembered
from jielong.data.ledger import Cause, Ledger
from jielong.data.source import DataError, Item, Source
from jielong.data.splits import HELDOUT_WORDS
from jielong.data.text import decode_text
from jielong.data.words import CAPTION_NAMES, FILE_NAMES, LABEL_NAMES, check_size, first, read_json, read_metadata, several
from jielong.media.kinds.base import MediaKind, kinds

SPLITS = {"train": "train"} | dict.fromkeys(HELDOUT_WORDS, "heldout")
METADATA = ("metadata.csv", "metadata.jsonl")
SIDECARS = (".txt", ".json")


class FolderSource(Source):
    """Files of one kind below a folder, sorted by name, without hidden ones.

    - Folders ``train``, ``heldout``, ``test``, ``val`` or ``validation`` at the top are splits.
    - A metadata file (at the top or in a split's folder) lists the items with captions and labels.
    - Otherwise a ``.txt`` or ``.json`` file of the same name is an item's caption, and the top sub-folder is its class;
      an item in none has no class.

    The case of endings does not matter. Links to files are read, links to folders are not followed. Every file below the folder is an
    item, the words of an item, or in :attr:`unused`; hidden files and folders, whose names begin with a dot, are not counted.
    """

    def __init__(self, root: Path, kind: MediaKind) -> None:
        """List the folder.

        Raises:
            DataError: if it holds no item at all, or its metadata cannot be understood.
        """
        self.root, self.name, self.kind, self._kind, self.suffixes = root, str(root), kind.name, kind, kind.suffixes
        self.items, self.unused = [], Ledger()
        self._paths: list[Path] = []
        self._used: set[Path] = set()  # items, whole or broken, and their words
        listed: list[Path] = []
        files = walk(root, self.unused)
        for folder, split in _split_folders(root, files, self.suffixes).items():
            inside = files if folder == root else [path for path in files if path.is_relative_to(folder)]
            metadata = _metadata_of(folder)
            listed += metadata
            for path, item in self._listed(folder, metadata) if metadata else self._walked(folder, inside):
                self._take(path, item if split is None else replace(item, split=split))
        if not self.items and not any(entry.cause in (Cause.BROKEN, Cause.MISSING, Cause.WORDS) for entry in self.unused):
            if listed:
                raise DataError(f"{listed[0]} lists no {kind.noun[1]}: its column file_name holds their names{self.unused.explained()}")
            raise DataError(
                f"{root} holds no {kind.noun[1]}; expected {' '.join(sorted(self.suffixes))} files, class sub-folders, "
                f".tar shards or .parquet files{self.unused.explained()}"
            )
        for path in files:
            if path not in self._used:
                self.unused.add(*self._left(path, bool(listed)))

    def _take(self, path: Path, item: Item) -> None:
        self._used.add(path)
        cause, reason = self._fault(path)
        if cause is None:
            self._paths.append(path)
            self.items.append(item)
        else:
            self.unused.add(cause, item.key, reason)

    def _left(self, path: Path, listed: bool) -> tuple[Cause, str, str]:
        """Why a file is neither an item nor the words of one."""
        key, suffix = self._key(path), path.suffix.lower()
        if suffix in self.suffixes and not listed:
            return Cause.OUTSIDE, key, f"{path} is in none of the splits' folders, such as {self.root / 'train'}; move it into one"
        if suffix in self.suffixes:
            return Cause.UNLISTED, key, f"{path} is not listed in {' or '.join(METADATA)}"
        other = next((kind for kind in kinds().values() if suffix in kind.suffixes), None)
        if other is not None:
            choice = f"set data.kind to {other.name} to read it"
            return Cause.OTHER, key, f"{path} is a {other.noun[0]}, and {self._kind.noun[1]} are read; {choice}"
        if suffix in SIDECARS or path.name.lower() in METADATA:
            which = "the metadata file gives the captions" if listed else f"no {self._kind.noun[0]} beside it has this name"
            return Cause.ORPHAN, key, f"{path}: {which}"
        return Cause.ENDING, key, f"{path} ends in {suffix or 'nothing'}; {self._kind.noun[1]} end in {' '.join(sorted(self.suffixes))}"

    def blob(self, index: int) -> bytes:
        """The file's bytes.

        Raises:
            DataError: if it cannot be read any more.
        """
        try:
            return self._paths[index].read_bytes()
        except OSError as error:
            raise DataError(f"{self._paths[index]} cannot be read: {error.strerror}") from error

    @cached_property
    def content_hashes(self) -> list[str]:
        """The hash of every file."""
        found = remembered(f"{self.root}?{self.kind}", self._paths, [""] * len(self._paths), lambda index: [hash_file(self._paths[index])])
        return [hashes[0] for hashes in found]

    def _fault(self, path: Path) -> tuple[Cause | None, str]:
        """Why a file cannot be used, by its header."""
        if not path.is_file():
            return Cause.MISSING, f"{path} does not exist, but {' or '.join(METADATA)} lists it"
        try:
            self._kind.check_header(path)
        except ValueError as error:
            return Cause.BROKEN, str(error)
        return None, ""

    def _key(self, path: Path) -> str:
        return printable(path.relative_to(self.root).as_posix())

    def _walked(self, folder: Path, files: Sequence[Path]) -> Iterator[tuple[Path, Item]]:
        paths = [path for path in files if path.suffix.lower() in self.suffixes]
        beside = {(path.with_suffix(""), path.suffix.lower()): path for path in reversed(files) if path.suffix.lower() in SIDECARS}
        for path in paths:
            sidecars = [beside[key] for key in ((path.with_suffix(""), suffix) for suffix in SIDECARS) if key in beside]
            self._used.update(sidecars)
            try:
                words = _words(sidecars)
                label = None if path.parent == folder else printable(path.relative_to(folder).parts[0])
                item = Item(self._key(path), several(words, CAPTION_NAMES), first(words, LABEL_NAMES) or label)
            except (DataError, OSError) as error:
                self._used.add(path)
                self.unused.add(Cause.WORDS, self._key(path), str(error))
            else:
                yield path, item

    def _listed(self, folder: Path, metadata: Sequence[Path]) -> Iterator[tuple[Path, Item]]:
        if len(metadata) > 1:
            raise DataError(f"{folder} has {' and '.join(f.name for f in metadata)}; keep one of them")
        self._used.add(metadata[0])
        named: set[str] = set()
        for place, row in read_metadata(metadata[0], self.unused):
            name = posixpath.normpath((first(row, FILE_NAMES) or "").replace("\\", "/"))
            fault = f"{name} is named twice; the first row counts" if name in named else _outside(folder, name)
            if fault is not None:
                self.unused.add(Cause.ROW, place, f"{folder}: {place}: {fault}")
                continue
            named.add(name)
            known: JSON = {k: v for k, v in row.items() if k and k not in FILE_NAMES}
            item = Item(self._key(folder / name), several(row, CAPTION_NAMES), first(row, LABEL_NAMES), first(row, ("split",)), known)
            yield folder / name, item


def _outside(folder: Path, name: str) -> str | None:
    """Why a file that metadata name cannot be looked for; ``None`` when it can."""
    try:
        inside = (folder / name).parent.resolve().is_relative_to(folder.resolve())
        (folder / name).is_file()
    except (OSError, RuntimeError, ValueError) as error:
        return f"{name!r:.80} is no file's name: {error}"
    return None if inside else f"{name} lies outside of {folder}"


def _split_folders(root: Path, files: Sequence[Path], suffixes: frozenset[str]) -> dict[Path, str | None]:
    if _metadata_of(root):
        return {root: None}
    items = [path.relative_to(root) for path in files if path.suffix.lower() in suffixes or path.name.lower() in METADATA]
    tops = sorted({item.parts[0] for item in items})
    splits: dict[Path, str | None] = {root / top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
    both = {*splits.values()} == {*SPLITS.values()}  # other items lie outside of the splits
    return splits if splits and (both or len(splits) == len(tops)) else {root: None}


def _metadata_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower() in METADATA and path.is_file())


def walk(folder: Path, unused: Ledger | None = None) -> list[Path]:
    """Files at any depth, sorted, without hidden ones; what is neither a file nor a folder is recorded.

    A link to a file is a file; a link to a folder is recorded and not followed, so that no file is met twice and no loop is endless.
    """
    found: list[Path] = []
    unused, folders = Ledger() if unused is None else unused, [folder]
    while folders:
        current = folders.pop()
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            unused.add(Cause.SPECIAL, current.relative_to(folder).as_posix(), f"{current} cannot be listed: {error.strerror}")
            continue
        for entry in (each for each in entries if not each.name.startswith(".")):
            path = current / entry.name
            fault = _link_fault(path) if entry.is_symlink() else None
            if fault is not None:
                unused.add(Cause.LINK, path.relative_to(folder).as_posix(), fault)
            elif entry.is_dir():
                folders.append(path)
            elif entry.is_file():
                found.append(path)
            else:
                unused.add(Cause.SPECIAL, path.relative_to(folder).as_posix(), f"{path} is a pipe, a socket or a device")
    return sorted(found)


def _link_fault(path: Path) -> str | None:
    """Why a link is not read."""
    target = os.readlink(path)
    try:
        path.stat()
    except OSError as error:
        return f"{path} is a link to {target}, which cannot be read: {error.strerror}"
    if path.is_dir():
        return f"{path} is a link to the folder {target}, which is not followed; put the files here, or join that folder by a comma"
    return None


def _words(sidecars: Sequence[Path]) -> JSON:
    words: JSON = {}
    for path in sidecars:
        check_size(path.stat().st_size, str(path))
        if path.suffix.lower() == ".txt":
            words["caption"] = decode_text(path.read_bytes(), str(path))
        else:
            words = {**read_json(path.read_bytes(), str(path)), **words}
    return words
