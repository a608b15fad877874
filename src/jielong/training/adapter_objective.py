"""The training objective of adapters: the base's loss on pictures of a subject, and prior preservation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jielong.core.phases import MAIN
from jielong.core.rng import PerSampleRNG, seed_of
from jielong.core.tokens import Tokens
from jielong.data.sets import Batch, MediaSet
from jielong.generation.generator import Generator
from jielong.networks import lora
from jielong.system.adapters import AdapterRecord, write_adapter
from jielong.training.adapting import UNNAMED, trained_tensors
from jielong.training.checkpoint import ADAPTER
from jielong.training.generator_objective import GeneratorObjective
from jielong.training.objective import Losses, StepRNG


@dataclass(frozen=True)
class Prior:
    """Class pictures: their set, their tokens, and the factor of their loss."""

    data: MediaSet
    tokens: Tokens
    weight: float

    def batch(self, rng: PerSampleRNG) -> Batch:
        """As many class pictures as samples, each drawn from its sample's stream."""
        drawn = rng.draws("class picture", torch.device("cpu")).uniform(1)[:, 0].double()
        rows = (drawn * len(self.data)).long().tolist()
        return self.data.tokenised(rows, self.tokens.values[rows])


class AdapterObjective(GeneratorObjective):
    """``L = L(pictures of the subject) + weight L(class pictures)``, of as many pictures each (DreamBooth, arXiv 2208.12242, equation 2).

    Args:
        arguments: Those of :class:`GeneratorObjective`.
        record: Of the adapter.
        prior: Class pictures; ``None`` without prior preservation.
        initial: Vectors that a new word began as.
    """

    result = ADAPTER

    def __init__(self, *arguments: Any, record: AdapterRecord, prior: Prior | None, initial: Tensor | None = None) -> None:
        super().__init__(*arguments)
        self.record, self.prior, self.initial = record, prior, initial
        self._calls = lora.Calls(self.model)

    def forward(self, batch: Batch, phase: str, samples_seen: int, rng: StepRNG) -> Losses:
        """The generator's loss in its one phase, and the class pictures' as ``prior_loss``."""
        own = super().forward(batch, phase, samples_seen, rng)
        if self.prior is None or phase != MAIN:
            return own
        # Streams of their own: class pictures do not share masks and noise with those of the subject.
        streams = PerSampleRNG(seed_of("prior preservation"), rng.per_sample.seeds, rng.per_sample.device)
        device = self.model.device
        classes = super().forward(self.prior.batch(streams).to(device), phase, samples_seen, StepRNG(streams, rng.shared))
        parts = {**own.parts, "subject_loss": own.total.detach(), "prior_loss": classes.total.detach()}
        return Losses(own.total + self.prior.weight * classes.total, parts)

    def advice(self) -> str | None:
        """The generator's; and once, which updates have no effect."""
        if missing := self._calls.missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            return (
                f"{', '.join(missing[:3])}{more}: nothing calls these maps, so their updates have no effect: leave them out of lora.targets"
            )
        return super().advice()

    def save(self, model: Generator, out: Path, recipe_yaml: str) -> None:
        """Write the adapter's file; one without a subject is called after the run's folder."""
        record = self.record if self.record.name != UNNAMED else replace(self.record, name=out.resolve().name)
        write_adapter(out / ADAPTER, record, trained_tensors(model, record, self.initial))
