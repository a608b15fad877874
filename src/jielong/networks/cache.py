"""What a transformer remembers of the positions it has passed: keys and values, allocated once and written in place."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Cache:
    """A static key-value cache with a cursor.

    Slots before :attr:`length` are committed and never written again; slots behind it are scratch, which an uncommitted call uses
    for the keys and values of its own positions.

    Attributes:
        keys: ``(layers, B, heads, capacity, head width)``.
        values: The same for values.
        length: The cursor: number of committed slots, the prefix included.
        bias: ``(B, 1, 1, capacity)``, minus infinity at padding of the prefix; ``None`` when nothing is padded.
        cross: Keys and values of the condition for cross-attention, a pair a layer, each ``(B, heads, L, head width)``.
        cross_bias: ``(B, 1, 1, L)``, minus infinity at padding of the condition.
        modulation: Scales, shifts and gates of adaptive norms, ``(B, 1, D)`` each.
        started: Whether the first call has been made, which takes the condition in.
    """

    keys: Tensor
    values: Tensor
    length: int = 0
    bias: Tensor | None = None
    cross: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    cross_bias: Tensor | None = None
    modulation: list[tuple[Tensor, ...]] = field(default_factory=list)
    started: bool = False

    @staticmethod
    def allocate(
        layers: int, batch: int, heads: int, capacity: int, head_width: int, dtype: torch.dtype, device: torch.device | str
    ) -> Cache:
        """An empty cache of ``capacity`` slots (prefix and positions together)."""
        shape = (layers, batch, heads, capacity, head_width)
        # Zeros, not empty memory: a slot that is masked out must still hold numbers.
        return Cache(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))

    @property
    def batch(self) -> int:
        """Number of items ``B``."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Slots allocated, prefix included."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held."""
        tensors = [self.keys, self.values, *(tensor for pair in self.cross for tensor in pair)]
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

    def reset(self) -> None:
        """Forget everything, the condition too; the memory stays."""
        self.length, self.bias, self.cross, self.cross_bias, self.modulation, self.started = 0, None, [], None, [], False

    def rows(self, index: slice) -> Cache:
        """A cache of some items that shares this one's memory but goes on with a cursor of its own."""
        return Cache(
            self.keys[:, index],
            self.values[:, index],
            self.length,
            None if self.bias is None else self.bias[index],
            [(key[index], value[index]) for key, value in self.cross],
            None if self.cross_bias is None else self.cross_bias[index],
            [tuple(tensor[index] for tensor in layer) for layer in self.modulation],
            self.started,
        )
