"""Who speaks in a set, and recordings of everyone that are not measured."""

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
"""Of a speaker, that are listened to."""


@dataclass(frozen=True)
class Speakers:
    """The speakers of a set.

    Attributes:
        column: Which says it.
        names: Who speaks in each of the measured items; ``None`` where that is not said.
        sounds: All of the set.
        places: Of everyone, by name: which of its items to listen to. None of them is measured, unless all of that speaker's are.
    """

    column: str
    names: list[str | None]
    sounds: MediaSet
    places: dict[str, list[int]]

    @staticmethod
    def of(measured: MediaSet, rows: Sequence[int], whole: MediaSet) -> Speakers | None:
        """The speakers of a set; ``None`` where no column says who speaks.

        Args:
            measured: The split that is measured.
            rows: Which of its items.
            whole: All of the set.
        """
        column = measured.speaker_column
        if column is None:
            return None
        taken = {measured.keys[measured.resolve(row)] for row in rows}
        everyone: dict[str, list[int]] = {}
        for place, name in enumerate(whole.columns[column]):
            if name is not None:
                everyone.setdefault(str(name), []).append(place)
        places = {}
        for name, own in everyone.items():
            others = [place for place in own if whole.keys[place] not in taken] or own
            places[name] = [others[index] for index in spread(len(others), RECORDINGS)]
        said = [measured.columns[column][measured.resolve(row)] for row in rows]
        return Speakers(column, [None if name is None else str(name) for name in said], whole, places)

    def recordings(self, name: str) -> list[Tensor]:
        """Those of a speaker, ``(C, T)``."""
        places = self.places[name]
        return [clip[:, : self.sounds.length(place)] for clip, place in zip(self.sounds.media(places), places, strict=True)]

    def prompt(self, index: int) -> Tensor | None:
        """A recording of the speaker of a measured item, ``(C, T)``; ``None`` where it is not said who that is."""
        name = self.names[index]
        if name is None:
            return None
        place = self.places[name][index % len(self.places[name])]
        return self.sounds.media([place])[0][:, : self.sounds.length(place)]

    @property
    def prompts(self) -> list[Tensor | None]:
        """:meth:`prompt` of every measured item."""
        return [self.prompt(index) for index in range(len(self.names))]

    @cached_property
    def everyone(self) -> list[str]:
        """All names, in order."""
        return sorted(self.places)

    def voices(self, encoder: SpeakerEncoder) -> Tensor:
        """The voice of each of :attr:`everyone`, averaged over recordings and of unit length, ``(speakers, 256)``; zeros where silent."""
        made = []
        for name in self.everyone:
            heard = [voice for voice in voices(self.recordings(name), self.sounds.medium.sample_rate, encoder) if voice is not None]
            made.append(F.normalize(torch.stack(heard).mean(0), dim=0) if heard else torch.zeros(encoder.linear.out_features))
        return torch.stack(made)
