"""Custom autograd functions: their context, for type checking, and where they may not be called."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class GradContext(Protocol):
    """What ``forward`` stores for ``backward``. ``saved_tensors``: those passed to :meth:`save_for_backward`; ``scale``: a constant."""

    saved_tensors: tuple[Tensor, ...]
    scale: float

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Store tensors."""


def transformed() -> bool:
    """Whether ``torch.func`` differentiates what runs now (``jvp``); custom functions and fused attention have no such derivative."""
    return bool(torch._C._are_functorch_transforms_active())
