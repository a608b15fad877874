"""The pictures of a subject: few, all of them for training, each with a caption that names it."""

from __future__ import annotations

from dataclasses import replace

from jielong.config.adapter import AdapterSettings, names_in
from jielong.config.schema import Recipe
from jielong.data.opening import open_quietly, warn_of_unused
from jielong.data.selection import Subset
from jielong.data.sets import MediaSet
from jielong.data.source import DataError, Source
from jielong.training.opening import Sets

LEAST, MOST = 3, 10
"""Pictures of a subject."""


class NamedSubject(Subset):
    """The items of a source, with captions for those that have none."""

    def __init__(self, source: Source, captions: tuple[str, ...]) -> None:
        super().__init__(source, range(len(source.items)), source.name)
        self.items = [item if item.captions else replace(item, captions=captions) for item in source.items]


def open_subject(recipe: Recipe, source: str) -> Sets:
    """Open the pictures of a recipe with `adapter`; none of so few are held out.

    Args:
        recipe: The recipe.
        source: A folder, or another set.

    Raises:
        DataError: if there are fewer than :data:`LEAST` or more than :data:`MOST`, or a caption does not name the subject.
    """
    settings = recipe.adapter
    assert settings is not None
    opened = open_quietly(source, None, settings=recipe.data, whole=True)
    _check_count(opened)
    found = opened.without_broken()
    _check_count(found)
    warn_of_unused(found.name, found.unused)
    if recipe.condition is not None:
        _check_captions(found, settings)
        named = NamedSubject(found.source, settings.captions_of_subject())
        left_out, found = found.left_out, MediaSet(named, found.medium, found.indices, found.settings)
        found.left_out = left_out
    return Sets(found, found, False)


def _check_count(data: MediaSet) -> None:
    if not LEAST <= len(data) <= MOST:
        more = "add some" if len(data) < LEAST else "choose the best, or train a recipe of its own on so many"
        raise DataError(
            f"{data.name} holds {len(data)} usable pictures{data.unused.explained()}: give {LEAST} to {MOST} of one subject; {more}"
        )


def _check_captions(data: MediaSet, settings: AdapterSettings) -> None:
    for key, captions in zip(data.keys, data.captions_of_items, strict=True):
        for caption in captions:
            if not names_in(caption, settings.name):
                raise DataError(
                    f"{data.name}: the caption of {key} does not name the subject: write {settings.name} into {caption!r}, or remove it "
                    f"to use {settings.captions_of_subject()[0]!r}"
                )
