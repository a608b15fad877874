"""Random numbers per sample, not per batch: sample 17 draws the same numbers in any batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_MIX = 0x9E3779B97F4A7C15  # odd 64-bit constant (2^64 / golden ratio): spreads (seed, index) pairs over all seeds


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything that prints the same every time."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big") >> 1


class PerSampleRNG:
    """One random generator per sample, seeded by ``(seed, index)``.

    Numbers are drawn on the CPU and then moved, so they do not depend on the device.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generators = [
            torch.Generator().manual_seed((seed * _MIX + index * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) % 2**63) for index in indices
        ]

    def __len__(self) -> int:
        return len(self.generators)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in ``[0, 1)``, ``(B, *shape)``."""
        if len(self.generators) == 1:
            return torch.rand((1, *shape), generator=self.generators[0]).to(self.device)
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``(B, *shape)``."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel numbers ``-log(-log u)``, ``(B, *shape)``."""
        return -torch.log(-torch.log(self.uniform(*shape).clamp_min(torch.finfo(torch.float32).tiny)))

    def laid_out(self, places: Tensor, count: int) -> PerSampleRNG:
        """The same numbers for a computation at all of ``count`` positions, of which only ``places`` are used.

        Requested shapes are ``(count, ...)``. The rows at ``places`` equal the numbers of a computation at these positions only; the others
        are zeros. So a draw does not depend on how many positions are computed.

        Args:
            places: ``(B, k)`` long, different positions in each item.
            count: Positions of an item.
        """
        return _LaidOut(self, places, count)


class _LaidOut(PerSampleRNG):
    """See :meth:`PerSampleRNG.laid_out`."""

    def __init__(self, rng: PerSampleRNG, places: Tensor, count: int) -> None:
        self.device, self.generators = rng.device, rng.generators
        self._rng, self._places, self._count = rng, places, count

    def uniform(self, *shape: int) -> Tensor:
        return self._lay(self._rng.uniform(*self._kept(shape)))

    def normal(self, *shape: int) -> Tensor:
        return self._lay(self._rng.normal(*self._kept(shape)))

    def _kept(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not shape or shape[0] != self._count:
            raise ValueError(f"the numbers have a row per position: request a shape ({self._count}, ...), not {shape}")
        return self._places.shape[1], *shape[1:]

    def _lay(self, rows: Tensor) -> Tensor:
        index = self._places.to(rows.device).view(*self._places.shape, *[1] * (rows.ndim - 2)).expand_as(rows)
        return rows.new_zeros(len(rows), self._count, *rows.shape[2:]).scatter(1, index, rows)
