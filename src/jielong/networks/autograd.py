"""The context of custom autograd functions, for type checking."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class GradContext(Protocol):
    """What ``forward`` stores for ``backward``.

    Attributes:
        saved_tensors: Those passed to :meth:`save_for_backward`.
        scale: A constant.
    """

    saved_tensors: tuple[Tensor, ...]
    scale: float

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Store tensors."""
