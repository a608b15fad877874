"""One hostile case: files to write, and a command to run on them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """Files and a command.

    Attributes:
        family: Pictures, sound, ...
        name: Unique within the family.
        culprit: A word that a refusal must hold: the file's name, or the key's.
        write: Writes the files into a folder.
        command: The words after ``jielong``.
        whole: Nothing is wrong, and it must be accepted: a check of the corpus itself.
    """

    family: str
    name: str
    culprit: str
    write: Callable[[Path], None]
    command: tuple[str, ...]
    whole: bool = False


@dataclass(frozen=True)
class Material:
    """Whole files, from which damaged ones are made.

    Attributes:
        root: The folder of everything.
    """

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name


Family = Callable[[Material, random.Random, int], Iterator[Case]]
"""Makes about so many cases."""

BRIEF = ("train.samples=4", "train.batch=2", "train.warmup=0", "train.ema=0", "train.sample_every=99", "train.save_every=99")


def brief(*more: str) -> tuple[str, ...]:
    """``--set`` of a training of two steps."""
    return tuple(word for each in (*BRIEF, *more) for word in ("--set", each))


def put(name: str, data: bytes, beside: Path | None = None) -> Callable[[Path], None]:
    """Write one file, with a copy of a folder around it."""

    def write(folder: Path) -> None:
        if beside is not None:
            shutil.copytree(beside, folder, dirs_exist_ok=True)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return write
