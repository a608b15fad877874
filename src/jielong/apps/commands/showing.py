"""``jielong show``: a recipe's settings and derived sizes, with the source of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel

from jielong.apps.commands.screen import quantity, results, say, table
from jielong.config.recipe import load, read_text
from jielong.config.schema import Recipe

if TYPE_CHECKING:
    from jielong.training.experiment import Experiment

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a setting, such as train.lr=1e-3; repeatable.")]
Data = Annotated[str | None, typer.Option(help="A data set's name or a path, or several with commas between, instead of the recipe's.")]
Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, a YAML file, or a checkpoint folder.")]


def show(recipe: Name, data: Data = None, overrides: Overrides = None) -> None:
    """Print a recipe's settings, defaults included, and derived sizes, with the source of each."""
    settings = load(recipe, overrides or ())
    print_settings(settings, recipe, overrides or (), data)
    try:
        print_sizes(prepared(settings, data))
    except (ValueError, OSError) as error:
        say(f"without derived sizes: {error}")


def prepared(settings: Recipe, data: str | None) -> Experiment:
    """The experiment with data and parts."""
    from jielong.training.experiment import prepare

    return prepare(settings, data)


def print_settings(recipe: Recipe, name: str, overrides: Sequence[str], data: str | None) -> None:
    """Print every setting and its source: recipe, command line, default or rule."""
    changed = tuple(override.partition("=")[0] for override in overrides)
    if data is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"set": data})})
    rows = []
    for path, value, explicit in settings_of(recipe):
        overridden = any(path == each or path.startswith(f"{each}.") for each in changed)
        rows.append((path, value, "--set" if overridden else "recipe" if explicit else "default"))
    resolved = recipe.train.resolved()
    for index, (path, value, _) in enumerate(rows):
        section, _, key = path.partition(".")
        if section == "train" and value == "none" and getattr(resolved, key) is not None:
            rows[index] = (path, _plain(getattr(resolved, key)), "derived")
        elif path == "data.set" and data is not None:
            rows[index] = (path, value, "--data")
    text, origin = read_text(name)
    head = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    results.print("\n".join([f"{origin}", *head]), markup=False, highlight=False)
    results.print(table("Settings", ("setting", "value", "from"), rows))


def print_sizes(experiment: Experiment) -> None:
    """Print the derived sizes."""
    from jielong.apps.sizes import sizes

    def value(size: float | str, unit: str) -> str:
        if isinstance(size, str):
            return size
        return quantity(size, unit) if unit or size >= 1e6 else f"{size:,.4g}" if size % 1 else f"{size:,.0f}"

    rows = [(size.name, value(size.value, size.unit), size.source) for size in sizes(experiment)]
    results.print(table("Derived sizes", ("size", "value", "from"), rows))


def settings_of(value: object, path: str = "", explicit: bool = True) -> Iterator[tuple[str, str, bool]]:
    """Every setting as ``(path, value, explicit)``; settings that are not explicit are defaults."""
    name = getattr(type(value), "name", "") if isinstance(value, BaseModel) else ""
    if isinstance(value, BaseModel):
        prefix = f"{path}.{name}" if name and path else path
        if not type(value).model_fields:
            yield prefix, "(no settings)", explicit
        for key in type(value).model_fields:
            yield from settings_of(getattr(value, key), f"{prefix}.{key}" if prefix else key, explicit and key in value.model_fields_set)
    elif isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
        for item in value:
            yield from settings_of(item, path, explicit)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from settings_of(item, f"{path}.{key}", explicit)
    else:
        yield path, _plain(value), explicit


def _plain(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
