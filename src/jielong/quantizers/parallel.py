"""One batch over all processes: sums, and rows drawn from everybody's vectors. Without torch.distributed both are local."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of everybody's tensor, in place, equal on every process."""
    if world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def pick_rows(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` rows of everybody's vectors laid end to end, ``(count, D)``, drawn without replacement and equal on every process.

    Every process must call this together. The first process's generator decides; the numbers of rows may differ. When fewer rows exist
    than are asked for, the drawn order is repeated.

    Raises:
        ValueError: if no process has any row.
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
    mine = (wanted >= 0) & (wanted < vectors.shape[0])
    rows = vectors.new_zeros(count, vectors.shape[1])
    rows[mine] = vectors[wanted[mine]]
    return sum_over_processes(rows)  # each row is a vector plus zeros, so it arrives exactly


def from_first(tensor: Tensor) -> Tensor:
    """The first process's tensor, in place, on every process."""
    if world()[1] > 1:
        dist.broadcast(tensor, src=0)
    return tensor
