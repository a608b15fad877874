"""Train heads on a toy task in the phases that they declare, such as a generator and its discriminator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jielong.apps.lab.toy_tasks import BATCH, Task
from jielong.config.sampling import SamplingConfig
from jielong.core.phases import phases_of, trained_parameters
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import Head, HeadContext, HeadSettings


@dataclass(frozen=True)
class Adam:
    """Settings of Adam.

    Attributes:
        lr: Initial learning rate, with linear decay to 0.
        betas: Its decay rates.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class TrainedPlayers:
    """A head trained in all its phases.

    Attributes:
        head: The head.
        losses: Mean loss of each phase over each of equal parts of the training, in order.
        finite: Whether every loss was finite; training ends at the first that is not.
    """

    head: Head
    losses: Mapping[str, Sequence[float]]
    finite: bool


def train_players(
    part: HeadSettings, task: Task, steps: int, seed: int, adam: Adam = Adam(), batch: int = BATCH, points: int = 40
) -> TrainedPlayers:
    """Train a head on blocks of one token, with new tokens at each step; keeps torch's global generator.

    As in the trainer, all phases of a step read the same tokens, the model's own first, and each has its own optimizer.

    Args:
        part: Settings of the head.
        task: Distribution to learn.
        steps: Steps, each with one update in each phase.
        seed: Seed of weights, tokens and the loss.
        adam: Optimizer of every phase.
        batch: Tokens per step, in equal numbers for each hidden vector.
        points: Parts of the training whose mean losses are kept, at most.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kinds, width = task.hidden.shape
        layout = Layout((1,), task.channels)
        head: Head = part.build(width, layout)
        phases = trained_parameters(phases_of(head))
        optimizers = {name: torch.optim.Adam(weights, betas=adam.betas, fused=True) for name, weights in phases.items()}
        hidden = task.hidden.repeat_interleave(batch // kinds, 0)[:, None]
        context, means = HeadContext(coords=layout.coordinates()), _Means(phases, steps, points)
        for step in range(steps):
            targets = task.sample(batch // kinds).flatten(0, 1)[:, None]
            head.on_train_step(step * batch)
            for phase, optimizer in optimizers.items():
                for other, weights in phases.items():
                    for weight in weights:
                        weight.requires_grad_(other == phase)
                optimizer.param_groups[0]["lr"] = adam.lr * (1 - step / steps)
                optimizer.zero_grad()
                loss = _loss(head, hidden, targets, replace(context, phase=phase))
                if not math.isfinite(value := loss.item()):
                    return TrainedPlayers(head.eval().requires_grad_(False), means.found(), finite=False)
                loss.backward()
                optimizer.step()
                means.add(phase, step, value)
    return TrainedPlayers(head.eval().requires_grad_(False), means.found(), finite=True)


def _loss(head: Head, hidden: Tensor, targets: Tensor, context: HeadContext) -> Tensor:
    """The mean loss of blocks of one token, ``(B, 1, D)`` and ``(B, 1, C)``, of a head that draws blocks or tokens."""
    if head.joint:
        return head.loss(hidden, targets, context).mean()
    return head.loss(hidden[:, 0], targets[:, 0], context).mean()


@torch.no_grad()
def sample_block(head: Head, task: Task, count: int, seed: int) -> Tensor:
    """Tokens ``(K, count, C)`` of a head, each drawn as a block of one."""
    hidden = task.hidden.repeat_interleave(count, 0)[:, None]
    context = HeadContext(coords=Layout((1,), task.channels).coordinates())
    values = head.sample(hidden, PerSampleRNG(seed, range(len(hidden))), SamplingConfig(), context).values
    return values[:, 0].unflatten(0, (len(task.hidden), count))


class _Means:
    """Mean losses of parts of a training."""

    def __init__(self, phases: Mapping[str, object], steps: int, points: int) -> None:
        self.steps, self.points = steps, min(points, steps)
        self.sums = {phase: [(0.0, 0)] * self.points for phase in phases}

    def add(self, phase: str, step: int, value: float) -> None:
        place = step * self.points // self.steps
        total, count = self.sums[phase][place]
        self.sums[phase][place] = total + value, count + 1

    def found(self) -> dict[str, list[float]]:
        return {phase: [total / count for total, count in parts if count] for phase, parts in self.sums.items()}
