"""Modules that stay float32 when the network around them goes to half precision."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class KeepsPrecision(nn.Module):
    """Follows ``.to(device)`` and ignores ``.to(dtype)``, with all modules inside: a codebook's numbers mean nothing once rounded."""

    def _apply(self, fn: Any, recurse: bool = True) -> KeepsPrecision:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)
