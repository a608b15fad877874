"""The training and held-out items of a recipe, with everything checked that is known before training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from jielong.conditions.base import Condition
from jielong.config.schema import Recipe
from jielong.data.duplicates import leak
from jielong.data.ledger import Cause, Ledger
from jielong.data.opening import open_quietly, other_split, warn_of_unused
from jielong.data.sets import MediaSet
from jielong.data.source import DataError
from jielong.data.splits import other_splits
from jielong.system import condition_inputs
from jielong.system.usable import usable

HELDOUT_ITEMS = 512
"""Most held-out items that are measured while training; ``jielong evaluate`` takes all of them."""


@dataclass(frozen=True)
class Sets:
    """What a recipe is trained and measured on.

    Attributes:
        train: The training items.
        heldout: The held-out items; those of training where none can be used.
        measured: Whether there are held-out items.
    """

    train: MediaSet
    heldout: MediaSet
    measured: bool

    def readable(self, condition: Condition) -> Sets:
        """The sets without items whose captions the condition cannot read, of which it warns.

        Without a readable training item the sets stay as they are, and :meth:`Condition.precompute` says what is wrong.
        """
        train, heldout = _readable(self.train, condition), _readable(self.heldout, condition) if self.measured else None
        if train is None:
            return self
        left_out = Ledger(entry for each in (train, heldout) if each for entry in each.left_out if entry.cause == Cause.UNREADABLE)
        warn_of_unused(train.name, left_out)
        if self.measured and heldout is None:
            _warn_unmeasured(train, "the model can read the caption of none")
        return Sets(train, heldout or train, heldout is not None)


def open_sets(recipe: Recipe, source: str) -> Sets:
    """Open a recipe's data, and warn in one line of what is not used.

    Args:
        recipe: The recipe.
        source: A set's name or a path.

    Raises:
        ValueError: if training items, or the captions or classes that the recipe needs, are missing.
    """
    whole = recipe.trains_generator  # captions describe all of a clip
    opened = train = open_quietly(source, "train", settings=recipe.data, whole=whole)
    for each in condition_inputs(recipe):
        each.check(train, source)
    train, heldout, left_out = usable(train, recipe), None, Ledger()
    try:
        heldout = usable(other_split(opened, "heldout", whole), recipe).without_broken(HELDOUT_ITEMS)
        left_out = heldout.left_out
    except DataError as error:
        heldout = None
        _warn_unmeasured(train, str(error))
    warn_of_unused(train.name, train.unused + left_out)
    augmenter = train.augmenter
    if augmenter is not None:
        parts = () if recipe.condition is None else recipe.condition.components
        if any(part.reads_stage is not None for part in parts):
            raise DataError("data.augment changes pictures, but the condition reads tokens of them as they are: leave it out")
        if found := augmenter.report():
            warnings.warn(found, stacklevel=3)
    for found in filter(None, (leak(train.source), other_splits(item.split for item in train.source.items))):
        warnings.warn(f"{train.name}: {found}", stacklevel=3)
    return Sets(train, train if heldout is None else heldout, heldout is not None)


def _warn_unmeasured(train: MediaSet, reason: str) -> None:
    consequence = "held-out figures are left out, and the sample grid shows training items"
    warnings.warn(f"no held-out {train.kind.noun[1]}: {reason}; {consequence}", stacklevel=4)


def _readable(data: MediaSet, condition: Condition) -> MediaSet | None:
    """A set without items that a condition cannot read; ``None`` without any other."""
    unreadable, left_out = condition.unreadable(data), Ledger()
    for row, reason in unreadable.items():
        left_out.add(Cause.UNREADABLE, data.keys[row], f"{data.keys[row]}: {reason}")
    kept = [row for row in range(len(data)) if row not in unreadable]
    return data.restricted(kept, left_out) if kept and unreadable else data if kept else None
