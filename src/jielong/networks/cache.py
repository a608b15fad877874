"""The key-value cache of a transformer, allocated once and written in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.networks.layers import LayerCondition

if TYPE_CHECKING:
    from jielong.networks.fused_inference import FusedLayers, PlainLayers


@dataclass
class Cache:
    """A static key-value cache with a cursor, :attr:`length`: slots before it are never written again, later ones are scratch space."""

    # (layers, 2, B, heads, capacity, head width): keys and values. Fused inference pairs the channels of keys that are rotated together
    # (jielong.networks.fused_inference).
    memory: Tensor
    length: int = 0  # the cursor: number of committed slots, the prefix included
    bias: Tensor | None = None  # (B, 1, 1, capacity), minus infinity at masked slots; None when nothing is masked
    condition: LayerCondition = field(default_factory=LayerCondition)
    prefix: int = 0  # first slots, which are a condition's states
    coords: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    """Coordinates of the committed slots behind them, ``(n, axes)`` on the CPU, where there is a window or attention is factorized."""
    started: bool = False  # whether the first call, which takes the condition in, has been made
    layers: FusedLayers | PlainLayers | None = None  # the network's layers, prepared by the first call

    def __post_init__(self) -> None:
        # A view with pairs of channels as complex numbers, which PyTorch has in high precision only.
        exact = self.memory.dtype in (torch.float32, torch.float64)
        self.pairs = torch.view_as_complex(self.memory.unflatten(-1, (-1, 2))) if exact else self.memory

    @staticmethod
    def allocate(
        layers: int, batch: int, heads: int, capacity: int, head_width: int, dtype: torch.dtype, device: torch.device | str
    ) -> Cache:
        """An empty cache of ``capacity`` slots (prefix and positions together)."""
        # Zeros, not empty memory: a masked slot must hold finite numbers.
        return Cache(torch.zeros(layers, 2, batch, heads, capacity, head_width, dtype=dtype, device=device))

    @property
    def keys(self) -> Tensor:
        """``(layers, B, heads, capacity, head width)``."""
        return self.memory.select(1, 0)

    @property
    def values(self) -> Tensor:
        """``(layers, B, heads, capacity, head width)``."""
        return self.memory.select(1, 1)

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self.memory.dtype

    @property
    def batch(self) -> int:
        """Number of items ``B``."""
        return self.memory.shape[2]

    @property
    def capacity(self) -> int:
        """Slots allocated, prefix included."""
        return self.memory.shape[4]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held."""
        tensors = [self.memory, *(tensor for pair in self.condition.cross for tensor in pair)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def room(self, positions: int) -> int:
        """The cursor after ``positions`` further slots. Raises ``ValueError`` if the cache is too small for them."""
        end = self.length + positions
        if end > self.capacity:
            raise ValueError(
                f"the cache has {self.capacity} slots, {self.length} of them taken: {positions} more do not fit; allocate a larger one"
            )
        return end

    def forget(self, before: int) -> None:
        """Drop committed slots of places below ``before``, which are the first ones, and move the others to their room."""
        if count := int((self.coords[:, 0] < before).sum()):
            kept, first = slice(self.prefix + count, self.length), self.prefix
            self.length -= count
            self.coords = self.coords[count:]
            for memory in (self.memory.movedim(4, 0), *([] if self.bias is None else [self.bias.movedim(3, 0)])):
                memory[first : self.length] = memory[kept].clone()
                memory[self.length :] = 0

    def hide_last(self, rows: Tensor) -> None:
        """Mask the last committed slot of the items ``rows``, ``(B,)`` bool."""
        bias = self.slot_bias()
        bias[rows.to(bias.device), 0, 0, self.length - 1] = -torch.inf

    def slot_bias(self) -> Tensor:
        """:attr:`bias`, allocated at the first call."""
        if self.bias is None:
            self.bias = torch.zeros(self.batch, 1, 1, self.capacity, dtype=self.dtype, device=self.memory.device)
        return self.bias

    def reset(self) -> None:
        """Empty the cache, the condition included; the memory is kept."""
        self.length, self.bias, self.condition = 0, None, LayerCondition()
        self.prefix, self.started, self.layers = 0, False, None
        self.coords = self.coords.new_zeros(0, 0)

    def rows(self, index: slice) -> Cache:
        """A cache of some items that shares this one's memory but has its own cursor."""
        return Cache(
            self.memory[:, :, index],
            self.length,
            None if self.bias is None else self.bias[index],
            self.condition.rows(index),
            self.prefix,
            self.coords,
            self.started,
            self.layers,
        )
