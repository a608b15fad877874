"""Normalizing flows of coupling layers: NICE (arXiv 1410.8516), RealNVP (1605.08803), and from Glow (1807.03039) 1x1 convolutions.

An invertible map ``z = f(x, condition)`` gives the density of ``x`` from that of ``z``:

    ln p(x) = ln p(z) + ln |det dz/dx|

A coupling keeps the values of a mask ``m`` and transforms the others by a network that reads the kept ones alone, so its Jacobian is
triangular:

    additive  z = x + (1 - m) t(m x)                     ln |det| = 0
    affine    z = x exp((1 - m) s(m x)) + (1 - m) t(m x)   ln |det| = sum of s where m is 0;  s = learned scale * tanh

Networks may run in lower precision; ``exp``, sums and latents are float32 (float64 for float64 inputs).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.convolutional import ResidualBlock, group_norm

CouplingKind = Literal["additive", "affine"]


@dataclass(frozen=True)
class Latents:
    """Where a flow maps its inputs."""

    values: Tensor  # z, of the inputs' shape
    log_determinant: Tensor  # ln |det dz/dx| of each item, nats, (B,)


class Bijection(nn.Module, ABC):
    """An invertible map of items, given a condition."""

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor) -> Latents:
        """``(B, ...)`` to latents of the same shape."""

    @abstractmethod
    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        """The inputs of latents ``(B, ...)``."""


class Composition(Bijection):
    """Maps one after the other, with the same condition: their log-determinants add up."""

    @property
    @abstractmethod
    def factors(self) -> Iterable[nn.Module]:
        """The maps in their order."""

    def forward(self, x: Tensor, condition: Tensor) -> Latents:
        """See :meth:`Bijection.forward`."""
        total = x.new_zeros(len(x))
        for factor in self.factors:
            out: Latents = factor(x, condition)
            x, total = out.values, total + out.log_determinant
        return Latents(x, total)


class Chain(Composition):
    """Bijections one after the other."""

    def __init__(self, steps: Iterable[Bijection]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    @property
    def factors(self) -> Iterable[nn.Module]:
        """See :attr:`Composition.factors`."""
        return self.steps

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        """See :meth:`Bijection.inverse`."""
        for step in reversed(self.steps):
            z = cast("Bijection", step).inverse(z, condition)
        return z


class Diagonal(Bijection):
    """``z = x exp(s) + b``, ``s`` and ``b`` learned, 0 at first: NICE's last layer for vectors ``(B, N)``, Glow's actnorm for maps.

    Actnorm stands where RealNVP normalises by its batch, which would make a loss depend on the other items.

    ``count``: numbers of a vector, or channels of maps, whose positions share them.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.zeros(count)), nn.Parameter(torch.zeros(count))

    def forward(self, x: Tensor, condition: Tensor) -> Latents:
        """See :meth:`Bijection.forward`."""
        volume = self.log_scale.sum() * x[0, 0].numel()
        return Latents(x * _over(self.log_scale, x).exp() + _over(self.shift, x), volume.expand(len(x)))

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        """See :meth:`Bijection.inverse`."""
        return (z - _over(self.shift, z)) * (-_over(self.log_scale, z)).exp()


def _over(vector: Tensor, items: Tensor) -> Tensor:
    """A number a channel ``(C,)``, to combine with items ``(B, C, ...)``."""
    return vector.view(-1, *[1] * (items.ndim - 2))


