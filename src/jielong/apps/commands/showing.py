"""``jielong show``: a recipe with every default filled in and every size that follows from it, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

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
    """Print a recipe with every default and every derived size, and where each came from."""
    settings = load(recipe, overrides or ())
    print_settings(settings, recipe, overrides or (), data)
    try:
        print_sizes(prepared(settings, data))
    except (ValueError, OSError) as error:
        say(f"without derived sizes: {error}")


def prepared(settings: Recipe, data: str | None) -> Experiment:
    """The experiment, with its data open and its parts built."""
    from jielong.training.experiment import prepare

    return prepare(settings, data)


def print_settings(recipe: Recipe, name: str, overrides: Sequence[str], data: str | None) -> None:
    """Print every setting and whether the recipe, the command line, a default or a rule gave it."""
    changed = tuple(override.partition("=")[0] for override in overrides)
    if data is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"set": data})})
    rows = []
    for path, value, given in settings_of(recipe):
        by_hand = any(path == each or path.startswith(f"{each}.") for each in changed)
        rows.append((path, value, "--set" if by_hand else "recipe" if given else "default"))
    resolved = recipe.train.resolved()
    for place, (path, value, _) in enumerate(rows):
        section, _, key = path.partition(".")
        if section == "train" and value == "none" and getattr(resolved, key) is not None:
            rows[place] = (path, _plain(getattr(resolved, key)), "derived")
        elif path == "data.set" and data is not None:
            rows[place] = (path, value, "--data")
    text, origin = read_text(name)
    head = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    results.print("\n".join([f"{origin}", *head]), markup=False, highlight=False)
    results.print(table("Settings", ("setting", "value", "from"), rows))


def print_sizes(experiment: Experiment) -> None:
    """Print what follows from the recipe."""
    from jielong.apps.sizes import sizes

    def value(given: float | str, unit: str) -> str:
        if isinstance(given, str):
            return given
        return quantity(given, unit) if unit or given >= 1e6 else f"{given:,.4g}" if given % 1 else f"{given:,.0f}"

    rows = [(size.name, value(size.value, size.unit), size.source) for size in sizes(experiment)]
    results.print(table("Derived sizes", ("size", "value", "from"), rows))


def settings_of(value: Any, path: str = "", given: bool = True) -> Iterator[tuple[str, str, bool]]:
    """Every setting as ``(path, value, whether it was given)``; a setting not given is a default."""
    name = getattr(type(value), "name", "") if isinstance(value, BaseModel) else ""
    if isinstance(value, BaseModel):
        here = f"{path}.{name}" if name and path else path
        if not type(value).model_fields:
            yield here, "(no settings)", given
        for key in type(value).model_fields:
            yield from settings_of(getattr(value, key), f"{here}.{key}" if here else key, given and key in value.model_fields_set)
    elif isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
        for item in value:
            yield from settings_of(item, path, given)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from settings_of(item, f"{path}.{key}", given)
    else:
        yield path, _plain(value), given


def _plain(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
