"""How pictures came to be: the tokens of every step as JSON, and an animation of the picture after each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from jielong.generator import Moment
from jielong.media.images import animation, sheet, to_bytes, write_bytes
from jielong.system import System
from jielong.tokens import Tokens

FRAMES = 64
"""Most frames of an animation; longer chains skip steps evenly."""
SECONDS, LAST_SECONDS = 6.0, 2.0
"""How long an animation takes, and how long its last frame stands."""


class Recorder:
    """Keeps every step; give it to ``generate`` as ``watch``."""

    def __init__(self, system: System) -> None:
        """Record pictures of a system."""
        self.system, self.layout = system, system.tokenizer.layout
        self._steps: list[list[Moment]] = []

    def __call__(self, moment: Moment) -> None:
        """Keep a step of a batch; batches come one after the other, each with steps from 1."""
        if moment.step > len(self._steps):
            self._steps.append([])
        self._steps[moment.step - 1].append(moment)

    def steps(self) -> list[dict[str, Any]]:
        """Every step: guidance, and for each picture the positions that became known and their codes (or numbers)."""
        told = []
        for number, parts in enumerate(self._steps, start=1):
            rows = [(new.nonzero()[:, 0], values) for part in parts for new, values in zip(part.new, part.values, strict=True)]
            pictures = [{"positions": where.tolist(), "tokens": values[where].tolist()} for where, values in rows]
            told.append({"step": number, "guidance": parts[0].guidance, "pictures": pictures})
        return told

    def frames(self) -> list[Image.Image]:
        """A sheet of all pictures after each step, as far as they are known (:meth:`jielong.tokenizers.base.Tokenizer.decode_known`)."""
        count = min(FRAMES, len(self._steps))
        chosen = sorted({(index + 1) * len(self._steps) // count - 1 for index in range(count)})
        return [sheet(to_bytes(self._picture(step)), scale=2) for step in chosen]

    def _picture(self, step: int) -> Tensor:
        values = torch.cat([part.values for part in self._steps[step]])
        known = torch.cat([part.known for part in self._steps[step]])
        return self.system.decode_known(Tokens(values, self.layout), known)

    def write(self, folder: Path, stem: str, made_of: dict[str, Any]) -> None:
        """Write ``stem.json`` and ``stem.webp``."""
        write_bytes(folder / f"{stem}.json", json.dumps({**made_of, "layout": self.layout.to_json(), "steps": self.steps()}).encode())
        frames = self.frames()
        each = SECONDS / len(frames)
        write_bytes(folder / f"{stem}.webp", animation(frames, [*[each] * (len(frames) - 1), LAST_SECONDS]))
