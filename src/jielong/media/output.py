"""Where results are written: a folder, or a file whose ending is its format; a record of what a run wrote, so that the next replaces it."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jielong.core.files import staged, write_bytes
from jielong.core.medium import Medium
from jielong.core.storage import check_room
from jielong.core.version import __version__
from jielong.media.kinds.base import kind_of
from jielong.media.results import ResultItem, Results

PROVENANCE = "provenance.json"
_ENDING = re.compile(r"\.([A-Za-z][A-Za-z0-9]{0,5}|3gp)")
_OWN = r"\d{4,}\.\w+|sheet\.png|trace\.(json|webp)|provenance\.json"
_LARGEST = 1 << 26
"""Most bytes of a record that are read."""
_NAMED = 3

Extra = Callable[[Path, str], None]
"""Writes further files of a run: into a folder, with a stem as the beginning of their names."""


class OutputError(ValueError):
    """Results cannot be written there: the ending is of no format of the medium, or files of another origin are in the way."""


@dataclass(frozen=True)
class Output:
    """Where the results of a run go.

    A folder gets a file an item, the sample grid of several, and ``provenance.json``. A file gets the one item; of several it gets all, on
    one sample grid or one after the other, and ``NAME-0000.ENDING``, ... beside it get one each, with ``NAME.ENDING.json`` as the record.

    Attributes:
        path: The folder or the file.
        medium: What is written.
        single: Whether it is a file.
    """

    path: Path
    medium: Medium
    single: bool

    @staticmethod
    def of(path: Path, medium: Medium) -> Output:
        """Check a place before the work; a name with an ending is a file, unless it is a folder already.

        Raises:
            OutputError: if the ending is of no format of the medium, or the place holds files that look like results and are not those of
                the last run there.
            MissingLibraryError: if a library of the format is not installed.
            StorageError: if nothing can be written there.
        """
        output = Output(path, medium, not path.is_dir() and _ENDING.fullmatch(path.suffix) is not None)
        if output.single:
            try:
                kind_of(medium).check_written(path, medium)
            except ValueError as error:
                raise OutputError(str(error)) from None
        check_room(output.record, 0)
        output.former()
        return output

    @property
    def folder(self) -> Path:
        """The folder that files are written to."""
        return self.path.parent if self.single else self.path

    @property
    def record(self) -> Path:
        """The record of a run's files."""
        return self.folder / (f"{self.path.name}.json" if self.single else PROVENANCE)

    def name_of(self, index: int) -> str:
        """The file of one of several items beside the file of all."""
        return f"{self.path.stem}-{index:04d}{self.path.suffix}"

    def former(self) -> list[Path]:
        """Files of the last run there, which are as it wrote them.

        Raises:
            OutputError: if other files have the names of results.
        """
        recorded = self._recorded()
        ours, others = list[Path](), list[str]()
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            name, plain = path.name, path.is_file() and not path.is_symlink()
            if plain and recorded and (path == self.record or (name in recorded and recorded[name] == _digest(path))):
                ours.append(path)
            elif self._looks_like_result(name):
                others.append(name)
        if others:
            more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
            raise OutputError(
                f"{self.folder} holds files that are not of the last run there, or were changed since: {', '.join(others[:_NAMED])}{more}; "
                "results of two runs would be mixed: choose another place, or move them"
            )
        return ours

    def _recorded(self) -> dict[str, str]:
        """Names of the last run's files, with their SHA-256; empty without a record."""
        try:
            with open(self.record, "rb") as file:
                files = json.loads(file.read(_LARGEST))["files"]
            return {name: digest for name, digest in files.items() if isinstance(digest, str)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return {}

    def _looks_like_result(self, name: str) -> bool:
        stem, suffix = re.escape(self.path.stem), re.escape(self.path.suffix)
        own = rf"{stem}-\d{{4,}}{suffix}|{stem}-trace\.(json|webp)|{re.escape(self.record.name)}"
        return re.fullmatch(own if self.single else _OWN, name) is not None

    def write(self, results: Results[ResultItem], origin: Mapping[str, object], extra: Extra | None = None, grid: bool = True) -> str:
        """Write all files or none, and remove what is left of the last run there.

        Args:
            results: The items.
            origin: Further contents of the record, such as checkpoint and seed.
            extra: Writes further files.
            grid: Whether a folder of several gets a sample grid.

        Returns:
            What was written besides the obvious, and what was removed, in a sentence; may be empty.
        """
        with staged(self.folder) as folder:
            if not self.single:
                results.save(folder)
                if grid and len(results) > 1:
                    results.save(folder / "sheet.png")
            elif len(results) == 1:
                results[0].save(folder / self.path.name)
            else:
                results.save(folder / self.path.name)
                for index, item in enumerate(results):
                    item.save(folder / self.name_of(index))
            if extra is not None:
                extra(folder, f"{self.path.stem}-trace" if self.single else "trace")
            written = {path.name: _digest(path) for path in sorted(folder.iterdir())}
            if not self.single or len(written) > 1:
                described = {"program": f"jielong {__version__}", **origin, "captions": results.captions, "files": written}
                write_bytes(folder / self.record.name, (json.dumps(described, ensure_ascii=False, indent=1) + "\n").encode())
            removed = self._remove_former({path.name for path in folder.iterdir()})
        several = self.single and len(results) > 1
        beside = f"{self.path.name} has all {len(results)}, {self.name_of(0)} to {self.name_of(len(results) - 1)} one each"
        gone = f"removed {removed} file{'s' * (removed > 1)} of the last run from {self.folder}"
        return "; ".join(text for text, said in ((beside, several), (gone, removed)) if said)

    def _remove_former(self, replaced: set[str]) -> int:
        """Remove the last run's files but those that are ``replaced``; how many."""
        try:
            former = [path for path in self.former() if path.name not in replaced]
        except OutputError as error:  # they came while this run worked
            warnings.warn(f"{error}. Nothing of it is removed", stacklevel=3)
            return 0
        for path in former:
            path.unlink()
        return len(former)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
