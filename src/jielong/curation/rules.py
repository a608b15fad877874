"""Rules of curation: how clips are cut and measured, once, and which of them each named set keeps."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from jielong.config.explaining import explain
from jielong.config.recipe import read_file
from jielong.config.registry import Config, Faults, Mark, RecipeError, Schema, nearest, read_settings
from jielong.config.yaml_text import read_mapping
from jielong.core.text import shown
from jielong.curation.ranges import Range
from jielong.curation.shots import ShotSettings
from jielong.curation.stages.caption import CaptionSettings
from jielong.curation.stages.duplicates import DuplicateLimits
from jielong.curation.stages.length import LengthLimits
from jielong.curation.stages.metadata import MetadataLimits
from jielong.curation.stages.motion import MotionSettings
from jielong.curation.stages.text import TextSettings

BUILT_IN = "open-sora"
"""Rules that come with the package."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RulesError(RecipeError):
    """Rules cannot be used; the text says where, what is wrong and what would be right."""


class SetRules(Config):
    """What one set keeps. A stage that is not named is not applied.

    Attributes:
        extends: Another set, whose limits hold where this one names no others.
        metadata: Limits of files: ``frame_rate``, ``short_side``, ``aspect`` and ``bits_per_pixel``.
        length: Limits of clips: ``duration`` and ``frames``.
        brightness: Mean grey value, from 0 (black) to 1 (white).
        motion: Mean optical flow, in % of the longer side a second.
        blur: Variance of the Laplacian of grey values, less of which is more blurred.
        text: The largest share of a frame that text covers.
        caption: Cosine of the middle frame and the caption; clips without a caption are kept and counted.
        duplicates: What is a near-duplicate of a clip that is kept, and is dropped.
    """

    extends: str | None = None
    metadata: MetadataLimits | None = None
    length: LengthLimits | None = None
    brightness: Range | None = None
    motion: Range | None = None
    blur: Range | None = None
    text: Range | None = None
    caption: Range | None = None
    duplicates: DuplicateLimits | None = None


class NamedSets(Mark):
    """Reads sets by name, each over the one that it extends."""

    def read(self, value: object) -> dict[str, SetRules]:
        """The sets.

        Raises:
            Faults: with all that is wrong.
        """
        if not isinstance(value, Mapping) or not value:
            raise Faults.of(f"sets are written as {{name: {{motion: {{min: 1}}, ...}}, ...}}, at least one, not {shown(value)}")
        found: dict[str, SetRules] = {}
        problems = []
        for name, given in value.items():
            if isinstance(given, SetRules):
                found[str(name)] = given
                continue
            try:
                if not _NAME.fullmatch(str(name)):
                    raise Faults.of("the name of a set is that of a folder: letters, digits, _ and -")
                found[str(name)] = read_settings(SetRules, _resolved(str(name), value, ()))
            except Faults as faults:
                problems += faults.under(str(name))
        if problems:
            raise Faults(problems)
        return found

    def below(self, key: str) -> Schema:
        """The limits of a set."""
        return SetRules

    def keys(self) -> list[str]:
        """Names are free."""
        return []


def _resolved(name: str, sets: Mapping[object, object], above: tuple[str, ...]) -> Mapping[str, object]:
    """The limits of a set over those of the one that it extends."""
    given = {} if sets[name] is None else sets[name]
    if not isinstance(given, Mapping):
        raise Faults.of(f"the limits of a set are written as {{motion: {{min: 1}}, ...}}, not {shown(given)}")
    base = given.get("extends")
    if base is None:
        return given
    if base not in sets:
        raise Faults.of(f"extends: there is no set called {shown(base)}; {nearest(str(base), [str(each) for each in sets])}")
    if base in (*above, name):
        raise Faults.of(f"extends: sets extend each other in a circle: {' -> '.join((*above, name, str(base)))}")
    return _laid(_resolved(str(base), sets, (*above, name)), given)


def _laid(base: Mapping[str, object], change: Mapping[str, object]) -> dict[str, object]:
    """A change over a base, key by key; ``null`` removes a limit."""
    merged = dict(base)
    for key, after in change.items():
        before = base.get(key)
        merged[key] = _laid(before, after) if isinstance(before, Mapping) and isinstance(after, Mapping) else after
    return merged


class Rules(Config):
    """How clips are cut and measured, once, and which of them each set keeps.

    Attributes:
        size: The shorter side to which frames are reduced before they are measured, in pixels; smaller ones are measured as they are.
        frames: Frames a clip that brightness, blur, text and near-duplicates look at, evenly spaced.
        shots: How files are cut into clips.
        motion: How motion is measured.
        text: How text is looked for.
        caption: How agreement with captions is measured.
        sets: The limits of each set, by its name.
    """

    size: int = Field(default=256, ge=16)
    frames: int = Field(default=5, ge=1, le=64)
    shots: ShotSettings = ShotSettings()
    motion: MotionSettings = MotionSettings()
    text: TextSettings = TextSettings()
    caption: CaptionSettings = CaptionSettings()
    sets: Annotated[dict[str, SetRules], NamedSets()]

    @model_validator(mode="after")
    def _consistent(self) -> Rules:
        for name, limits in self.sets.items():
            if limits.caption is not None and self.caption.scorer is None:
                raise ValueError(
                    f"sets.{name}.caption limits the agreement with captions, and nothing measures it: set caption.scorer to the folder of "
                    "a scorer (python -m jielong.evaluation.retrieval train --data SET --out FOLDER), or remove the limit"
                )
            duration = None if limits.length is None else limits.length.duration
            longest = self.shots.longest
            if duration is not None and duration.min is not None and longest is not None and duration.min > longest:
                raise ValueError(
                    f"sets.{name}.length.duration keeps clips of {duration.min:g} s or more, but shots.longest cuts all to {longest:g} s"
                )
        return self


def built_in_text() -> str:
    """The rules that come with the package, with their comments."""
    return importlib.resources.files("jielong.curation").joinpath(f"{BUILT_IN}.yaml").read_text("utf-8")


def load_rules(name_or_path: str) -> Rules:
    """Read rules: the built-in ones by their name, or a YAML file.

    Raises:
        RulesError: with the line, what is wrong and the nearest valid choice.
    """
    path = Path(name_or_path)
    if name_or_path == BUILT_IN:
        return parse_rules(built_in_text(), BUILT_IN)
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        return parse_rules(read_file(path), str(path))
    raise RulesError(f"there are no rules called {name_or_path!r}, nor such a .yaml file; the built-in rules are {BUILT_IN}")


def parse_rules(text: str, origin: str = "rules") -> Rules:
    """Check the text of rules; see :func:`load_rules`."""
    data, lines = read_mapping(text, origin, "size, frames, shots, ..., sets")
    try:
        return read_settings(Rules, data)
    except Faults as faults:
        raise RulesError("\n".join(explain(problem, lines, origin, Rules) for problem in faults.problems)) from None
