"""How pictures or sound came to be: the tokens of every step as JSON, and an animation of the picture, or spectrogram, after each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from jielong.core.tokens import Tokens
from jielong.generation.callbacks import StepEvent
from jielong.media.images import animation, write_bytes
from jielong.media.results import Results
from jielong.system import System

FRAMES = 64
"""Most frames of an animation; longer chains skip steps evenly."""
SECONDS, LAST_SECONDS = 6.0, 2.0
"""How long an animation takes, and how long its last frame stands."""


class Recorder:
    """Keeps every step; give it to ``generate`` as ``watch``."""

    def __init__(self, system: System) -> None:
        """Record what a system makes."""
        self.system, self.layout = system, system.tokenizer.layout
        self._batches: list[list[StepEvent]] = []

    def __call__(self, moment: StepEvent) -> None:
        """Keep a step of a batch; batches come one after the other, each with steps from 1."""
        if moment.step == 1:
            self._batches.append([])
        self._batches[-1].append(moment)

    @property
    def count(self) -> int:
        """Steps of the batch that took most."""
        return max(map(len, self._batches))

    def steps(self) -> list[dict[str, Any]]:
        """Every step: guidance, and for each picture the positions that became known and their codes (or numbers)."""
        told = []
        for step in range(1, self.count + 1):
            rows = {}
            for moment in self._at(step):
                for row, new, values in zip(moment.rows, moment.new, moment.values, strict=True):
                    where = new.nonzero()[:, 0] if moment.step == step else []
                    rows[row] = {"positions": [int(place) for place in where], "tokens": values[where].tolist()}
            guidance = next(moment.guidance for moment in self._at(step) if moment.step == step)
            told.append({"step": step, "guidance": guidance, "pictures": [rows[row] for row in sorted(rows)]})
        return told

    def frames(self, made: Results[Any]) -> list[Image.Image]:
        """A sheet of all that was made after each step, as far as it can be shown (:meth:`Tokenizer.decode_known`)."""
        count = min(FRAMES, self.count)
        chosen = sorted({(index + 1) * self.count // count for index in range(count)})
        return [made.like(self._media(step)).sheet(scale=2) for step in chosen]

    def _at(self, step: int) -> list[StepEvent]:
        """Each batch's moment at a step, from 1; its last where it took fewer."""
        return [moments[min(step, len(moments)) - 1] for moments in self._batches]

    def _media(self, step: int) -> Tensor:
        moments = self._at(step)
        places = torch.tensor([row for moment in moments for row in moment.rows]).argsort()
        values, shown = torch.cat([moment.values for moment in moments]), torch.cat([moment.shown for moment in moments])
        return self.system.decode_known(Tokens(values[places], self.layout), shown[places])

    def write(self, folder: Path, stem: str, made: Results[Any], made_of: dict[str, Any]) -> None:
        """Write ``stem.json`` and ``stem.webp`` of what came of it in the end."""
        told = {**made_of, "captions": made.captions, "layout": self.layout.to_json(), "steps": self.steps()}
        write_bytes(folder / f"{stem}.json", json.dumps(told).encode())
        frames = self.frames(made)
        each = SECONDS / len(frames)
        write_bytes(folder / f"{stem}.webp", animation(frames, [*[each] * (len(frames) - 1), LAST_SECONDS]))
