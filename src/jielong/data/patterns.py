"""Names of files with braces and wildcards: ``shard-{000..127}.tar``, ``{train,more}.tar``, ``*.parquet``."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from jielong.data.source import DataError

MOST_FILES = 100_000
"""Most names of a pattern's braces."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_NESTED = re.compile(r"\{[^{}]*\{[^{}]*\}[^{}]*\}")


def expand(pattern: str) -> list[Path]:
    """The files that a folder (its ``.tar`` and ``.parquet`` files), a path, or a pattern with ``{a,b}``, ``{000..009}``, ``*`` names.

    Raises:
        DataError: if a brace names files that do not exist, or more than :data:`MOST_FILES`, or braces are nested.
    """
    path = Path(pattern)
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix.lower() in (".tar", ".parquet") and not p.name.startswith(".") and p.is_file())
    if path.is_file():
        return [path]
    if not any(mark in pattern for mark in "{*?["):
        return []
    files: list[Path] = []
    for one in without_braces(pattern):
        found = [Path(one)] if Path(one).is_file() else sorted(map(Path, glob.glob(one, recursive=True)))
        if not found:
            raise DataError(f"{pattern}: no file matches {one}")
        files += found
    return list(dict.fromkeys(files))  # several braces and wildcards may name one file


def short_names(files: Sequence[Path]) -> list[str]:
    """A name of each file in keys and messages: its file name, or where two are equal, the paths below their common folder."""
    names = [file.name for file in files]
    if len({*names}) == len(names):
        return names
    return [file.relative_to(os.path.commonpath([each.parent for each in files])).as_posix() for file in files]


def without_braces(pattern: str) -> list[str]:
    """The names of a pattern, each brace replaced by one of its choices.

    Raises:
        DataError: as :func:`expand`.
    """
    if _NESTED.search(pattern):
        raise DataError(f"{pattern}: braces inside braces are not read; write every name in one brace, as {{a,b}}")
    between = _BRACES.split(pattern)  # text, brace, text, brace, ..., text
    choices = [_choices(inside, pattern) for inside in between[1::2]]
    count = math.prod(len(each) for each in choices)
    if count > MOST_FILES:
        raise DataError(f"{pattern} names {count:,} files, and at most {MOST_FILES:,} are opened; join shards into fewer")
    ends = between[::2]
    return ["".join(text for pair in zip(ends, (*chosen, ""), strict=True) for text in pair) for chosen in product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    span = _RANGE.fullmatch(inside)
    if span is None:
        return inside.split(",")
    first, last = int(span[1]), int(span[2])
    if last < first:
        raise DataError(f"{pattern}: the range {{{inside}}} is empty; write {{{span[2]}..{span[1]}}}")
    if last - first >= MOST_FILES:
        raise DataError(f"{pattern}: {{{inside}}} names {last - first + 1:,} files, and at most {MOST_FILES:,} are opened")
    return [str(number).zfill(len(span[1])) for number in range(first, last + 1)]
