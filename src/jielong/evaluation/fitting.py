"""The training loop of the small networks that measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def steps_of(count: int, batch: int) -> int:
    """Steps of an epoch of ``count`` examples; a last batch that is not full is left out, unless it is the only one."""
    return max(1, count // batch)


def fit(
    count: int,
    batch: int,
    generator: torch.Generator,
    loss_of: Callable[[Tensor], Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler,
) -> Iterator[float]:
    """Train without end; the mean loss of each epoch.

    Args:
        count: Examples.
        batch: Examples of a step.
        generator: Draws the order of each epoch.
        loss_of: The loss of the examples whose numbers are given, ``(B,)``.
        optimizer: Of the network's parameters.
        schedule: Advanced after every step.
    """
    while True:
        total, steps = 0.0, steps_of(count, batch)
        for rows in torch.randperm(count, generator=generator).split(batch)[:steps]:
            loss = loss_of(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        yield total / steps
