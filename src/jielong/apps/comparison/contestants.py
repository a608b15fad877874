"""Entries of a comparison, and their recipes at an equal budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from jielong.config import recipe as recipes
from jielong.config.hub_address import is_address
from jielong.config.registry import RecipeError, nearest
from jielong.config.schedule import rescaled
from jielong.config.schema import Recipe
from jielong.system import DESCRIPTION, find, zoo

UNLIMITED = 10**12
"""Number of samples that no time budget reaches."""


@dataclass(frozen=True)
class Budget:
    """Training budget of each recipe: samples, or seconds of wall time.

    Raises:
        ValueError: unless exactly one is set, to a positive value.
    """

    samples: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.samples is None) == (self.seconds is None):
            raise ValueError("an equal budget is a number of samples or a time: set one of them")
        if (self.samples or self.seconds or 0) <= 0:
            raise ValueError("an equal budget must be positive")

    def __str__(self) -> str:
        return f"{self.samples:,} samples" if self.samples is not None else f"{self.seconds:g} s of training"


@dataclass(frozen=True)
class Entry:
    """An entry of the comparison.

    Attributes:
        label: Name in the table and of files.
        recipe: Recipe to train, or that of the checkpoint.
        checkpoint: Name or folder of a checkpoint; ``None`` for a recipe.
    """

    label: str
    recipe: Recipe
    checkpoint: str | None = None

    @property
    def kind(self) -> str:
        """``tokenizer`` or ``generator``."""
        return "generator" if self.recipe.trains_generator else "tokenizer"


def entries_of(names: Sequence[str], overrides: Sequence[str] = ()) -> list[Entry]:
    """Load shipped models, checkpoint folders, and recipes by name or file.

    Args:
        names: Names or paths.
        overrides: ``a.b=c`` changes to every recipe, not to checkpoints.

    Raises:
        ValueError: if a name is unknown or repeated, or a recipe needs a model that is not installed.
    """
    entries = [_read(name, overrides) for name in names]
    labels = [each.label for each in entries]
    for each in entries:
        if labels.count(each.label) > 1:
            raise ValueError(f"{each.label!r} is named twice: names of a comparison must differ")
        if each.checkpoint is None:
            for model in each.recipe.requires.values():
                find(model)
    return entries


def _read(name: str, overrides: Sequence[str]) -> Entry:
    path = Path(name)
    if name in zoo() or is_address(name) or (path / DESCRIPTION).is_file():
        folder = find(name)
        return Entry(name if name in zoo() else path.resolve().name, recipes.load(str(folder)), name)
    try:
        loaded = recipes.load(name, overrides)
    except RecipeError as error:
        known = [*recipes.built_in(), *zoo()]
        if path.exists() or name in recipes.built_in():
            raise
        raise RecipeError(f"there is no recipe, shipped model or checkpoint called {name!r}; {nearest(name, known)}") from error
    return Entry(path.stem if path.suffix in (".yaml", ".yml") else path.resolve().name if path.is_dir() else name, loaded)


def at(budget: Budget, recipe: Recipe, seed: int | None = None) -> Recipe:
    """The recipe at a budget, with every setting in samples scaled; a time budget removes the recipe's limit on samples.

    Args:
        budget: The budget.
        recipe: The recipe.
        seed: Seed of the run; the recipe's by default.
    """
    samples = UNLIMITED if budget.samples is None else budget.samples
    scaled = rescaled(recipe, Fraction(samples, recipe.train.samples))
    fresh = {"log_every": None, "sample_every": None, "save_every": None, "seed": recipe.train.seed if seed is None else seed}
    return scaled.model_copy(update={"train": scaled.train.model_copy(update={**fresh, "samples": samples})})
