"""Cache of a WaveNet: of every layer its last inputs, in a ring as long as its dilation (Fast WaveNet, arXiv 1611.09482).

What a layer reads ``d`` positions back is known ``d`` positions ahead, so its product with the weights is computed once for a whole turn of
the ring. A position then takes one product less in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor


class LayerMaps(NamedTuple):
    """Transposed weights of a layer: ``(F, 2 F)``, ``(F, 2 F)`` and ``(F, F)``."""

    past: Tensor
    present: Tensor
    residual: Tensor


class Views(NamedTuple):
    """Views of the buffers, created once: for a single position slicing takes as long as computing."""

    rings: list[tuple[Tensor, ...]]  # of each layer the input at each place of its ring, (B, F)
    gates: tuple[Tensor, ...]  # of each layer its gated features, (B, F)
    before: tuple[Tensor, Tensor, Tensor]  # before the gate: all of it, (B, 2 F), and its halves


@dataclass
class WaveCache:
    """Buffers of one batch."""

    rings: list[Tensor]  # of each layer its last inputs, (d, B, F); that of position t at index t % d
    gates: Tensor  # gated features of all layers at the current position, (B, layers F)
    capacity: int  # positions it may hold
    length: int = 0
    started: bool = False  # whether the first call, which takes the condition and the weights in, has been made
    maps: list[LayerMaps] = field(default_factory=list)  # the weights of each layer
    shifts: list[Tensor] = field(default_factory=list)  # of each layer the sum of bias and condition before the gate, (B, 2 F)
    # Of each layer the contribution of the inputs d back, for one turn of the ring, shifts included, (B, 2 F) each.
    past: list[tuple[Tensor, ...]] = field(default_factory=list)
    views: Views | None = None

    @staticmethod
    def empty(
        batch: int, features: int, dilations: tuple[int, ...], positions: int, dtype: torch.dtype, device: torch.device | str
    ) -> WaveCache:
        """A cache before the first position: zeros."""
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
        rings, gates, (before, first, second) = self._views()
        for layer, (past, present, residual) in enumerate(self.maps):
            ring, z = rings[layer], gates[layer]
            index = self.length % len(ring)
            if index == 0:
                turn = torch.matmul(self.rings[layer], past).add_(self.shifts[layer]).unbind(0)
                self.past[layer : layer + 1] = [turn]
            torch.addmm(self.past[layer][index], x, present, out=before)
            torch.mul(first.tanh_(), second.sigmoid_(), out=z)
            ring[index].copy_(x)
            x = torch.addmm(x, z, residual)
        self.length += 1
        return self.gates

    def _views(self) -> Views:
        if self.views is None:
            before = self.gates.new_empty(self.batch, 2 * self.rings[0].shape[2])
            first, second = before.chunk(2, dim=-1)
            gates = self.gates.chunk(len(self.rings), dim=-1)
            self.views = Views([ring.unbind(0) for ring in self.rings], gates, (before, first, second))
        return self.views

    def rows(self, index: slice) -> WaveCache:
        """A cache of some items that shares this one's memory; only one of the two may be continued."""
        return self._of(index, copied=False)

    def clone(self) -> WaveCache:
        """A copy that is continued independently."""
        return self._of(slice(None), copied=True)

    def _of(self, index: slice, copied: bool) -> WaveCache:
        rings, gates = [ring[:, index] for ring in self.rings], self.gates[index]
        if copied:
            rings, gates = [ring.clone() for ring in rings], gates.clone()
        past = [tuple(each[index] for each in layer) for layer in self.past]
        shifts = [shift[index] for shift in self.shifts]
        return replace(self, rings=rings, gates=gates, shifts=shifts, past=past, maps=list(self.maps), views=None)
