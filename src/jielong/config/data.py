"""The `data:` section of a recipe: a set, and how items of its kind of media are read."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator

from jielong.config.registry import Config, Faults, Mark, Schema, below, nearest, read_settings
from jielong.core.text import shown

if TYPE_CHECKING:
    from jielong.media.kinds.base import MediaKind


def _joined(given: object) -> object:
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        return given
    return importlib.import_module("jielong.data.joined").joined_name(given)


MissingCondition = Literal["skip", "empty", "error"]


class DataSettings(Config):
    """A set; kinds of media add how their items are read (:attr:`~jielong.media.kinds.base.MediaKind.settings`).

    Attributes:
        set: A built-in set's name, or a path; several are joined, as a list or separated by commas.
        kind: The kind of media; by default the one that has the other keys of the section.
        missing_condition: What happens to an item without the caption or class that the recipe's condition reads: it is left out and named
            (``skip``), is used with an empty caption (``empty``; without a class it is left out), or training is refused (``error``).
        deduplicate: Whether an item with the same bytes as another one is left out; the first by key is used.
    """

    set: Annotated[str, BeforeValidator(_joined)] = "emoji"
    kind: str | None = None
    missing_condition: MissingCondition = "skip"
    deduplicate: bool = False


def media_kinds() -> Mapping[str, MediaKind]:
    """All kinds of media by name."""
    kinds: Mapping[str, MediaKind] = importlib.import_module("jielong.media.kinds.base").kinds()
    return kinds


def settings_kind(settings: DataSettings) -> MediaKind:
    """The kind of media that settings describe."""
    return next(kind for kind in media_kinds().values() if type(settings) is kind.settings)


class DataSection(Mark):
    """Reads the section as the settings of the kind of media it describes."""

    def read(self, value: object) -> DataSettings:
        """The settings.

        Raises:
            Faults: with all that is wrong.
        """
        if isinstance(value, DataSettings):
            return value
        if not isinstance(value, Mapping):
            raise Faults.of(f"data is written as {{set: name, size: 64}}, not {shown(value)}")
        known = set(self.keys())
        given = {key: inner for key, inner in value.items() if inner is not None or key not in known}
        return read_settings(self.kind_of(given).settings, given)

    def kind_of(self, given: Mapping[str, object]) -> MediaKind:
        """The kind of media that has the keys given.

        Raises:
            Faults: if there is none.
        """
        kinds, name = media_kinds(), given.get("kind")
        if name is not None:
            if not isinstance(name, str) or name not in kinds:
                raise Faults.of(f"there is no kind of media called {shown(name)}; {nearest(str(name), kinds)}")
            return kinds[name]
        specific = set(self.keys()) - set(DataSettings.model_fields)
        keys = [key for key in given if key in specific]
        fitting = [kind for kind in kinds.values() if set(keys) <= set(kind.settings.model_fields)]
        if not fitting:
            owners = {key: next(kind.name for kind in kinds.values() if key in kind.settings.model_fields) for key in keys}
            listed = " and ".join(f"{key} of {owner}" for key, owner in owners.items())
            raise Faults.of(f"data of one kind of media have no keys of another ({listed}): remove those of one of them")
        return fitting[0]

    def below(self, key: str) -> Schema:
        """The settings under a key of any kind; most hold plain values."""
        schemas = [below(kind.settings, key) for kind in media_kinds().values()]
        return next((schema for schema in schemas if schema is not None), None)

    def keys(self) -> list[str]:
        """Keys of all kinds."""
        return list(dict.fromkeys(key for kind in media_kinds().values() for key in kind.settings.model_fields))
