"""One fault of settings in a file as a sentence: the place, the reason, and the nearest valid choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic_core import ErrorDetails

from jielong.config.registry import Config, Schema, below, keys_of, nearest
from jielong.config.yaml_text import Lines
from jielong.core.text import shorten, shown


def explain(error: ErrorDetails, lines: Lines, origin: str, schema: Schema, also: Sequence[str] = ()) -> str:
    """A validation error as a sentence.

    Args:
        error: As pydantic describes it.
        lines: File and line of every key.
        origin: The file, for keys that stand in none.
        schema: Of the whole file.
        also: Keys at its top that are read before the settings are.
    """
    where = tuple(str(part) for part in error["loc"])
    path = where
    while path and path not in lines:
        path = path[:-1]
    place, name = lines.get(path, origin), shorten(".".join(where), 200)
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key {name!r}; {nearest(where[-1], _keys(schema, where[:-1], also))}"
    if error["type"] == "missing":
        return f"{place}: {name!r} is missing"
    reason = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], Mapping | Config) else f" (it is {shown(error['input'])})"
    return f"{place}: {name}: {reason}{given}" if name else f"{place}: {reason}"


def _keys(schema: Schema, path: tuple[str, ...], also: Sequence[str]) -> list[str]:
    """Keys allowed at a path."""
    for key in path:
        schema = below(schema, key)
    return keys_of(schema) + (list(also) if not path else [])
