"""Random numbers per sample, not per batch: sample 17 draws the same numbers in any batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MIX = 0x9E3779B97F4A7C15  # odd 64-bit constant (2^64 / golden ratio): spreads (seed, index) pairs over all seeds


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything that prints the same every time."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big") >> 1


def _signed(number: int) -> int:
    """A number below ``2^64`` as the int64 of the same bits."""
    return (number + 2**63) % 2**64 - 2**63


def _mixed(words: Tensor) -> Tensor:
    """The output function of splitmix64 (Steele et al., OOPSLA 2014), a bijection of int64, in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        words ^= (words >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        if factor != 1:
            words *= _signed(factor)
    return words


class Draws:
    """Random numbers of rows ``(M,)``, each row's from a stream that its key alone determines, computed for all rows at once.

    The element ``e`` of a row's ``d``-th draw is a hash of (key, d, e), so neither the other rows nor the device matter.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys  # (M,) or (B, n) int64
        self._drawn = 0

    @staticmethod
    def fresh(count: int, device: torch.device, generator: torch.Generator | None = None) -> Draws:
        """Streams of ``count`` rows with keys from a generator, by default torch's global one."""
        where = "cpu" if generator is None else generator.device
        return Draws(torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator, device=where).to(device))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Tensor | int | tuple[slice, int]) -> Draws:
        """The streams of some rows."""
        return Draws(self.keys[index])

    def each(self, count: int) -> Draws:
        """``count`` independent streams for every row, ``(M, count)``."""
        places = torch.arange(1, count + 1, device=self.keys.device) * _signed(_MIX)
        return Draws(_mixed(_mixed(self.keys[..., None] + places)))

    def copies(self, count: int) -> Draws:
        """Independent streams for all rows repeated ``count`` times, ``(count M,)``, as :meth:`torch.Tensor.repeat` lays them out."""
        return self if count == 1 else Draws(self.each(count).keys.T.flatten())

    def bits(self, elements: Tensor, draw: int) -> Tensor:
        """64 random bits for each of some elements ``(n,)`` of the draw of this number, ``(M, n)`` int64."""
        return _mixed(self.keys[:, None] + (elements + (1 + (draw << 40))) * _signed(_MIX))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in the open interval ``(0, 1)``, ``(M, *shape)`` float32, from 23 bits each."""
        count, self._drawn = math.prod(shape), self._drawn + 1
        words = self.bits(torch.arange(-(-count // 2), device=self.keys.device), self._drawn).view(torch.int32)[:, :count]
        return ((words >> 9) & (2**23 - 1)).float().add_(0.5).mul_(2.0**-23).view(len(self), *shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``(M, *shape)`` float32 (Box and Muller 1958)."""
        count = math.prod(shape)
        first, second = self.uniform(-(-count // 2), 2).unbind(-1)
        radius, angle = first.log().mul_(-2).sqrt_(), second * (2 * math.pi)
        return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(1)[:, :count].reshape(len(self), *shape)


class PerSampleRNG:
    """One random generator per sample, seeded by ``(seed, index)``.

    Numbers are drawn on the CPU and then moved, so they do not depend on the device.

    ``whole``: index of the first sample of the batch of which these are a part; by default of these.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu", whole: int | None = None) -> None:
        self.device = torch.device(device)
        self._whole = seed, next(iter(indices), 0) if whole is None else whole
        self.seeds = [(seed * _MIX + index * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) % 2**63 for index in indices]
        self.generators = [torch.Generator().manual_seed(each) for each in self.seeds]

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

    def draws(self, purpose: str, device: torch.device | None = None) -> Draws:
        """Streams of the samples ``(B,)`` for one purpose, independent of the other draws and of how many there were."""
        keys = torch.tensor(self.seeds, dtype=torch.long) ^ seed_of(purpose)
        return Draws(_mixed(_mixed(keys)).to(device or self.device))

    def shared(self, purpose: str) -> Draws:
        """One stream for the whole batch, ``(1,)``, equal in all its parts."""
        seed, first = self._whole
        return PerSampleRNG(seed, [first]).draws(f"all/{purpose}")

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
        self.device, self.seeds, self.generators = rng.device, rng.seeds, rng.generators
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