class Mixing(Bijection):
    """An invertible 1x1 convolution: one matrix for the channels of every position, a rotation at first (Glow, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor, condition: Tensor) -> Latents:
        """See :meth:`Bijection.forward`."""
        with torch.autocast(x.device.type, enabled=False):
            volume = torch.linalg.slogdet(self.weight).logabsdet * x[0, 0].numel()
            return Latents(torch.einsum("dc,bchw->bdhw", self.weight, x), volume.expand(len(x)))

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        """See :meth:`Bijection.inverse`."""
        with torch.autocast(z.device.type, enabled=False):
            return torch.einsum("dc,bchw->bdhw", torch.linalg.inv(self.weight), z)


class Coupling(Bijection):
    """A coupling layer; see the module.

    Args:
        network: Masked inputs and condition to ``k C`` maps or values: shifts, and for an affine coupling scales before them.
        mask: 1 where values are kept, broadcast to an item.
        kind: ``additive`` or ``affine``.
    """

    mask: Tensor

    def __init__(self, network: nn.Module, mask: Tensor, kind: CouplingKind) -> None:
        super().__init__()
        self.network, self.affine = network, kind == "affine"
        self.factor = nn.Parameter(torch.ones(())) if self.affine else None
        self.register_buffer("mask", mask, persistent=False)

    def _scale_and_shift(self, x: Tensor, condition: Tensor) -> tuple[Tensor | None, Tensor]:
        changed = 1 - self.mask
        out: Tensor = self.network(x * self.mask, condition).to(x.dtype)
        if self.factor is None:
            return None, changed * out
        raw, shift = out.chunk(2, dim=1)
        return changed * self.factor * raw.tanh(), changed * shift

    def forward(self, x: Tensor, condition: Tensor) -> Latents:
        """See :meth:`Bijection.forward`."""
        scale, shift = self._scale_and_shift(x, condition)
        if scale is None:
            return Latents(x + shift, x.new_zeros(len(x)))
        return Latents(x * scale.exp() + shift, scale.flatten(1).sum(1))

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        """See :meth:`Bijection.inverse`; kept values of ``z`` are those of ``x``."""
        scale, shift = self._scale_and_shift(z, condition)
        return z - shift if scale is None else (z - shift) * (-scale).exp()


class CouplingMLP(nn.Module):
    """``layers`` hidden layers with ReLU over all values of an item ``(B, N)`` and a condition ``(B, D)``; the last map starts as 0."""

    def __init__(self, inputs: int, condition: int, outputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.input, self.of_condition = nn.Linear(inputs, width), nn.Linear(condition, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.output = zeroed(nn.Linear(width, outputs))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``(B, outputs)``."""
        h = F.relu(self.input(x) + self.of_condition(condition))
        for layer in self.hidden:
            h = F.relu(layer(h))
        out: Tensor = self.output(h)
        return out


