"""The steps of a block, and which positions come in which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.orders.base import Order, Step


def plan_steps(order: Order, config: SamplingConfig, coords: Tensor, unknown: Tensor) -> list[Step]:
    """The steps of a block.

    Args:
        config: Its ``steps``, ``schedule`` and ``detail_steps`` are read.
        coords: ``(n, axes)`` coordinates of the block's positions, on the CPU.
        unknown: ``(B, n)`` bool, as many in every item.
    """
    count = int(unknown[0].sum())
    if not count:
        return []
    steps = list(order.steps(count, config.steps, config.schedule))
    if config.detail_steps is None or len(steps) < 2:
        return steps
    early = int((unknown[0].cpu() & _checkerboard(coords)).sum())
    if early in (0, count):
        return steps
    late_steps = min(config.detail_steps, len(steps) - 1)
    early_steps = list(order.steps(early, len(steps) - late_steps, config.schedule))
    late = list(order.steps(count - early, late_steps, config.schedule))
    return list(_joined(early_steps, late, count - early))


def reveal_queue(order: Order, config: SamplingConfig, coords: Tensor, unknown: Tensor, rng: PerSampleRNG) -> Tensor | None:
    """See :meth:`Order.queue`. Raises ``ValueError`` if ``detail_steps`` are set and the order chooses after it has drawn."""
    queue = order.queue(unknown, rng)
    if config.detail_steps is None:
        return queue
    if queue is None:
        raise ValueError("detail_steps need an order that chooses positions before it draws: order: {masked: {choose: random}}")
    late = ~_checkerboard(coords).to(queue.device)
    return queue.gather(1, late[queue].int().argsort(dim=1, stable=True))


def _checkerboard(coords: Tensor) -> Tensor:
    """``(n,)`` bool: positions of the first stage."""
    return coords.sum(1).remainder(2) == 0


def _joined(early: list[Step], late: list[Step], details: int) -> Iterator[Step]:
    """One plan after the other; ``details`` positions stay unknown through the first."""
    count = len(early) + len(late)
    for step in early:
        yield Step(step.index, count, step.hidden_before + details, step.hidden_after + details)
    for step in late:
        yield replace(step, index=len(early) + step.index, count=count)
