"""What a run reads: batches by position in one endless stream, fetched a step ahead; and random numbers by position too."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

import torch

from jielong.core.rng import PerSampleRNG, seed_of
from jielong.data.sets import Batch
from jielong.training.objective import StepRNG


class Source(Protocol):
    """An endless shuffled stream of training items."""

    def batch(self, first: int, count: int) -> Batch:
        """The items at global positions ``first`` to ``first + count - 1``, always the same ones; the position is the samples seen."""
        ...


class Feed:
    """Cuts every global batch into this process's micro-batches and fetches the next one while the present one is computed.

    Args:
        source: The stream.
        batch: Samples of a step, over all processes.
        micro_batch: Samples computed at once.
        rank: This process.
        world: Number of processes.
        seed: Of the random draws.
        device: Where batches go.

    Raises:
        ValueError: if the batch cannot be shared equally.
    """

    def __init__(self, source: Source, batch: int, micro_batch: int, rank: int, world: int, seed: int, device: torch.device) -> None:
        if batch % world:
            raise ValueError(f"a batch of {batch} samples cannot be shared equally by {world} processes; use a multiple of {world}")
        self.source, self.batch, self.seed, self.device = source, batch, seed, device
        self.share = batch // world
        self._parts = [(rank * self.share + first, min(micro_batch, self.share - first)) for first in range(0, self.share, micro_batch)]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._worker.shutdown(cancel_futures=True)

    def take(self, samples_seen: int) -> Sequence[tuple[int, Batch]]:
        """This process's micro-batches of the step at ``samples_seen``, each with its first position in the stream."""
        if self._next is None or self._next[0] != samples_seen:
            self._ask(samples_seen)
        assert self._next is not None
        batches = self._next[1].result()
        self._ask(samples_seen + self.batch)
        return [(samples_seen + first, part.to(self.device)) for (first, _), part in zip(self._parts, batches, strict=True)]

    def _ask(self, samples_seen: int) -> None:
        self._next = (samples_seen, self._worker.submit(self._fetch, samples_seen))

    def _fetch(self, samples_seen: int) -> list[Batch]:
        return [self.source.batch(samples_seen + first, count) for first, count in self._parts]

    def draws(self, samples_seen: int, first: int, count: int) -> StepRNG:
        """Random numbers of the samples at positions ``first`` to ``first + count - 1``.

        The shared stream starts anew for every micro-batch, so that what all samples of a step have in common stays common to all.
        """
        shared = torch.Generator().manual_seed(seed_of(self.seed, "shared", samples_seen))
        return StepRNG(PerSampleRNG(self.seed, range(first, first + count), self.device), shared)
