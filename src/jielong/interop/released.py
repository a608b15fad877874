"""What a reader of released weights returns: a system described by a recipe, with weights and the map of their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from jielong.core.json import JSON
from jielong.core.medium import Medium
from jielong.interop.key_map import KeyMap, Transform, Weights

CLASSES_AND_NULL = Transform(
    "split into classes and the null",
    lambda tensors: [tensors[0][:-1], tensors[0][-1]],
    lambda tensors: [torch.cat([tensors[0], tensors[1][None]])],
)
"""A table of classes whose last row is the null class, as ``condition.table.weight`` and ``condition.null``."""


def numbered(count: int) -> tuple[str, ...]:
    """Class names for weights that come without any: the numbers of the classes as strings."""
    return tuple(map(str, range(count)))


@dataclass(frozen=True)
class Imported:
    """A system of others, or one stage of it.

    Attributes:
        recipe: Sections of a recipe: parts and ``sampling``; ``train`` and what ``data`` say of the medium are filled in, and ``tokenizer``
            where ``stages`` has one. ``data.set`` is what it would be trained further on.
        media: The format of the media.
        weights: Theirs, by their names.
        keys: From their names to ours: of the generator if the recipe has one, else of the tokenizer.
        classes: Names of classes.
        stages: What it is built on, by name, such as its ``tokenizer``.
        notes: What an import should say.
    """

    recipe: JSON
    media: Medium
    weights: Weights
    keys: KeyMap
    classes: tuple[str, ...] = ()
    stages: Mapping[str, Imported] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
