"""What a transformer remembers of the positions it has passed: keys and values, allocated once and written in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jielong.networks.fused_inference import FusedLayers, PlainLayers


@dataclass
class Cache:
    """A static key-value cache with a cursor.

    Slots before :attr:`length` are committed and never written again; slots behind it are scratch, which an uncommitted call uses
    for the keys and values of its own positions.

    Attributes:
        memory: ``(layers, 2, B, heads, capacity, head width)``: keys and values. Fused inference pairs the channels of
            keys that are rotated together (:mod:`jielong.networks.fused_inference`).
        length: The cursor: number of committed slots, the prefix included.
        bias: ``(B, 1, 1, capacity)``, minus infinity at padding of the prefix; ``None`` when nothing is padded.
        cross: Keys and values of the condition for cross-attention, a pair a layer, each ``(B, heads, L, head width)``.
        cross_bias: ``(B, 1, 1, L)``, minus infinity at padding of the condition.
        modulation: Scales, shifts and gates of adaptive norms, ``(B, 1, D)`` each.
        started: Whether the first call has been made, which takes the condition in.
        layers: The network's layers, prepared by the first call.
    """

    memory: Tensor
    length: int = 0
    bias: Tensor | None = None
    cross: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    cross_bias: Tensor | None = None
    modulation: list[tuple[Tensor, ...]] = field(default_factory=list)
    started: bool = False
    layers: FusedLayers | PlainLayers | None = None

    def __post_init__(self) -> None:
        # Pairs of channels read as complex numbers, which there are of high precision only; views of the memory, made once.
        exact = self.memory.dtype in (torch.float32, torch.float64)
        self.pairs = torch.view_as_complex(self.memory.unflatten(-1, (-1, 2))) if exact else self.memory

    @staticmethod
    def allocate(
        layers: int, batch: int, heads: int, capacity: int, head_width: int, dtype: torch.dtype, device: torch.device | str
    ) -> Cache:
        """An empty cache of ``capacity`` slots (prefix and positions together)."""
        # Zeros, not empty memory: a slot that is masked out must still hold numbers.
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
        tensors = [self.memory, *(tensor for pair in self.cross for tensor in pair)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def room(self, positions: int) -> int:
        """The slot behind ``positions`` further ones.

        Raises:
            ValueError: if the cache is too small for them.
        """
        end = self.length + positions
        if end > self.capacity:
            raise ValueError(
                f"the cache has {self.capacity} slots, {self.length} of them taken: {positions} more do not fit; allocate a larger one"
            )
        return end

    def hide_last(self, rows: Tensor) -> None:
        """Let nobody see the last committed slot of the items ``rows``, ``(B,)`` bool: it turned out that they do not have it."""
        if self.bias is None:
            self.bias = torch.zeros(self.batch, 1, 1, self.capacity, dtype=self.dtype, device=self.memory.device)
        self.bias[rows.to(self.bias.device), 0, 0, self.length - 1] = -torch.inf

    def reset(self) -> None:
        """Forget everything, the condition too; the memory stays."""
        self.length, self.bias, self.cross, self.cross_bias, self.modulation = 0, None, [], None, []
        self.started, self.layers = False, None

    def rows(self, index: slice) -> Cache:
        """A cache of some items that shares this one's memory but goes on with a cursor of its own."""
        return Cache(
            self.memory[:, :, index],
            self.length,
            None if self.bias is None else self.bias[index],
            [(key[index], value[index]) for key, value in self.cross],
            None if self.cross_bias is None else self.cross_bias[index],
            [tuple(tensor[index] for tensor in layer) for layer in self.modulation],
            self.started,
            self.layers,
        )
