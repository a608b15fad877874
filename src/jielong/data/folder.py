"""A folder of files of one kind: class sub-folders, captions beside the files, or a metadata file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from jielong.core.json import JSON
from jielong.data.content_hash import hash_file, remembered
from jielong.data.source import DataError, Item, Source
from jielong.data.words import CAPTION_NAMES, FILE_NAMES, LABEL_NAMES, first, read_json, read_metadata
from jielong.media.kinds.base import MediaKind

SPLITS = {"train": "train"} | dict.fromkeys(("heldout", "test", "val", "valid", "validation"), "heldout")
METADATA = ("metadata.csv", "metadata.jsonl")


class FolderSource(Source):
    """Files of one kind below a folder, sorted by name, without hidden ones.

    - Folders ``train``, ``heldout``, ``test``, ``val`` or ``validation`` at the top are splits.
    - A metadata file (at the top or in a split's folder) lists the items with captions and labels.
    - Otherwise a ``.txt`` or ``.json`` file of the same name is an item's caption, and the top sub-folder is its class
      when every item lies in one and there are at least two.

    Files without a readable header are left out and named in :attr:`broken`.
    """

    def __init__(self, root: Path, kind: MediaKind) -> None:
        """List the folder.

        Raises:
            DataError: if it holds no item at all, or its metadata cannot be understood.
        """
        self.root, self.name, self.kind, self._kind, self.suffixes = root, str(root), kind.name, kind, kind.suffixes
        self.items, self.broken = [], {}
        tops = _split_folders(root, self.suffixes)
        self._paths: list[Path] = []
        seen = 0
        for folder, split in tops.items():
            found = list(self._listed(folder) if _metadata_of(folder) else self._walked(folder))
            if split is not None:
                found = [(path, replace(item, split=split)) for path, item in found]
            for path, item in found:
                seen += 1
                reason = self.unreadable(path)
                if reason:
                    self.broken[item.key] = reason
                else:
                    self._paths.append(path)
                    self.items.append(item)
        if not seen:
            raise DataError(
                f"{root} holds no {kind.noun[1]}; expected {' '.join(sorted(self.suffixes))} files, class sub-folders, "
                ".tar shards or .parquet files"
            )

    def blob(self, index: int) -> bytes:
        """The file's bytes; empty if it has vanished, so that it counts as broken."""
        try:
            return self._paths[index].read_bytes()
        except OSError:
            return b""

    @cached_property
    def content_hashes(self) -> list[str]:
        """The hash of every file."""
        found = remembered(f"{self.root}?{self.kind}", self._paths, [""] * len(self._paths), lambda index: [hash_file(self._paths[index])])
        return [hashes[0] for hashes in found]

    def unreadable(self, path: Path) -> str | None:
        """Why a file cannot be used, by its header; ``None`` when it can."""
        if not path.is_file():
            return f"{path} is listed but does not exist"
        try:
            self._kind.check_header(path)
        except ValueError as error:
            return str(error)
        return None

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _walked(self, folder: Path) -> Iterator[tuple[Path, Item]]:
        paths = files_below(folder, self.suffixes)
        tops = {p.relative_to(folder).parts[0] for p in paths if p.parent != folder}
        classed = len(tops) > 1 and all(p.parent != folder for p in paths)
        for path in paths:
            words = _sidecar(path)
            label = first(words, LABEL_NAMES) or (path.relative_to(folder).parts[0] if classed else None)
            yield path, Item(self._key(path), first(words, CAPTION_NAMES), label)

    def _listed(self, folder: Path) -> Iterator[tuple[Path, Item]]:
        files = _metadata_of(folder)
        if len(files) > 1:
            raise DataError(f"{folder} has {' and '.join(f.name for f in files)}; keep one of them")
        named: set[str] = set()
        for row in read_metadata(files[0]):
            name = PurePosixPath((first(row, FILE_NAMES) or "").replace("\\", "/")).as_posix()
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{files[0]} names {name}, which lies outside of {folder}")
            if name in named:
                raise DataError(f"{files[0]} names {name} twice; a file has one row")
            named.add(name)
            known: JSON = {k: v for k, v in row.items() if k and k not in FILE_NAMES}
            yield path, Item(self._key(path), first(row, CAPTION_NAMES), first(row, LABEL_NAMES), first(row, ("split",)), known)


def _split_folders(root: Path, suffixes: frozenset[str]) -> dict[Path, str | None]:
    if _metadata_of(root):
        return {root: None}
    tops = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
    folders = {path: SPLITS.get(path.name.lower()) for path in tops if path.is_dir()}
    loose = any(path.suffix.lower() in suffixes for path in tops if path.is_file())
    if folders and not loose and all(folders.values()) and "train" in folders.values():
        return dict(folders)
    return {root: None}


def _metadata_of(folder: Path) -> list[Path]:
    return [folder / name for name in METADATA if (folder / name).is_file()]


def files_below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Files with one of the suffixes at any depth, sorted, without hidden ones."""
    files = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    return sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _sidecar(path: Path) -> JSON:
    text, structured = path.with_suffix(".txt"), path.with_suffix(".json")
    words = read_json(structured.read_bytes(), str(structured)) if structured.is_file() else {}
    if text.is_file():
        words = {**words, "caption": text.read_text("utf-8", "replace")}
    return words
