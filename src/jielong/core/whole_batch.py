"""What the micro-batches of a training step do together: starts, statistics and updates of the whole batch.

A module calls :func:`at_start`, :func:`mean_over_batch` and :func:`at_step_end` in its forward pass, with tensors of the items that it
sees. Outside of a step these are the batch, and everything happens at once. In a step (:class:`WholeBatch`), what must be known before the
losses is collected in passes of its own where the batch is divided, and updates wait for the end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType

import torch
from torch import Generator, Tensor

Update = Callable[..., None]
"""``update(generator, *parts)``: a method that changes a module's state by parts ``(M, ...)`` of the whole batch."""


class StartPending(Exception):  # noqa: N818 - nothing is wrong
    """A module starts from the whole batch and has this micro-batch only; the pass is repeated."""


class WholeBatch:
    """One phase of a step. ``divided``: whether it has several micro-batches."""

    def __init__(self, divided: bool) -> None:
        self.divided, self._share, self._place = divided, 1.0, 0
        self.wanting = False
        """Whether a start or a statistic needs the other micro-batches too."""
        self._updates: dict[Update, tuple[Generator | None, list[tuple[Tensor, ...]]]] = {}
        self._starts: dict[Update, tuple[Generator, list[tuple[Tensor, ...]]]] = {}
        self._started: dict[int, Generator] = {}
        self._sums: dict[int, Tensor] = {}
        self._known: dict[int, Tensor] = {}

    def __enter__(self) -> WholeBatch:
        self._token: Token[WholeBatch | None] = _CURRENT.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _CURRENT.reset(self._token)

    def begin(self, share: float) -> None:
        """Before the forward pass of a micro-batch that is this share of the batch."""
        self._share, self._place = share, 0

    def collect(self) -> None:
        """Begin a pass over all micro-batches that only collects."""
        self._updates.clear()
        self._starts.clear()
        self._sums.clear()

    def collected(self) -> bool:
        """End such a pass: perform a start that waits, and another pass is needed, or keep the statistics."""
        for update, (generator, parts) in self._starts.items():
            self._starts = {}
            stream = self._started.setdefault(generator.initial_seed(), generator)
            update(stream, *(torch.cat(column) for column in zip(*parts, strict=True)))
            return False
        self._known, self._sums, self.wanting = dict(self._sums), {}, False
        self._updates.clear()
        return True

    def start(self, update: Update, generator: Generator, parts: tuple[Tensor, ...]) -> None:
        """See :func:`at_start`."""
        if not self.divided:
            update(generator, *parts)
            return
        self.wanting = True
        self._starts.setdefault(update, (generator, []))[1].append(parts)
        raise StartPending

    def mean(self, value: Tensor) -> Tensor:
        """See :func:`mean_over_batch`; statistics are known by their order in the pass."""
        if not self.divided:
            return value
        place, self._place = self._place, self._place + 1
        if place in self._known:
            return self._known[place]
        self.wanting = True
        weighted = value.detach() * self._share
        self._sums[place] = self._sums[place] + weighted if place in self._sums else weighted
        return value

    def defer(self, update: Update, generator: Generator | None, parts: tuple[Tensor, ...]) -> None:
        """See :func:`at_step_end`."""
        held = self._updates.get(update, (None, []))[1]
        self._updates[update] = generator, [*held, parts]

    def update(self) -> None:
        """Perform the updates that wait, in the order of their first request."""
        for update, (generator, parts) in self._updates.items():
            stream = generator if generator is None else self._started.get(generator.initial_seed(), generator)
            update(stream, *(torch.cat(column) for column in zip(*parts, strict=True)))
        self._updates.clear()


_CURRENT: ContextVar[WholeBatch | None] = ContextVar("whole_batch", default=None)


def at_start(update: Update, generator: Generator, *parts: Tensor) -> None:
    """``update(generator, *parts)`` with the parts of the whole batch, before anything else reads the state.

    Raises :class:`StartPending` in a divided step, which is repeated from there.
    """
    whole = _CURRENT.get()
    if whole is None:
        update(generator, *parts)
    else:
        whole.start(update, generator, parts)


def at_step_end(update: Update, generator: Generator | None, *parts: Tensor) -> None:
    """``update(generator, *parts)`` with the parts of the whole batch, once the step is known to be finite."""
    whole = _CURRENT.get()
    if whole is None:
        update(generator, *parts)
    else:
        whole.defer(update, generator, parts)


def mean_over_batch(value: Tensor) -> Tensor:
    """The mean of ``value`` over the micro-batches of a step, weighted by their items, without gradient.

    Every micro-batch must call it for the same statistics in the same order.
    """
    whole = _CURRENT.get()
    return value if whole is None else whole.mean(value)
