"""What the trainer minimises: a model, its phases (model, discriminator), and for each the losses of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jielong.core.phases import MAIN
from jielong.core.rng import PerSampleRNG
from jielong.data.sets import Batch
from jielong.media.results import Results


@dataclass(frozen=True)
class Losses:
    """Losses of one batch.

    Attributes:
        total: The scalar to minimise.
        parts: Named scalars for the log (detached).
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StepRNG:
    """The random numbers a training step may use.

    Attributes:
        per_sample: One stream a sample, seeded by (seed, position of the sample in the run): the same whatever the number of
            processes or the accumulation.
        shared: One stream a step, the same on every process, seeded by (seed, samples seen).
    """

    per_sample: PerSampleRNG
    shared: torch.Generator


class Objective(nn.Module, ABC):
    """A model in training. Phases run one after the other on the same batch, each with an optimizer of its own."""

    model: nn.Module
    """What is kept in the end: it has the moving average, which follows when a phase trained it or a part of it, and its weights are
    the checkpoint."""

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The module that each phase trains, in order; a parameter belongs to the innermost (:func:`trained_parameters`)."""
        return {MAIN: self.model}

    def active(self, phase: str, samples_seen: int) -> bool:
        """Whether a phase runs yet."""
        return True

    def stage(self, samples_seen: int) -> int:
        """Which stage of its training the model is in. Where one ends, the next goes on from the averaged weights."""
        return 0

    def lr_ratio(self, phase: str) -> float:
        """A phase's learning rate over the recipe's."""
        return 1.0

    @abstractmethod
    def forward(self, batch: Batch, phase: str, samples_seen: int, draws: StepRNG) -> Losses:
        """Losses of a phase on a batch."""

    @abstractmethod
    def samples(self, model: nn.Module) -> Results[Any] | None:
        """Items of a sample grid by ``model`` (raw or EMA weights), of fixed inputs and seeds."""

    def statistics(self) -> dict[str, float]:
        """Numbers to log beside the losses, over the steps since the last call (codebook usage, perplexity)."""
        return {}

    def advice(self) -> str | None:
        """A warning about what the statistics show, with what to try; ``None`` when all is well."""
        return None

    def finish(self, model: nn.Module) -> None:
        """Measure what ``model`` must know of itself before it is kept; called once, by all processes, when training is over."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Held-out figures of ``model``, by name."""
