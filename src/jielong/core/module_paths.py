"""Patterns of the names of a model's modules, as settings give them.

A pattern is a path of names with dots, such as ``backbone.blocks.0-11`` or ``*.attention``: a name may have ``*`` and ``?``, and ``a-b``
are the numbers from ``a`` to ``b``. It means the module of that path and everything below. ``layers`` is another word for ``blocks``, as
recipes count them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import islice, product

ModulePath = tuple[str, ...]
_RANGE = re.compile(r"(\d+)-(\d+)")
_MOST = 10_000
"""Numbers of a range, and paths of a pattern, at most."""
_SAME = {"layers": "blocks"}
_LISTED = 12


def path_of(name: str) -> ModulePath:
    """The path of a module's or a tensor's name."""
    return tuple(name.split("."))


def is_below(path: ModulePath, pattern: ModulePath) -> bool:
    """Whether a path is that of a pattern, or below it."""
    names = zip(path, pattern, strict=False)
    return len(path) >= len(pattern) and all(fnmatchcase(_SAME.get(name, name), _SAME.get(each, each)) for name, each in names)


def is_at(path: ModulePath, pattern: ModulePath) -> bool:
    """Whether a path is that of a pattern."""
    return len(path) == len(pattern) and is_below(path, pattern)


def expanded(pattern: str, known: Sequence[ModulePath]) -> list[ModulePath]:
    """The paths that a pattern means, one for each number of its ranges.

    Args:
        pattern: As above.
        known: Paths of the model.

    Raises:
        ValueError: if nothing is known at or below one of them; the text names what there is.
    """
    paths = list(islice(product(*map(_numbers, path_of(pattern))), _MOST))
    missing = [path for path in paths if not any(is_below(name, path) for name in known)]
    if not missing:
        return paths
    where = "nothing in this model" if len(missing) == len(paths) else f"nothing at {'.'.join(missing[0])}"
    raise ValueError(f"{pattern!r} matches {where}; {_what_there_is(missing[0], known)}")


def _numbers(part: str) -> list[str]:
    found = _RANGE.fullmatch(part)
    if found is None:
        return [part]
    first, last = int(found[1]), int(found[2])
    return [str(number) for number in range(first, min(last, first + _MOST) + 1)] or [part]


def _what_there_is(path: ModulePath, known: Sequence[ModulePath]) -> str:
    """The names beside the first one of a path that means nothing, with the most similar ones."""
    depth = next(depth for depth in range(1, len(path) + 1) if not any(is_below(name, path[:depth]) for name in known))
    above = path[: depth - 1]
    beside = list(dict.fromkeys(name[depth - 1] for name in known if len(name) >= depth and is_below(name, above)))
    whole = ".".join(above) or "the model"
    if not beside:
        return f"{whole} has nothing inside"
    numbers = len(beside) > 2 and all(name.isdigit() for name in beside)
    more = f" and {len(beside) - _LISTED} more" if len(beside) > _LISTED else ""
    there = f"{beside[0]} to {beside[-1]}" if numbers else ", ".join(beside[:_LISTED]) + more
    near = [".".join((*above, each)) for each in difflib.get_close_matches(path[depth - 1], beside, n=3, cutoff=0.5)]
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"{whole} has {there}"
