"""How fast a block is revealed: the steps of an order, and which positions come in which of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from jielong.config.speed import Schedule, TwoStage
from jielong.core.rng import PerSampleRNG
from jielong.orders.base import Order, Step


@dataclass(frozen=True)
class Pace:
    """How fast to go.

    Attributes:
        steps: Steps a block; the order's own number if not given.
        schedule: How the share of unknown positions falls; the order's own if not given.
        two_stage: A checkerboard first, if given.
    """

    steps: int | None = None
    schedule: Schedule | None = None
    two_stage: TwoStage | None = None

    def plan(self, order: Order, where: Tensor, unknown: Tensor) -> list[Step]:
        """The steps of a block.

        Args:
            order: The order.
            where: ``(n, axes)`` coordinates of the block's positions, on the CPU.
            unknown: ``(B, n)`` bool, as many in every item.
        """
        count = int(unknown[0].sum())
        if not count:
            return []
        plan = list(order.steps(count, self.steps, self.schedule))
        if self.two_stage is None or len(plan) < 2:
            return plan
        early = int((unknown[0].cpu() & _checkerboard(where)).sum())
        if early in (0, count):
            return plan
        late_steps = min(self.two_stage.detail_steps, len(plan) - 1)
        early_steps = list(order.steps(early, len(plan) - late_steps, self.schedule))
        late = list(order.steps(count - early, late_steps, self.schedule))
        return list(_joined(early_steps, late, count - early))

    def queue(self, order: Order, where: Tensor, unknown: Tensor, rng: PerSampleRNG) -> Tensor | None:
        """Which positions come first, ``(B, unknown)``; see :meth:`Order.queue`.

        Raises:
            ValueError: if two stages are asked of an order that chooses after it has drawn.
        """
        queue = order.queue(unknown, rng)
        if self.two_stage is None:
            return queue
        if queue is None:
            raise ValueError(
                "two stages need an order that chooses positions before it draws: order: {masked: {choose: random}}; or leave out two_stage"
            )
        late = ~_checkerboard(where).to(queue.device)
        return queue.gather(1, late[queue].int().argsort(dim=1, stable=True))


def _checkerboard(where: Tensor) -> Tensor:
    """``(n,)`` bool: positions of the first stage."""
    return where.sum(1).remainder(2) == 0


def _joined(early: list[Step], late: list[Step], details: int) -> Iterator[Step]:
    """One plan after the other; ``details`` positions stay unknown through the first."""
    count = len(early) + len(late)
    for step in early:
        yield Step(step.index, count, step.hidden_before + details, step.hidden_after + details)
    for step in late:
        yield replace(step, index=len(early) + step.index, count=count)
