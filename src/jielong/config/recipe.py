"""Recipes from YAML files: found by name, extended, overridden, checked; every fault is reported with its file and line."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

from jielong.config.explaining import explain
from jielong.config.registry import Faults, OfFamily, RecipeError, Schema, below, nearest, read_settings
from jielong.config.schedule import budget_of, is_share, of_train, rescaled, samples_of
from jielong.config.schema import Recipe
from jielong.config.yaml_text import MAX_TEXT, Lines, NotYamlError, Value, read_mapping, read_value
from jielong.core.text import shown
from jielong.training.settings import TrainSettings

MAX_CHAIN = 16
"""Most recipes of which each extends the next."""
__all__ = ["Recipe", "RecipeError", "built_in", "load", "origins", "parse", "read_file", "read_text", "upgraded"]


def built_in() -> dict[str, str]:
    """The built-in recipes: name to YAML text."""
    return dict(_texts())


@cache
def _texts() -> dict[str, str]:
    folder = importlib.resources.files("jielong.recipes")
    return {
        item.name[:-5]: item.read_text() for item in sorted(folder.iterdir(), key=lambda item: item.name) if item.name.endswith(".yaml")
    }


def headline(text: str) -> str:
    """The first comment line of a recipe's text, which names its system; what it extends where there is none."""
    lines = [line.strip() for line in text.splitlines()]
    comment = next((line.lstrip("# ") for line in lines if line.startswith("#") and line.strip("# ")), "")
    return comment or next((line for line in lines if line.startswith("extends:")), "")


def read_text(name_or_path: str) -> tuple[str, str]:
    """Text and origin of a recipe: a built-in name, a YAML file, or a folder with ``recipe.yaml``.

    A built-in name has precedence; a folder of that name is written ``./name``.

    Raises:
        RecipeError: if there is no such recipe.
    """
    recipes, path = built_in(), Path(name_or_path)
    if name_or_path in recipes:
        return recipes[name_or_path], name_or_path
    if path.is_dir():
        path = path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml") and path.exists():
        return read_file(path), str(path)
    raise RecipeError(f"there is no recipe called {name_or_path!r}, nor such a file; {nearest(name_or_path, recipes)}")


def read_file(path: Path) -> str:
    """The text of a recipe's file.

    Raises:
        RecipeError: if it is too large, or not in UTF-8, UTF-16 or UTF-32 with their marks.
    """
    with open(path, "rb") as file:
        data = file.read(4 * MAX_TEXT + 1)
    if len(data) > 4 * MAX_TEXT:
        raise RecipeError(f"{path} has {path.stat().st_size:,} bytes, which no recipe has")
    from jielong.data.text import decode_text  # imports torch

    try:
        return decode_text(data, str(path))
    except ValueError as error:
        raise RecipeError(str(error)) from None


