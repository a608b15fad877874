"""YAML as recipes use it: ``1e-3`` is a number, a key stands once, and every key knows its file and line."""

from __future__ import annotations

import math
import re

import yaml

from jielong.config.registry import RecipeError
from jielong.core.text import shorten, shown

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
Lines = dict[tuple[str, ...], str]
"""The file and line of every key, by the keys that lead to it."""
_READ_DIFFERENTLY = re.compile("[\t\ufeff]")
"""Characters that libyaml and PyYAML parse differently: libyaml takes a tab for a space, and skips a byte-order mark anywhere."""
_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:merge")


MAX_TEXT = 1 << 18
"""Most characters of a recipe."""
MAX_NODES = 10_000
"""Most keys and values of a recipe, each use of an alias counted."""
MAX_DEPTH = 32
"""Deepest nesting of a recipe."""
MAX_STRING = 10_000
"""Most characters of one key or value."""
MAX_NUMBER = 2**63
"""Numbers of a recipe are smaller."""


class NotYamlError(RecipeError):
    """A text is not YAML."""


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as a number; YAML 1.1 reads it as text."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml, several times faster; its errors are worded and placed differently, so they are those of :class:`_Loader`."""


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads back: a text such as ``1e-3`` is quoted."""


for _kind in (_Loader, _FastLoader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def write_yaml(value: object, width: int = 140) -> str:
    """The YAML text of plain values, with lines of about ``width`` characters."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=width)


def one_line_yaml(value: object) -> str:
    """The YAML text of plain values in one line, such as ``[64, 128]``."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=math.inf, default_flow_style=True, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def read_value(text: str, origin: str) -> Value:
    """Read one value.

    Raises:
        NotYamlError: if it is not YAML.
        RecipeError: if a key stands twice, or a value is beyond the bounds above, or is NaN or infinite.
    """
    return _read(text, origin)[0]


def read_mapping(text: str, origin: str, of: str = "data, tokenizer, ..., train") -> tuple[dict[str, Value], Lines]:
    """Read a mapping, with the file and line of every key; ``of`` names its keys for an error.

    Raises:
        RecipeError: if it is not YAML or no mapping, a key stands twice, or a value is beyond the bounds above, or is NaN or infinite.
    """
    value, lines = _read(text, origin)
    if not isinstance(value, dict):
        raise RecipeError(f"{origin} must be a mapping of {of}; it is {type(value).__name__}")
    return value, lines


def _read(text: str, origin: str) -> tuple[Value, Lines]:
    if len(text) > MAX_TEXT:
        raise RecipeError(f"{origin} has {len(text):,} characters, and a recipe has at most {MAX_TEXT:,}")
    try:
        value, lines = _composed(text, origin)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}: "
        raise NotYamlError(f"{origin} is not YAML: {place}{getattr(error, 'problem', None) or ' '.join(str(error).split())}") from None
    except (ValueError, OverflowError) as error:  # of a number or a date, such as 2001-99-99
        raise error if isinstance(error, RecipeError) else NotYamlError(f"{origin} is not YAML: {error}") from None
    _check_values(value, (), origin, lines)
    return value, lines


def _composed(text: str, origin: str) -> tuple[Value, Lines]:
    if not _READ_DIFFERENTLY.search(text):
        try:
            return _composed_by(_FastLoader, text, origin)
        except (yaml.YAMLError, ValueError, OverflowError):
            pass  # refused below, in the words of the other
    return _composed_by(_Loader, text, origin)


def _composed_by(kind: type[yaml.SafeLoader], text: str, origin: str) -> tuple[Value, Lines]:
    lines: Lines = {}
    _check_events(kind, text, origin)
    loader = kind(text)
    try:
        node = loader.get_single_node()
        _Places(origin, lines).mark(node, ())
        value: Value = None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()
    return value, lines


def _check_events(kind: type[yaml.SafeLoader], text: str, origin: str) -> None:
    """Refuse, before anything is composed, what is nested too deeply, has too many values, or names types of Python."""
    depth = count = 0
    for event in yaml.parse(text, Loader=kind):
        line = 0 if event.start_mark is None else event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH:
            raise RecipeError(f"{origin}, line {line}: this is nested over {MAX_DEPTH} levels deep, which no recipe is")
        if count > MAX_NODES:
            raise RecipeError(f"{origin}, line {line}: a recipe has at most {MAX_NODES:,} keys and values")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise RecipeError(f"{origin}, line {line}: the tag {shown(event.tag)} is not read; write the plain value")


class _Places:
    """Notes the line of every key; one that stands twice is refused, and so is what aliases make of a few lines."""

    def __init__(self, origin: str, lines: Lines) -> None:
        self.origin, self.lines, self.visited = origin, lines, 0

    def mark(self, node: yaml.Node | None, path: tuple[str, ...], depth: int = 0, lines: Lines | None = None) -> None:
        """Note the lines of the keys below a node."""
        lines = self.lines if lines is None else lines
        self.visited += 1
        if self.visited > MAX_NODES or depth > MAX_DEPTH:
            raise RecipeError(f"{self.origin}: its aliases make over {MAX_NODES:,} values, or lead to themselves; write the values out")
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.mark(item, path, depth + 1, {})
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = f"{self.origin}, line {key.start_mark.line + 1}"
                if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEYS:
                    raise RecipeError(f"{place}: a key is a word or a whole number, not {shown(key.value)}")
                inner = (*path, key.value)
                if inner in lines:
                    name = shorten(".".join(inner), 100)
                    raise RecipeError(f"{place}: the key {name!r} is given twice (first: {lines[inner]}); remove one")
                lines[inner] = place
                self.mark(value, inner, depth + 1, lines)


def _check_values(value: object, path: tuple[str, ...], origin: str, lines: Lines) -> None:
    """Refuse numbers and texts that no setting takes, with the key and its line."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_values(key, path, origin, lines)
            _check_values(inner, (*path, str(key)), origin, lines)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, path, origin, lines)
    elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) < MAX_NUMBER):
        raise RecipeError(f"{lines.get(path, origin)}: {'.'.join(path)}: {shown(value)} is no number below 2**63")
    elif isinstance(value, str) and len(value) > MAX_STRING:
        raise RecipeError(f"{lines.get(path, origin)}: {'.'.join(path)}: {shown(value)} has over {MAX_STRING:,} characters")
