"""What metrics of audio read: generated, real and reconstructed clips, and the speakers and training clips they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from jielong.core.json import JSON
from jielong.data.opening import open_quietly
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.evaluation.context import EvalContext
from jielong.evaluation.known import features_of
from jielong.evaluation.sound.features import Extractor, MelStatistics, Space, WhisperFeatures
from jielong.evaluation.sound.speakers import Speakers
from jielong.media.results import ResultItem, Results
from jielong.system import condition_inputs

KNOWN = 256
"""Most training clips that generated ones are compared with."""


@dataclass
class EvalAudio:
    """Clips to measure.

    Attributes:
        context: The system and its held-out items.
        conditions: Condition values of each item.
        durations: Requested seconds of each clip, if any were.
        sides: Clips ``(C, T)`` by the suffix of their figures: ``""`` generated, ``_real``, ``_rebuilt``.
        speakers: Speakers of the set, if it names them.
        drawn: How clips were sampled.
        items: The generated clips as they are saved.
        pairs: Samples most similar to training clips, then these, where they were looked for.
    """

    context: EvalContext
    conditions: Sequence[object] | None
    durations: list[float] | None
    sides: dict[str, list[Tensor]]
    speakers: Speakers | None = None
    drawn: JSON = field(default_factory=dict)
    items: Results[ResultItem] | None = None
    pairs: Results[ResultItem] | None = None

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.context.sounds.medium.sample_rate

    @property
    def spells(self) -> bool:
        """Whether the model speaks a text."""
        settings = self.context.system.recipe.condition
        return settings is not None and any(part.transcript for part in settings.components)

    @property
    def speaks(self) -> bool:
        """Whether the model generates speech: by its condition's inputs, or because the set names languages."""
        inputs = condition_inputs(self.context.system.recipe)
        return self.spells or any(each.speech for each in inputs) or "language" in self.context.sounds.columns

    @cached_property
    def languages(self) -> list[str]:
        """ISO 639-1 code of each item: by the set, otherwise by the condition, otherwise English."""
        sounds, settings = self.context.sounds, self.context.system.recipe.condition
        default = (settings and settings.spoken_language) or "en"
        languages = sounds.columns.get("language") or [default] * len(sounds)
        return [str(languages[sounds.resolve(row)] or default) for row in self.context.rows]

    @cached_property
    def known(self) -> tuple[MediaSet, list[int]]:
        """The training split, and the rows of it that are compared with."""
        system = self.context.system
        trained = open_quietly(self.context.source, "train", medium=system.tokenizer.media, settings=system.recipe.data, whole=True)
        return trained, spread(len(trained), KNOWN)

    def space(self, kind: type[WhisperFeatures] | type[MelStatistics]) -> Space:
        """Features standardised over the training split."""
        if kind not in self._spaces:
            extractor = kind()
            self._spaces[kind] = Space.fitted(extractor, self.trained_features(extractor, self.known[1]))
        return self._spaces[kind]

    def trained_features(self, extractor: Extractor, rows: list[int]) -> Tensor:
        """Features ``(n, D)`` of training clips, not standardised."""
        trained, _ = self.known

        def extract(clips: Tensor, some: Sequence[int]) -> Tensor:
            return extractor([clip[:, : trained.length(row)] for clip, row in zip(clips, some, strict=True)], self.rate)

        return features_of(trained, rows, extractor.details, extract, self.context.report, "features of training clips")

    @cached_property
    def _spaces(self) -> dict[type[WhisperFeatures] | type[MelStatistics], Space]:
        return {}
