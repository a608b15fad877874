"""YAML as recipes use it: ``1e-3`` is a number, a key stands once, and every key knows its file and line."""

from __future__ import annotations

import re

import yaml

from jielong.config.registry import RecipeError

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
Lines = dict[tuple[str, ...], str]
"""The file and line of every key, by the keys that lead to it."""


class NotYamlError(RecipeError):
    """A text is not YAML."""


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as a number; YAML 1.1 reads it as text."""


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads back: a text such as ``1e-3`` is quoted."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def write_yaml(value: object) -> str:
    """The YAML text of plain values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=140)


def read_value(text: str, origin: str) -> Value:
    """Read one value.

    Raises:
        NotYamlError: if it is not YAML.
        RecipeError: if a key stands twice.
    """
    return _read(text, origin)[0]


def read_mapping(text: str, origin: str) -> tuple[dict[str, Value], Lines]:
    """Read a mapping, with the file and line of every key.

    Raises:
        RecipeError: if it is not YAML or no mapping, or a key stands twice.
    """
    value, lines = _read(text, origin)
    if not isinstance(value, dict):
        raise RecipeError(f"{origin} must be a mapping of data, tokenizer, ..., train; it is {type(value).__name__}")
    return value, lines


def _read(text: str, origin: str) -> tuple[Value, Lines]:
    lines: Lines = {}
    try:
        _mark(yaml.compose(text, Loader=_Loader), (), origin, lines)
        value: Value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise NotYamlError(f"{origin} is not YAML: {error}") from None
    return value, lines


def _mark(node: yaml.Node | None, path: tuple[str, ...], origin: str, lines: Lines) -> None:
    """Note the line of every key below a node; one that stands twice is refused."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _mark(item, path, origin, {})
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            place = f"{origin}, line {key.start_mark.line + 1}"
            if inner in lines:
                raise RecipeError(f"{place}: the key {'.'.join(inner)!r} is given twice (first: {lines[inner]}); remove one")
            lines[inner] = place
            _mark(value, inner, origin, lines)
