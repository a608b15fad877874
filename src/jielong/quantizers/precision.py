"""Modules that stay float32 when the network around them goes to half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class KeepsPrecision(nn.Module):
    """Follows ``.to(device)`` and ignores ``.to(dtype)``, as do the modules inside: rounded codebooks and averages are useless."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)
