"""Networks between one vector and all tokens of a block: generators and discriminators of GANs, decoders and encoders of VAEs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.networks.conditioning import Conditioning

POOLED = 8
"""Attention heads that pool the states of a condition."""


@dataclass(frozen=True)
class BlockInputs:
    """What these networks read of a block beside its tokens and the vector."""

    hidden: Tensor  # hidden vectors, (B, n, D)
    coords: Tensor | None = None  # coordinates of the positions, (n, axes), on the CPU
    condition: Conditioning | None = None  # the condition, of B items


@dataclass(frozen=True)
class BlockSizes:
    """What these networks are built for."""

    grid: tuple[int, ...]  # positions along each axis
    channels: int  # numbers C of a token
    hidden: int  # width D of the hidden vectors
    condition: int | None = None  # width of the condition's states; None without a condition

    @property
    def positions(self) -> int:
        """Tokens of a block."""
        return torch.Size(self.grid).numel()


class PooledCondition(nn.Module):
    """One vector of a condition, ``(B, width)``: its states pooled by :data:`POOLED` learned queries, and its pooled vector.

    ``states``: width of the states. Raises ``ValueError`` if the heads do not divide ``width``.
    """

    def __init__(self, states: int, width: int) -> None:
        super().__init__()
        if width % POOLED:
            raise ValueError(f"condition: {width} is the width of a condition's vector, a multiple of {POOLED}")
        self.scores, self.of_states, self.of_pooled = nn.Linear(states, POOLED), nn.Linear(states, width), nn.Linear(states, width)
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, condition: Conditioning) -> Tensor:
        """The vectors."""
        mask = condition.mask[..., None]
        states = condition.states.masked_fill(~mask, 0)
        scores = self.scores(states)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~mask, -torch.inf)
        pooled = torch.einsum("blh,bld->bhd", scores.softmax(1).to(states.dtype), states)
        # The map comes after the sum, once a query and not once a state; the weights of a query add up to 1, so its bias is right.
        values = torch.einsum("bhd,hwd->bhw", pooled, self.of_states.weight.unflatten(0, (POOLED, -1))).flatten(1) + self.of_states.bias
        vectors: Tensor = self.output(values + self.of_pooled(condition.pooled))
        return vectors


class VectorDecoder(nn.Module, ABC):
    """A vector and what a block is conditioned on to its tokens; ``size``: numbers of the vector."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @abstractmethod
    def forward(self, vectors: Tensor, block: BlockInputs) -> Tensor:
        """Vectors ``(B, size)`` to tokens ``(B, n, C)``."""


class ConcatenatingDecoder(VectorDecoder):
    """A decoder that reads the vector concatenated with one of the condition: the mean hidden vector and the condition's pooled states.

    ``width``: numbers of the condition's vector.
    """

    def __init__(self, size: int, width: int, sizes: BlockSizes) -> None:
        super().__init__(size)
        self.of_hidden = nn.Linear(sizes.hidden, width)
        self.of_condition = None if sizes.condition is None else PooledCondition(sizes.condition, width)
        self.joined = size + width

    def join(self, vectors: Tensor, block: BlockInputs) -> Tensor:
        """``(B, joined)``."""
        summary = self.of_hidden(block.hidden.mean(1))
        if self.of_condition is not None:
            summary = summary + self.of_condition(conditioning_of(block))
        return torch.cat([vectors.to(summary.dtype), summary], dim=1)


class VectorEncoder(nn.Module, ABC):
    """All tokens of a block to features, one vector; ``features``: its numbers."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, n, C)`` to features ``(B, features)``."""


class VectorDecoderSettings(Part):
    """Settings of a :class:`VectorDecoder`."""

    @abstractmethod
    def build(self, size: int, sizes: BlockSizes) -> VectorDecoder:
        """The network of a vector of ``size`` numbers; of so many at each position, where the vector has positions.

        Raises ``ValueError`` if the settings do not fit the tokens.
        """


class VectorEncoderSettings(Part):
    """Settings of a :class:`VectorEncoder`."""

    @abstractmethod
    def build(self, sizes: BlockSizes) -> VectorEncoder:
        """The network. Raises ``ValueError`` if the settings do not fit the tokens."""


def conditioning_of(block: BlockInputs) -> Conditioning:
    """The condition of a block. Raises ``ValueError`` without one."""
    if block.condition is None:
        raise ValueError("this network reads the states of a condition: give HeadContext(condition=...)")
    return block.condition


def coarsest(sizes: BlockSizes, halvings: int, part: str, time_halvings: int | None = None) -> tuple[int, ...]:
    """The grid that is halved so often along rows and columns, and ``time_halvings`` times along time, where networks read clips.

    Raises ``ValueError`` if the tokens are no such grid, or it cannot be halved.
    """
    axes = len(sizes.grid)
    if axes != 2 and (axes != 3 or time_halvings is None):
        reads = "rows and columns" if time_halvings is None else "rows and columns, or time, rows and columns"
        right = "dcgan" if axes == 3 else "mlp or joint"
        raise ValueError(f"{part} reads tokens along {reads}, and these have {axes} axes: take {right}")
    rows, columns = sizes.grid[-2:]
    if rows % 2**halvings or columns % 2**halvings:
        most = next(count for count in range(halvings, -1, -1) if not (rows % 2**count or columns % 2**count))
        raise ValueError(f"{part}: tokens of {rows} x {columns} cannot be halved {halvings} times, but {most}: shorten channels to fit")
    if axes == 2:
        return rows >> halvings, columns >> halvings
    times, frames = time_halvings or 0, sizes.grid[0]
    if frames % 2**times:
        most = next(count for count in range(times, -1, -1) if not frames % 2**count)
        raise ValueError(f"{part}: {frames} frames cannot be halved {times} times, but {most}: set time_halvings: {most}")
    return frames >> times, rows >> halvings, columns >> halvings


def maps_of(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Tokens ``(B, n, C)`` as maps ``(B, C, h, w)``, or of clips ``(B, C, t, h, w)``."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))


def tokens_of(maps: Tensor) -> Tensor:
    """The inverse of :func:`maps_of`."""
    return maps.flatten(2).transpose(1, 2)
