"""What there is to hear of a generator: its clips, the real ones, those its tokenizer gives back, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.evaluation.context import EvalContext
from jielong.evaluation.sound.features import MelStatistics, Space, WhisperFeatures
from jielong.evaluation.sound.speakers import Speakers
from jielong.system import condition_inputs

KNOWN = 256
"""Training clips at most that generated ones are compared with."""


@dataclass
class EvalAudio:
    """What there is to hear.

    Attributes:
        subject: The system, and what it is measured on.
        conditions: What it was told of each item.
        asked: Seconds that each was to last, where that was said.
        sides: Clips ``(C, T)`` by the suffix of their figures: ``""`` generated, ``_real``, ``_rebuilt``.
        speakers: Who speaks, where the set says it.
        drawn: How clips were drawn.
    """

    subject: EvalContext
    conditions: Sequence[object] | None
    asked: list[float] | None
    sides: dict[str, list[Tensor]]
    speakers: Speakers | None = None
    drawn: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self.subject.sounds.medium.sample_rate

    @property
    def spells(self) -> bool:
        """Whether the model speaks a text."""
        settings = self.subject.system.recipe.condition
        return settings is not None and any(part.transcript for part in settings.components)

    @property
    def speaks(self) -> bool:
        """Whether the model generates speech: by its condition's inputs, or because the set names languages."""
        inputs = condition_inputs(self.subject.system.recipe)
        return self.spells or any(each.speech for each in inputs) or "language" in self.subject.sounds.columns

    @cached_property
    def languages(self) -> list[str]:
        """ISO 639-1 code of each item: by the set, otherwise by the condition, otherwise English."""
        sounds, settings = self.subject.sounds, self.subject.system.recipe.condition
        default = (settings and settings.spoken_language) or "en"
        languages = sounds.columns.get("language") or [default] * len(sounds)
        return [str(languages[sounds.resolve(row)] or default) for row in self.subject.rows]

    @cached_property
    def known(self) -> tuple[MediaSet, list[int]]:
        """The training split, and the rows of it that are listened to."""
        system = self.subject.system
        trained = open_data(self.subject.source, "train", medium=system.tokenizer.media, settings=system.recipe.data, whole=True)
        return trained, spread(len(trained), KNOWN)

    def space(self, kind: type[WhisperFeatures] | type[MelStatistics]) -> Space:
        """Features in deviations over the training split."""
        if kind not in self._spaces:
            trained, rows = self.known
            clips = [clip[:, : trained.length(row)] for clip, row in zip(trained.media(rows), rows, strict=True)]
            self._spaces[kind] = Space.of(kind(), clips, self.rate)
        return self._spaces[kind]

    @cached_property
    def _spaces(self) -> dict[Any, Space]:
        return {}
