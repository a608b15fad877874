"""Checks of a quantizer's inputs, and the generators of its draws.

Checks of values are left out of an exported graph, which has no exceptions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.core.rng import Draws, PerSampleRNG
from jielong.quantizers.parallel import sum_over_processes


class NonFiniteVectors(ValueError):  # noqa: N818 - named for what was found
    """The vectors to quantize hold NaN or infinite numbers; raised on every process together, before any state changes."""


def flattened(vectors: Tensor, dim: int) -> Tensor:
    """``(..., D)`` as float32 ``(M, D)``. Raises ``ValueError`` if the last axis is not ``D``."""
    if vectors.ndim == 0 or vectors.shape[-1] != dim:
        raise ValueError(f"vectors to quantize must be (..., {dim}) with the channels last, not {tuple(vectors.shape)}")
    return vectors.reshape(-1, dim).float()


def check_finite(numbers: Tensor, together: bool = False) -> None:
    """Raise :class:`NonFiniteVectors` if a number is NaN or infinite; on all processes if ``together`` and one of them has any."""
    if torch.compiler.is_exporting():
        return
    bad = (~torch.isfinite(numbers)).sum()
    if int(sum_over_processes(bad) if together else bad):
        count = f"{int(bad)} " if numbers.ndim else ""
        raise NonFiniteVectors(f"{count}vectors to quantize hold NaN or infinite numbers; the encoder's last step diverged")


def checked(vectors: Tensor, dim: int, together: bool = False) -> Tensor:
    """:func:`flattened`, of finite numbers; ``together`` as in :func:`check_finite`."""
    flat = flattened(vectors, dim)
    check_finite(flat.detach().sum(), together)  # a sum with NaN or infinity in it is neither
    return flat


def check_indices(indices: Tensor, codebook_size: int, num_codebooks: int) -> None:
    """Raise ``ValueError`` unless ``indices`` are ``(..., K)`` whole numbers in ``[0, V)``."""
    if indices.ndim == 0 or indices.shape[-1] != num_codebooks:
        raise ValueError(f"code indices must be (..., {num_codebooks}), one per codebook on the last axis, not {tuple(indices.shape)}")
    if not torch.compiler.is_exporting() and indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < codebook_size:
        raise ValueError(f"code indices must lie in [0, {codebook_size:,}), but these span {int(indices.min())} to {int(indices.max())}")


def in_backward() -> bool:
    """Whether autograd is running a backward pass, as it does when activation checkpointing repeats a forward."""
    return torch._C._current_graph_task_id() != -1


def refuse_repetition(name: str) -> None:
    """Raise ``RuntimeError`` inside a backward pass, where a repeated forward would draw other numbers or count twice."""
    if in_backward():
        raise RuntimeError(f"{name} was run inside a backward pass; leave it out of activation checkpointing")


def generator_or_seeded(generator: torch.Generator | None, updates: Tensor) -> torch.Generator:
    """``generator``, or one seeded by the number of ``updates`` so far."""
    return generator or torch.Generator().manual_seed(int(updates))


def item_draws(rng: PerSampleRNG | None, generator: torch.Generator, vectors: Tensor) -> Draws:
    """A stream for each item of ``vectors`` ``(B, ...)``: those of ``rng``, or fresh ones from ``generator``."""
    return Draws.fresh(len(vectors), vectors.device, generator) if rng is None else rng.draws("quantizer", vectors.device)
