"""Sums and random rows over the batches of all processes; local without torch.distributed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of all processes' tensors, in place, equal on every process."""
    if world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_over_processes(tensor: Tensor) -> Tensor:
    """Mean of all processes' tensors, equal on every process."""
    processes = world()[1]
    return tensor if processes == 1 else sum_over_processes(tensor.clone()) / processes


def pick_rows(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` rows of all processes' vectors, ``(count, D)``, drawn without replacement, equal on every process.

    All processes must call it together; the first process's generator counts. When there are fewer rows, the drawn order is repeated.
    Raises ``ValueError`` if no process has any row.
    """
    rank, processes = world()
    sizes = torch.zeros(processes, dtype=torch.long, device=vectors.device)
    sizes[rank] = vectors.shape[0]
    sum_over_processes(sizes)
    total, first = int(sizes.sum()), int(sizes[:rank].sum())
    if total == 0:
        raise ValueError("a codebook cannot be filled from a batch without vectors; give at least one")
    order = torch.randperm(total, generator=generator, device=generator.device).to(vectors.device)
    if processes > 1:
        dist.broadcast(order, src=0)
    wanted = order.repeat(-(-count // total))[:count] - first
    local = (wanted >= 0) & (wanted < vectors.shape[0])
    rows = vectors.new_zeros(count, vectors.shape[1])
    rows[local] = vectors[wanted[local]]
    return sum_over_processes(rows)  # each row is a vector plus zeros, so it arrives exactly


def from_first(tensor: Tensor) -> Tensor:
    """The first process's tensor, in place, on every process."""
    if world()[1] > 1:
        dist.broadcast(tensor, src=0)
    return tensor
