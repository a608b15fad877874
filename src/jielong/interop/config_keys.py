"""Configurations of other programs, key by key: each is read, has one value that is supported, or is known to have no effect.

A key that no table has, and a value that nothing here corresponds to, are refused by name: weights that are read as a model which differs
in one setting give wrong output and no error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jielong.core.json import JSON
from jielong.core.text import shorten
from jielong.training.checkpoint import CheckpointError

_UNSET = object()


@dataclass(frozen=True)
class Read:
    """A key whose value becomes a setting.

    Attributes:
        default: Its value in folders that have no such key; refused there if not given.
        check: Whether a value can be read.
        wanted: What the check asks for, in words.
    """

    default: object = _UNSET
    check: Callable[[object], bool] = lambda value: True
    wanted: str = ""


@dataclass(frozen=True)
class Only:
    """A key of which these values alone have a counterpart.

    Attributes:
        values: They; a folder without the key has the first.
        reason: What another value would mean, in words.
    """

    values: tuple[object, ...]
    reason: str = ""


@dataclass(frozen=True)
class NoEffect:
    """A key that changes no output.

    Attributes:
        reason: Why.
    """

    reason: str


Key = Read | Only | NoEffect


def whole(default: object = _UNSET) -> Read:
    """A key that is a whole number of 1 or more."""
    return Read(default, lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1, "a whole number of 1 or more")


def number(default: object = _UNSET) -> Read:
    """A key that is a number above 0."""
    return Read(default, lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value > 0, "a number above 0")


class Values(dict[str, object]):
    """Checked values of keys, by their types."""

    def integer(self, name: str) -> int:
        """A whole number."""
        value = self[name]
        assert isinstance(value, int)  # by the key's check, as below
        return value

    def real(self, name: str) -> float:
        """A number."""
        value = self[name]
        assert isinstance(value, int | float)
        return float(value)

    def entries(self, name: str) -> tuple[object, ...]:
        """A list."""
        value = self[name]
        assert isinstance(value, tuple)
        return value

    def reals(self, name: str) -> list[float]:
        """A list of numbers."""
        return [float(str(each)) for each in self.entries(name)]


def checked(config: JSON, keys: Mapping[str, Key], origin: str) -> Values:
    """The values of a table's keys in a configuration, with those of keys that it lacks; private keys, ``_like_this``, are not looked at.

    Args:
        config: The configuration.
        keys: The table.
        origin: The file, for messages.

    Raises:
        CheckpointError: naming all keys that are unknown, missing, or have a value without a counterpart.
    """
    faults = [f"{name} is not known" for name in config if not name.startswith("_") and name not in keys]
    values = Values()
    for name, key in keys.items():
        if isinstance(key, NoEffect):
            continue
        absent = key.default if isinstance(key, Read) else key.values[0]
        value = _comparable(config.get(name, absent))
        if value is _UNSET:
            faults.append(f"{name} is missing")
        elif isinstance(key, Only) and not any(value == each and type(value) is type(each) for each in key.values):
            allowed = " or ".join(repr(each) for each in key.values)
            faults.append(f"{name} is {_shown(value)}, not {allowed}" + (f" ({key.reason})" if key.reason else ""))
        elif isinstance(key, Read) and not key.check(value):
            faults.append(f"{name} is {_shown(value)}, not {key.wanted}")
        values[name] = value
    if faults:
        raise CheckpointError(f"{origin} describes a model that has no counterpart here: {'; '.join(faults)}")
    return values


def _comparable(value: object) -> object:
    return tuple(_comparable(each) for each in value) if isinstance(value, list | tuple) else value


def _shown(value: object) -> str:
    return shorten(repr(value), 80)