class CouplingNet(nn.Module):
    """``layers`` residual blocks over maps ``(B, C, H, W)`` and maps of a condition ``(B, D, H, W)``; the last map starts as 0."""

    def __init__(self, inputs: int, condition: int, outputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.input, self.of_condition = nn.Conv2d(inputs, width, 3, padding=1), nn.Conv2d(condition, width, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, width) for _ in range(layers)))
        self.norm = group_norm(width)
        self.output = zeroed(nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """``(B, outputs, H, W)``."""
        h = self.blocks(self.input(x) + self.of_condition(condition))
        out: Tensor = self.output(F.silu(self.norm(h)))
        return out


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """The layer with zero weights, so that what it predicts starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class CouplingSizes:
    """What couplings read and how large their networks are."""

    channels: int  # C of a position
    condition: int  # D of a position's hidden vector
    width: int  # channels inside a network
    layers: int  # hidden layers or residual blocks of a network
    couplings: int  # of a vector; of each mask's turn in a picture
    kind: CouplingKind
    actnorm: bool = False
    mixing: bool = False


class VectorFlow(Bijection):
    """NICE: all values of an item as one vector, of which couplings keep the even and the odd ones in turn, and a last scale for each.

    Tokens ``(B, n, C)`` and their hidden vectors ``(B, n, D)``, of which the networks read the mean.
    """

    def __init__(self, positions: int, sizes: CouplingSizes) -> None:
        super().__init__()
        values, outputs = positions * sizes.channels, 2 if sizes.kind == "affine" else 1
        steps: list[Bijection] = []
        for index in range(sizes.couplings):
            mask = (torch.arange(values) + index + 1) % 2
            network = CouplingMLP(values, sizes.condition, outputs * values, sizes.width, sizes.layers)
            steps.append(Coupling(network, mask.float(), sizes.kind))
        self.chain = Chain([*steps, Diagonal(values)])

    def forward(self, x: Tensor, condition: Tensor) -> Latents:
        """See :meth:`Bijection.forward`."""
        out: Latents = self.chain(x.flatten(1), condition.mean(1))
        return Latents(out.values.view_as(x), out.log_determinant)

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        """See :meth:`Bijection.inverse`."""
        return self.chain.inverse(z.flatten(1), condition.mean(1)).view_as(z)


def squeeze(maps: Tensor) -> Tensor:
    """``(B, C, H, W)`` to ``(B, 4 C, H/2, W/2)``: channels of the four pixels of each 2 x 2 square, row by row."""
    rows, columns = maps.shape[2] // 2, maps.shape[3] // 2
    split = maps.reshape(len(maps), -1, rows, 2, columns, 2)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(len(maps), -1, rows, columns)


def unsqueeze(maps: Tensor) -> Tensor:
    """The inverse of :func:`squeeze`."""
    rows, columns = maps.shape[2:]
    split = maps.reshape(len(maps), 2, 2, -1, rows, columns)
    return split.permute(0, 3, 4, 1, 5, 2).reshape(len(maps), -1, 2 * rows, 2 * columns)


class PictureFlow(Bijection):
    """RealNVP's multi-scale architecture (section 3.6) over tokens on a grid.

    Each scale but the last has couplings with a checkerboard mask, :func:`squeeze`, couplings that keep half of the channels, and half of
    the channels become latents as they are; the last scale has one checkerboard coupling more. Tokens ``(B, n, C)`` with hidden vectors
    ``(B, n, D)``, averaged over the squares where maps are squeezed. Raises ``ValueError`` if the grid does not halve as often.
    """

    def __init__(self, grid: tuple[int, int], sizes: CouplingSizes, scales: int) -> None:
        super().__init__()
        self.grid, factor = grid, 2 ** (scales - 1)
        if any(side % factor for side in grid):
            raise ValueError(f"{scales} scales halve the grid {scales - 1} times, and {grid} does not divide by {factor}: choose fewer")
        self.before, self.after = nn.ModuleList(), nn.ModuleList()
        channels = sizes.channels
        for scale in range(scales):
            last = scale == scales - 1
            board = torch.arange(grid[0] >> scale)[:, None] + torch.arange(grid[1] >> scale)
            masks = [((board + index + 1) % 2)[None] for index in range(sizes.couplings + last)]
            self.before.append(Chain(_steps(masks, channels, sizes, mixing=False)))
            if not last:
                half = torch.arange(4 * channels) < 2 * channels
                masks = [(half ^ bool(index % 2))[:, None, None] for index in range(sizes.couplings)]
                self.after.append(Chain(_steps(masks, 4 * channels, sizes, mixing=sizes.mixing)))
                channels *= 2

    def forward(self, x: Tensor, condition: Tensor) -> Latents:
        """See :meth:`Bijection.forward`; latents come scale by scale, finest first, in the shape of the tokens."""
        maps, latents, total = self._maps(x), list[Tensor](), x.new_zeros(len(x))
        conditions = self._conditions(condition)
        for scale, (before, given) in enumerate(zip(self.before, conditions, strict=True)):
            out: Latents = before(maps, given)
            maps, total = out.values, total + out.log_determinant
            if scale < len(self.after):
                out = self.after[scale](squeeze(maps), conditions[scale + 1])
                done, maps = out.values.chunk(2, dim=1)
                latents.append(done.flatten(1))
                total = total + out.log_determinant
        return Latents(torch.cat([*latents, maps.flatten(1)], dim=1).view_as(x), total)

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        """See :meth:`Bijection.inverse`."""
        conditions, flat = self._conditions(condition), z.flatten(1)
        sizes = [flat.shape[1] >> (scale + 1) for scale in range(len(self.after))]
        *done, rest = flat.split([*sizes, flat.shape[1] - sum(sizes)], dim=1)
        maps = rest.reshape(len(z), -1, *conditions[-1].shape[2:])
        for scale in reversed(range(len(self.before))):
            if scale < len(self.after):
                whole = torch.cat([done[scale].reshape(maps.shape), maps], dim=1)
                maps = unsqueeze(cast("Chain", self.after[scale]).inverse(whole, conditions[scale + 1]))
            maps = cast("Chain", self.before[scale]).inverse(maps, conditions[scale])
        return maps.flatten(2).mT.reshape(z.shape)

    def _maps(self, vectors: Tensor) -> Tensor:
        return vectors.mT.unflatten(2, self.grid)

    def _conditions(self, condition: Tensor) -> list[Tensor]:
        """Maps of the hidden vectors at every scale."""
        maps = [self._maps(condition)]
        for _ in self.after:
            maps.append(F.avg_pool2d(maps[-1], 2))
        return maps


def _steps(masks: list[Tensor], channels: int, sizes: CouplingSizes, mixing: bool) -> list[Bijection]:
    """A coupling a mask, each behind a 1x1 convolution and an actnorm where these are wanted."""
    steps: list[Bijection] = []
    outputs = channels * (2 if sizes.kind == "affine" else 1)
    for mask in masks:
        steps += [Diagonal(channels)] * sizes.actnorm + [Mixing(channels)] * mixing
        network = CouplingNet(channels, sizes.condition, outputs, sizes.width, sizes.layers)
        steps.append(Coupling(network, mask.float(), sizes.kind))
    return steps
