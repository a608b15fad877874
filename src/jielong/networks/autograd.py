"""The context of custom autograd functions, for type checking."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class GradContext(Protocol):
    """What ``forward`` stores for ``backward``. ``saved_tensors``: those passed to :meth:`save_for_backward`; ``scale``: a constant."""

    saved_tensors: tuple[Tensor, ...]
    scale: float

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Store tensors."""
