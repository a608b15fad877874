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
from jielong.data.source import DataError, Item, Source, digest
from jielong.data.splits import HELDOUT_WORDS
from jielong.data.text import decode_text
from jielong.data.words import CAPTION_NAMES, FILE_NAMES, LABEL_NAMES, check_size, first, read_json, read_metadata, several
from jielong.media.kinds.base import Content, MediaKind, kind_of_suffix

SPLITS = {"train": "train"} | dict.fromkeys(HELDOUT_WORDS, "heldout")
METADATA = ("metadata.csv", "metadata.jsonl")
SIDECARS = (".txt", ".json")


class FolderSource(Source):
    """Files of one kind below a folder, sorted by name, without hidden ones.

    - Folders ``train``, ``heldout``, ``test``, ``val`` or ``validation`` at the top are splits.
    - A metadata file (at the top or in a split's folder) lists the items with captions and labels.
    - Otherwise a ``.txt`` or ``.json`` file of the same name is an item's caption, and the top sub-folder is its class;
      an item in none has no class.

    Of videos, a folder of numbered pictures is an item as a file is. The case of endings does not matter. Links to files are read, links to
    folders are not followed. Every file below the folder is an item, the words of an item, or in :attr:`unused`; hidden files and folders,
    whose names begin with a dot, are not counted.
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
        self._folders = {path: inside for path, inside in kind.folders(files).items() if path != root}
        within = {path for inside in self._folders.values() for path in inside}
        files = sorted({*files, *self._folders} - within)
        for folder, split in _split_folders(root, [path for path in files if self._is_item(path) or path.name.lower() in METADATA]).items():
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
        if self._is_item(path) and not listed:
            return Cause.OUTSIDE, key, f"{path} is in none of the splits' folders, such as {self.root / 'train'}; move it into one"
        if self._is_item(path):
            return Cause.UNLISTED, key, f"{path} is not listed in {' or '.join(METADATA)}"
        other = kind_of_suffix(suffix)
        if other is not None:
            choice = f"set data.kind to {other.name} to read it"
            return Cause.OTHER, key, f"{path} is a {other.noun[0]}, and {self._kind.noun[1]} are read; {choice}"
        if suffix in SIDECARS or path.name.lower() in METADATA:
            which = "the metadata file gives the captions" if listed else f"no {self._kind.noun[0]} beside it has this name"
            return Cause.ORPHAN, key, f"{path}: {which}"
        return Cause.ENDING, key, f"{path} ends in {suffix or 'nothing'}; {self._kind.noun[1]} end in {' '.join(sorted(self.suffixes))}"

    def _is_item(self, path: Path) -> bool:
        return path.suffix.lower() in self.suffixes or path in self._folders

    def content(self, index: int) -> Content:
        """The path where its kind reads parts of files, or where a folder is the item; the file's bytes otherwise."""
        return self._paths[index] if self._kind.by_path else self.blob(index)

    def blob(self, index: int) -> bytes:
        """The file's bytes; of a folder those of its files, one after the other.

        Raises:
            DataError: if it cannot be read any more.
        """
        path = self._paths[index]
        try:
            return b"".join(each.read_bytes() for each in self._folders.get(path, [path]))
        except OSError as error:
            raise DataError(f"{self._paths[index]} cannot be read: {error.strerror}") from error

    @cached_property
    def content_hashes(self) -> list[str]:
        """The hash of every file."""
        files = [file for path in self._paths for file in self._folders.get(path, [path])]
        found = remembered(f"{self.root}?{self.kind}", files, [""] * len(files), lambda index: [hash_file(files[index])])
        hashes = {file: each[0] for file, each in zip(files, found, strict=True)}
        return [digest(hashes[file] for file in self._folders[path]) if path in self._folders else hashes[path] for path in self._paths]

    def _fault(self, path: Path) -> tuple[Cause | None, str]:
        """Why a file cannot be used, by its header."""
        if not path.is_file() and path not in self._folders:
            return Cause.MISSING, f"{path} does not exist, but {' or '.join(METADATA)} lists it"
        try:
            self._kind.check_header(path)
        except ValueError as error:
            return Cause.BROKEN, str(error)
        return None, ""

    def _key(self, path: Path) -> str:
        return printable(path.relative_to(self.root).as_posix())

    def _walked(self, folder: Path, files: Sequence[Path]) -> Iterator[tuple[Path, Item]]:
        paths = [path for path in files if self._is_item(path)]
        beside = {(path.with_suffix(""), path.suffix.lower()): path for path in reversed(files) if path.suffix.lower() in SIDECARS}
        for path in paths:
            stem = path if path in self._folders else path.with_suffix("")
            sidecars = [beside[key] for key in ((stem, suffix) for suffix in SIDECARS) if key in beside]
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


def _split_folders(root: Path, items: Sequence[Path]) -> dict[Path, str | None]:
    """Folders whose name is that of a split and the splits, if all ``items`` are in them, or in both; otherwise the root."""
    if _metadata_of(root):
        return {root: None}
    items = [path.relative_to(root) for path in items]
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
