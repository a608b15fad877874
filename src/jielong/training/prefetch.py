"""Prefetching batch loader: batches and random numbers by position in one endless stream."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

import torch

from jielong.core.rng import PerSampleRNG, seed_of
from jielong.data.sets import Batch
from jielong.training.objective import StepRNG


class BatchSource(Protocol):
    """An endless shuffled stream of training items."""

    def batch(self, first: int, count: int) -> Batch:
        """The items at global positions ``first`` to ``first + count - 1``, always the same ones; the position is the samples seen."""
        ...


class BatchPrefetcher:
    """Cuts global batches into this process's micro-batches and loads the next one while the current one is computed.

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

    def __init__(self, source: BatchSource, batch: int, micro_batch: int, rank: int, world: int, seed: int, device: torch.device) -> None:
        if batch % world:
            raise ValueError(f"train.batch: {batch} samples cannot be shared equally by {world} processes; use a multiple of {world}")
        self.source, self.batch, self.seed, self.device = source, batch, seed, device
        self.local_batch = count = batch // world
        self._slices = [(rank * count + first, min(micro_batch, count - first)) for first in range(0, count, micro_batch)]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def __enter__(self) -> BatchPrefetcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._worker.shutdown(cancel_futures=True)

    def take(self, samples_seen: int) -> Sequence[tuple[int, Batch]]:
        """This process's micro-batches of the step at ``samples_seen``, each with its first position in the stream."""
        batches = self._requested(samples_seen).result()
        self._next = (samples_seen + self.batch, self._submit(samples_seen + self.batch))
        return [(samples_seen + first, part.to(self.device)) for (first, _), part in zip(self._slices, batches, strict=True)]

    def _requested(self, samples_seen: int) -> Future[list[Batch]]:
        return self._next[1] if self._next is not None and self._next[0] == samples_seen else self._submit(samples_seen)

    def _submit(self, samples_seen: int) -> Future[list[Batch]]:
        return self._worker.submit(lambda: [self.source.batch(samples_seen + first, count) for first, count in self._slices])

    def rng(self, samples_seen: int, first: int, count: int) -> StepRNG:
        """Random numbers of the samples at positions ``first`` to ``first + count - 1``.

        The shared stream starts again for every micro-batch, so that all samples of a step share its numbers.
        """
        shared = torch.Generator().manual_seed(seed_of(self.seed, "shared", samples_seen))
        return StepRNG(PerSampleRNG(self.seed, range(first, first + count), self.device, samples_seen), shared)
