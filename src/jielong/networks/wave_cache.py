"""What a WaveNet remembers: of every layer its last inputs, in a ring as long as its dilation (Fast WaveNet, arXiv 1611.09482).

What a layer reads ``d`` positions back is known ``d`` positions ahead. So its product with the weights is computed once a turn of the ring,
for the whole turn, and a position takes one product less in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor


class LayerMaps(NamedTuple):
    """Weights of a layer, laid out for a single position: ``(F, 2 F)``, ``(F, 2 F)`` and ``(F, F)``."""

    past: Tensor
    present: Tensor
    residual: Tensor


class Places(NamedTuple):
    """Places in the buffers, cut out once: cutting takes as long as computing, for a single position.

    Attributes:
        rings: Of each layer where the input of each place of its ring stands, ``(B, F)``.
        gates: Of each layer where its gated features go, ``(B, F)``.
        before: Before the gate: all of it, ``(B, 2 F)``, and its halves.
    """

    rings: list[tuple[Tensor, ...]]
    gates: tuple[Tensor, ...]
    before: tuple[Tensor, Tensor, Tensor]


@dataclass
class WaveCache:
    """Buffers of one batch.

    Attributes:
        rings: Of each layer its last inputs, ``(d, B, F)``: at place ``t % d`` stands that of position ``t``.
        gates: Gated features of the position being drawn, of all layers, ``(B, layers F)``.
        capacity: Positions that may come.
        length: Positions passed.
        started: Whether the first call has been made, which takes the condition and the weights in.
        maps: The weights of each layer.
        shifts: Of each layer what bias and condition add before the gate, ``(B, 2 F)``.
        told: Of each layer what the past says in this turn of the ring, shifts included, ``(B, 2 F)`` at each place.
        places: Places in the buffers.
    """

    rings: list[Tensor]
    gates: Tensor
    capacity: int
    length: int = 0
    started: bool = False
    maps: list[LayerMaps] = field(default_factory=list)
    shifts: list[Tensor] = field(default_factory=list)
    told: list[tuple[Tensor, ...]] = field(default_factory=list)
    places: Places | None = None

    @staticmethod
    def empty(
        batch: int, features: int, dilations: tuple[int, ...], positions: int, dtype: torch.dtype, device: torch.device | str
    ) -> WaveCache:
        """The cache of a beginning: zeros stand before it."""
        rings = [torch.zeros(dilation, batch, features, dtype=dtype, device=device) for dilation in dilations]
        gates = torch.zeros(batch, len(dilations) * features, dtype=dtype, device=device)
        return WaveCache(rings, gates, positions)

    @property
    def batch(self) -> int:
        """Number of items ``B``."""
        return len(self.gates)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self.gates.nbytes + sum(ring.nbytes for ring in self.rings)

    def next(self, x: Tensor) -> Tensor:
        """The gated features of all layers at the next position, ``(B, layers F)``, from the first layer's input there, ``(B, F)``."""
        rings, gates, (before, first, second) = self._cut()
        for layer, (past, present, residual) in enumerate(self.maps):
            ring, z = rings[layer], gates[layer]
            place = self.length % len(ring)
            if place == 0:
                told = torch.matmul(self.rings[layer], past).add_(self.shifts[layer]).unbind(0)
                self.told[layer : layer + 1] = [told]
            torch.addmm(self.told[layer][place], x, present, out=before)
            torch.mul(first.tanh_(), second.sigmoid_(), out=z)
            ring[place].copy_(x)
            x = torch.addmm(x, z, residual)
        self.length += 1
        return self.gates

    def _cut(self) -> Places:
        if self.places is None:
            before = self.gates.new_empty(self.batch, 2 * self.rings[0].shape[2])
            first, second = before.chunk(2, dim=-1)
            gates = self.gates.chunk(len(self.rings), dim=-1)
            self.places = Places([ring.unbind(0) for ring in self.rings], gates, (before, first, second))
        return self.places

    def rows(self, index: slice) -> WaveCache:
        """A cache of some items, which shares this one's memory: go on with one of the two."""
        return self._of(index, copied=False)

    def clone(self) -> WaveCache:
        """A cache that goes on from here by itself."""
        return self._of(slice(None), copied=True)

    def _of(self, index: slice, copied: bool) -> WaveCache:
        rings, gates = [ring[:, index] for ring in self.rings], self.gates[index]
        if copied:
            rings, gates = [ring.clone() for ring in rings], gates.clone()
        told = [tuple(each[index] for each in layer) for layer in self.told]
        shifts = [shift[index] for shift in self.shifts]
        return replace(self, rings=rings, gates=gates, shifts=shifts, told=told, maps=list(self.maps), places=None)
