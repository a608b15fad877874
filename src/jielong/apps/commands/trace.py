"""Traces of generation: tokens of each step as JSON, and an animation of the decoded steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from jielong.core.files import write_bytes
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepEvent
from jielong.media.images import animation
from jielong.media.results import Results
from jielong.system import System

FRAMES = 64
"""Largest number of frames; longer runs skip steps evenly."""
SECONDS, LAST_SECONDS = 6.0, 2.0
"""Duration of an animation and of its last frame."""


class Recorder:
    """Step callback (``on_step``) that records every step. ``layout``: of what is drawn, the tokenizer's by default."""

    def __init__(self, system: System, layout: Layout | None = None) -> None:
        self.system, self.layout = system, layout or system.tokenizer.layout
        self._batches: list[list[StepEvent]] = []

    def __call__(self, event: StepEvent) -> None:
        """Record a step; the steps of each batch start at 1."""
        if event.step == 1:
            self._batches.append([])
        self._batches[-1].append(event)

    @property
    def count(self) -> int:
        """Largest number of steps of a batch."""
        return max(map(len, self._batches))

    def steps(self) -> list[dict[str, object]]:
        """Guidance of every step, and each item's newly known positions and tokens."""
        steps: list[dict[str, object]] = []
        for step in range(1, self.count + 1):
            rows = {}
            for event in self._at(step):
                for row, new, values in zip(event.rows, event.new, event.values, strict=True):
                    positions = new.nonzero()[:, 0] if event.step == step else []
                    rows[row] = {"positions": [int(position) for position in positions], "tokens": values[positions].tolist()}
            guidance = next(event.guidance for event in self._at(step) if event.step == step)
            steps.append({"step": step, "guidance": guidance, "pictures": [rows[row] for row in sorted(rows)]})
        return steps

    def frames(self, results: Results[Any]) -> list[Image.Image]:
        """A grid of all items decoded after each step (:meth:`Tokenizer.decode_known`)."""
        count = min(FRAMES, self.count)
        chosen = sorted({(index + 1) * self.count // count for index in range(count)})
        return [results.like(self._media(step)).sheet(scale=2) for step in chosen]

    def _at(self, step: int) -> list[StepEvent]:
        """Each batch's event at a step, from 1, or its last event if it has fewer."""
        return [events[min(step, len(events)) - 1] for events in self._batches]

    def _media(self, step: int) -> Tensor:
        events = self._at(step)
        order = torch.tensor([row for event in events for row in event.rows]).argsort()
        values, shown = torch.cat([event.values for event in events]), torch.cat([event.shown for event in events])
        return self.system.decode_known(Tokens(values[order], self.layout), shown[order])

    def write(self, folder: Path, stem: str, results: Results[Any], origin: dict[str, object]) -> None:
        """Write ``stem.json`` and ``stem.webp``."""
        record = {**origin, "captions": results.captions, "layout": self.layout.to_json(), "steps": self.steps()}
        write_bytes(folder / f"{stem}.json", json.dumps(record).encode())
        frames = self.frames(results)
        each = SECONDS / len(frames)
        write_bytes(folder / f"{stem}.webp", animation(frames, [*[each] * (len(frames) - 1), LAST_SECONDS]))
