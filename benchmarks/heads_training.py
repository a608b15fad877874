"""Heads trained side by side on the hidden vectors of one frozen backbone, for ``heads.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.data.sets import Batch
from jielong.generation.state import TrainingStates
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, SampleOutput
from jielong.heads.consistency import Consistency, Levels
from jielong.heads.diffusion import Diffusion
from jielong.heads.energy import Energy
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.heads.mean_flow import MeanFlow
from jielong.heads.regression import Regression
from jielong.heads.shortcut import Shortcut
from jielong.networks.denoiser import MLP, NetworkSettings
from jielong.training.experiment import Experiment
from jielong.training.objective import Losses, Objective, StepRNG


@dataclass(frozen=True)
class TrainingTargets:
    """Hidden vectors and targets of a head that is not joint.

    Attributes:
        hidden: Hidden vectors of the predicted positions, ``(M, D)``.
        targets: Their tokens, ``(M, C)``.
        weights: Weight of each in its item's loss, ``(M,)``.
    """

    hidden: Tensor
    targets: Tensor
    weights: Tensor


def targets_of(states: TrainingStates) -> TrainingTargets:
    """The predicted positions of a batch, without gradients of the hidden vectors."""
    mask = states.loss_mask
    return TrainingTargets(states.hidden[mask].detach(), states.targets[mask], states.weights[mask])


class ResidualHead(Head):
    """A head that reads ``hidden + network(hidden)``; an untrained network adds 0."""

    def __init__(self, head: Head, network: nn.Module) -> None:
        super().__init__()
        self.head, self.network, self.discrete = head, network, head.discrete

    def transformed(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, -2)
        return hidden + self.network(rows, None, rows).view_as(hidden)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        return self.head.loss(self.transformed(hidden), targets, context)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        self.head.check_sampling(sampling)

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        null = None if context.null is None else self.transformed(context.null)
        return self.head.sample(self.transformed(hidden), rng, sampling, replace(context, null=null))


def build_heads(names: Sequence[str], experiment: Experiment, samples: int, diffusion_batch_mul: int) -> dict[str, Head]:
    """Untrained heads, all with the layers and width of the recipe's network."""
    generator = experiment.generator
    assert generator is not None
    width, layout, recipe_head = generator.backbone.width, generator.layout, experiment.recipe.head
    network: NetworkSettings = getattr(recipe_head, "network", MLP())
    size = {"layers": getattr(network, "layers", 3), "width": getattr(network, "width", 256)}
    copies = {"diffusion_batch_mul": diffusion_batch_mul}
    iterative: dict[str, Any] = {"network": network, **copies}
    diffusion = recipe_head.model_copy(update=copies) if isinstance(recipe_head, Diffusion) else Diffusion(**iterative)
    parts: dict[str, Any] = {
        "diffusion": diffusion,
        "flow_matching": FlowMatching(**iterative),
        "mean_flow": MeanFlow(**iterative),
        "shortcut": Shortcut(**iterative, steps=4),
        "consistency": Consistency(**iterative, levels=Levels(samples=samples)),
        "energy": Energy(**size),
        "gaussian_mixture": GaussianMixture(),
        "regression": Regression(),
    }
    heads: dict[str, Head] = {}
    for name in names:
        torch.manual_seed(0)
        head: Head = parts[name].build(width, layout)
        if name in ("gaussian_mixture", "regression"):
            head = ResidualHead(head, network.build(inputs=width, outputs=width, hidden=width, times=0))
        heads[name] = head
    return heads


class HeadsObjective(Objective[nn.ModuleDict]):
    """One phase per head: gradients are clipped per head; all heads share the hidden vectors of a batch.

    Args:
        heads: Heads by name.
        targets: Hidden vectors and targets of a batch; see :class:`TrainingTargets`.
        tokens: Maximum number of positions per picture.
    """

    def __init__(self, heads: dict[str, Head], targets: Callable[[Batch, PerSampleRNG], TrainingTargets], tokens: int) -> None:
        super().__init__()
        self.model, self._targets, self.tokens = nn.ModuleDict(heads), targets, tokens
        self._latest: tuple[int, TrainingTargets] | None = None

    @property
    def phases(self) -> dict[str, nn.Module]:
        return dict(self.model.items())

    def forward(self, batch: Batch, phase: str, samples_seen: int, rng: StepRNG) -> Losses:
        if self._latest is None or self._latest[0] != samples_seen:
            self._latest = samples_seen, self._subset(self._targets(batch, rng.per_sample), len(batch) * self.tokens)
        targets, head = self._latest[1], self.model[phase]
        torch.manual_seed(samples_seen)  # so that a head's training does not depend on the other heads
        head.on_train_step(samples_seen)
        loss = (head.loss(targets.hidden, targets.targets) * targets.weights).sum() / targets.weights.sum()
        return Losses(loss, {phase: loss.detach()})

    def _subset(self, targets: TrainingTargets, maximum: int) -> TrainingTargets:
        rows = torch.randperm(len(targets.hidden))[:maximum].to(targets.hidden.device)
        return TrainingTargets(targets.hidden[rows], targets.targets[rows], targets.weights[rows])

    def clear(self) -> None:
        """Discard the hidden vectors of the latest batch."""
        self._latest = None

    def samples(self, model: nn.Module) -> None:
        return None

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}
