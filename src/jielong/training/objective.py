"""The training objective: a model, the phases of a step (model, discriminator), and the losses of each.

In all methods ``samples_seen`` is the position of the step in the schedules: under a budget of wall time it may be ahead of the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from jielong.core.json import JSON
from jielong.core.phases import MAIN
from jielong.core.rng import PerSampleRNG
from jielong.data.sets import Batch
from jielong.media.results import ResultItem, Results
from jielong.training.checkpoint import WEIGHTS, save_checkpoint

Model = TypeVar("Model", bound=nn.Module)


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
    """Random numbers of a training step.

    Attributes:
        per_sample: One stream per sample, seeded by (seed, position of the sample in the run), whatever the number of processes or the
            accumulation.
        shared: One stream per step, the same on every process, seeded by (seed, samples seen).
    """

    per_sample: PerSampleRNG
    shared: torch.Generator


class Objective(nn.Module, ABC, Generic[Model]):
    """A model in training. Phases run one after the other on the same batch, each with its own optimizer."""

    model: Model
    """The model of the checkpoint. Its EMA is updated in every step in which a phase trains it or a part of it."""

    figures: Mapping[str, bool] = MappingProxyType({})
    """Held-out figures of :meth:`evaluate`, and whether higher is better; none where no items are held out."""
    keeps_best: bool = False
    """Whether the first of them tells which weights are better at any two times of the run."""
    result: str = WEIGHTS
    """The file that :meth:`save` writes last, by which a finished run is known."""

    frozen: Set[str] = frozenset()
    """Names of the model's tensors that ``train.freeze`` keeps as they are."""
    still: Sequence[nn.Module] = ()
    """Modules that stay in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but :attr:`still`."""
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The module that each phase trains, in order; a parameter belongs to the innermost (:func:`trained_parameters`)."""
        return {MAIN: self.model}

    def active(self, phase: str, samples_seen: int) -> bool:
        """Whether a phase has started."""
        return True

    def training_stage(self, samples_seen: int) -> int:
        """Number of the model's training stage; each begins with the EMA weights of the one before."""
        return 0

    def lr_ratio(self, phase: str) -> float:
        """Ratio of a phase's learning rate to the recipe's."""
        return 1.0

    @abstractmethod
    def forward(self, batch: Batch, phase: str, samples_seen: int, rng: StepRNG) -> Losses:
        """Losses of a phase on a batch."""

    @abstractmethod
    def samples(self, model: Model) -> Results[ResultItem] | None:
        """Items of a sample grid by ``model`` (raw or EMA weights), with fixed inputs and seeds."""

    def statistics(self) -> dict[str, float]:
        """Figures to log beside the losses, over the steps since the last call (codebook usage, perplexity)."""
        return {}

    def advice(self) -> str | None:
        """A warning about the statistics, with what to try; ``None`` for none."""
        return None

    def finish(self, model: Model) -> None:
        """Calibrate ``model`` before it is saved; called once, by all processes, after the last step."""

    def save(self, model: Model, out: Path, recipe_yaml: str) -> None:
        """Write what the run was for into its folder: the checkpoint of ``model``, with the recipe that rebuilds it."""
        save_checkpoint(out, model, recipe_yaml)

    @abstractmethod
    def evaluate(self, model: Model) -> JSON:
        """Held-out figures of ``model``, by name."""