def load(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, with ``a.b=c`` overrides.

    Raises:
        RecipeError: with the line, what is wrong and the nearest valid choice.
    """
    text, origin = read_text(name_or_path)
    return parse(text, origin, overrides)


def parse(text: str, origin: str = "recipe", overrides: Iterable[str] = ()) -> Recipe:
    """Validate a recipe's text; see :func:`load`. Where an override changes ``train.samples``, what the others leave scales with it."""
    data, lines = _read(text, origin)
    before, given = samples_of(data), set[tuple[str, ...]]()
    for override in overrides:
        data = _override(data, lines, override, given)
    after = samples_of(data)
    ratio = Fraction(after, before) if before and after else Fraction(1)

    def kept(path: tuple[str, ...]) -> bool:
        return path in given or is_share(_at(data, path))

    try:
        with budget_of(data):
            # Those of train first: they are checked with the number of samples.
            recipe = read_settings(Recipe, of_train(data, TrainSettings, ratio, kept))
        return rescaled(recipe, ratio, lambda path: path[0] == "train" or kept(path))
    except Faults as faults:
        raise RecipeError("\n".join(explain(problem, lines, origin, Recipe, ("extends",)) for problem in faults.problems)) from None


def origins(text: str, origin: str) -> dict[tuple[str, ...], str]:
    """The recipe that sets each key, itself or one that it extends, by the keys that lead to it."""
    return {path: place.rpartition(", line ")[0] for path, place in _read(text, origin)[1].items()}


def upgraded(text: str) -> str:
    """An earlier version's recipe with today's settings: new ones at their defaults, without those that were removed.

    A recipe that cannot be read for another reason, such as a part that was removed, is returned unchanged.
    """
    data: Value = _read(text, "recipe")[0]
    while True:
        try:
            with budget_of(data):
                return read_settings(Recipe, data).to_yaml()
        except Faults as faults:
            reduced = data
            for problem in faults.problems:
                if problem["type"] == "extra_forbidden":
                    reduced = _without(reduced, problem["loc"])
            if reduced == data:
                return text
            data = reduced


def _without(value: Value, path: tuple[str | int, ...]) -> Value:
    """A copy without the key at a path; parts in a list are found by their names."""
    if isinstance(value, list):
        return [_without(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    first, *rest = path
    return {key: _without(inner, tuple(rest)) if key == first else inner for key, inner in value.items() if rest or key != first}


def _read(text: str, origin: str, above: tuple[str, ...] = ()) -> tuple[dict[str, Value], Lines]:
    """A recipe with ``extends`` resolved; ``above`` are the recipes that extend it."""
    data, lines = read_mapping(text, origin)
    base = data.pop("extends", None)
    if base is not None:
        place = lines["extends",]
        if not isinstance(base, str):
            raise RecipeError(f"{place}: extends is the name of one recipe or its file, not {shown(base)}")
        try:
            base_text, base_origin = read_text(_beside(base, origin))
        except RecipeError as error:
            raise RecipeError(f"{place}: {error}") from None
        if any(_same(base_origin, earlier) for earlier in (*above, origin)):
            raise RecipeError(f"{place}: recipes extend each other in a circle: {' -> '.join((*above, origin, base_origin))}")
        if len(above) >= MAX_CHAIN:
            raise RecipeError(f"{place}: over {MAX_CHAIN} recipes extend each other; write fewer")
        base_data, base_lines = _read(base_text, base_origin, (*above, origin))
        data, lines = _merge(base_data, data, Recipe), base_lines | lines
    return data, lines


def _same(one: str, other: str) -> bool:
    """Whether two origins are the same recipe: the same name, or the same file by whatever path."""
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


def _beside(name: str, origin: str) -> str:
    """A base that is a file, looked for beside the file that extends it first."""
    path = Path(origin).parent / name
    return str(path) if name not in built_in() and path.exists() else name


def _merge(base: dict[str, Value], change: dict[str, Value], schema: Schema) -> dict[str, Value]:
    """Lay a change over a base, key by key; another part of a family, however deep, replaces the part and its settings."""
    if isinstance(schema, OfFamily) and not schema.many and set(base) != set(change):
        instead = set() if schema.instead is None or not schema.is_instead(base) else set(schema.instead.model_fields)
        if not set(change) <= instead:
            return change
    merged = {**base, **change}
    for key in base.keys() & change.keys():
        before, after = base[key], change[key]
        if isinstance(before, dict) and isinstance(after, dict):
            merged[key] = _merge(before, after, below(schema, key))
    return merged


def _at(value: Value, path: tuple[str, ...]) -> Value:
    """What stands at a path; parts in a list are found by their names."""
    for key in path:
        if isinstance(value, list):
            value = next((item for item in value if isinstance(item, dict) and key in item), None)
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _leaves(value: Value, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths of all values that are no mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path


def _override(data: dict[str, Value], lines: Lines, override: str, given: set[tuple[str, ...]]) -> dict[str, Value]:
    """The data with one ``a.b=value`` laid over them; its keys are noted in ``lines``, and the paths of its values in ``given``."""
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set takes a.b=value, such as train.lr=1e-3, not {override!r}")
    try:
        # A colour begins with what begins a comment.
        value = text.strip() if text.lstrip().startswith("#") else read_value(text, f"--set {override}")
    except NotYamlError:
        raise RecipeError(f"--set takes a.b=value with a value as in a recipe; {text!r} in {override!r} is not") from None
    path = tuple(name.split("."))
    for depth in range(len(path)):
        lines.setdefault(path[: depth + 1], f"--set {override}")
    lines[path] = f"--set {override}"
    given.update(_leaves(value, path))
    change = {path[-1]: value}
    for key in reversed(path[:-1]):
        change = {key: change}
    return _merge(data, change, Recipe)
