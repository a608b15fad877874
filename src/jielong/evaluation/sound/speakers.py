"""Speakers of a data set, and reference recordings of each that are not evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.evaluation.sound.voices import voices
from jielong.networks.speaker import SpeakerEncoder

RECORDINGS = 8
"""Maximum number of reference recordings per speaker."""


@dataclass(frozen=True)
class Speakers:
    """The speakers of a set.

    Attributes:
        column: Column with the speaker's name.
        names: Speaker of each evaluated item; ``None`` if unknown.
        sounds: The whole data set.
        references: Indices of reference recordings by speaker. None of them is evaluated, unless all recordings of the speaker are.
    """

    column: str
    names: list[str | None]
    sounds: MediaSet
    references: dict[str, list[int]]

    @staticmethod
    def of(evaluated: MediaSet, rows: Sequence[int], whole: MediaSet) -> Speakers | None:
        """The speakers of a set; ``None`` without a speaker column.

        Args:
            evaluated: The evaluated split.
            rows: Indices of its evaluated items.
            whole: The whole data set.
        """
        column = evaluated.speaker_column
        if column is None:
            return None
        excluded = {evaluated.keys[evaluated.resolve(row)] for row in rows}
        by_speaker: dict[str, list[int]] = {}
        for index, name in enumerate(whole.columns[column]):
            if name is not None:
                by_speaker.setdefault(str(name), []).append(index)
        references = {}
        for name, indices in by_speaker.items():
            others = [index for index in indices if whole.keys[index] not in excluded] or indices
            references[name] = [others[number] for number in spread(len(others), RECORDINGS)]
        names = [evaluated.columns[column][evaluated.resolve(row)] for row in rows]
        return Speakers(column, [None if name is None else str(name) for name in names], whole, references)

    def recordings(self, name: str) -> list[Tensor]:
        """Reference recordings of a speaker, ``(C, T)`` each."""
        indices = self.references[name]
        return [clip[:, : self.sounds.length(index)] for clip, index in zip(self.sounds.media(indices), indices, strict=True)]

    def prompt(self, item: int) -> Tensor | None:
        """A reference recording of the speaker of an evaluated item, ``(C, T)``; ``None`` if the speaker is unknown."""
        name = self.names[item]
        if name is None:
            return None
        index = self.references[name][item % len(self.references[name])]
        return self.sounds.media([index])[0][:, : self.sounds.length(index)]

    @property
    def prompts(self) -> list[Tensor | None]:
        """:meth:`prompt` of every evaluated item."""
        return [self.prompt(item) for item in range(len(self.names))]

    @cached_property
    def all_names(self) -> list[str]:
        """Names of all speakers, sorted."""
        return sorted(self.references)

    def voices(self, encoder: SpeakerEncoder) -> Tensor:
        """Mean speaker embedding of each of :attr:`all_names`, ``(speakers, 256)``, of unit length; zeros if silent."""
        means = []
        for name in self.all_names:
            embeddings = [voice for voice in voices(self.recordings(name), self.sounds.medium.sample_rate, encoder) if voice is not None]
            means.append(F.normalize(torch.stack(embeddings).mean(0), dim=0) if embeddings else torch.zeros(encoder.linear.out_features))
        return torch.stack(means)
