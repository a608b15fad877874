"""What every quantizer asks of its inputs, in sentences; and the draws of one that was given no generator."""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.quantizers.parallel import sum_over_processes
from jielong.quantizers.vector import NonFiniteVectors


def flattened(vectors: Tensor, dim: int, together: bool = False) -> Tensor:
    """``(..., D)`` as float32 ``(M, D)``.

    Args:
        vectors: What is to be quantized.
        dim: The width ``D`` it must have.
        together: Every process is here, and all refuse when one of them must.

    Raises:
        ValueError: if the last axis is not ``D``.
        NonFiniteVectors: if a number is NaN or infinite.
    """
    if vectors.ndim == 0 or vectors.shape[-1] != dim:
        raise ValueError(f"vectors to quantize must be (..., {dim}) with the channels last, not {tuple(vectors.shape)}")
    flat = vectors.reshape(-1, dim).float()
    bad = (~torch.isfinite(flat.detach().sum())).long()  # one number tells: a sum with NaN or infinity in it is neither
    if int(sum_over_processes(bad) if together else bad):
        raise NonFiniteVectors("vectors to quantize hold NaN or infinite numbers; the encoder's last step diverged")
    return flat


def check_indices(indices: Tensor, codes: int, levels: int) -> None:
    """Raise ``ValueError`` unless ``indices`` are ``(..., K)`` whole numbers in ``[0, V)``."""
    if indices.ndim == 0 or indices.shape[-1] != levels:
        raise ValueError(f"code indices must be (..., {levels}), one a level on the last axis, not {tuple(indices.shape)}")
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < codes:
        raise ValueError(f"code indices must lie in [0, {codes:,}), but these span {int(indices.min())} to {int(indices.max())}")


def in_backward() -> bool:
    """Whether autograd is running a backward pass now, as it does when activation checkpointing repeats a forward."""
    return torch._C._current_graph_task_id() != -1


def refuse_repetition(what: str) -> None:
    """Raise ``RuntimeError`` inside a backward pass: a repeated forward would draw other numbers than the one it stands for."""
    if in_backward():
        raise RuntimeError(f"{what} was run inside a backward pass; leave it out of activation checkpointing")


def drawing(generator: torch.Generator | None, updates: Tensor) -> torch.Generator:
    """``generator``, or one seeded by the number of ``updates`` so far."""
    return generator or torch.Generator().manual_seed(int(updates))
