"""Codebook interleaving patterns: reversible arrangements applied before an order (MusicGen, arXiv 2306.05284).

A pattern is a list of steps, each a set of ``(t, q)``: the code of codebook ``q`` at position ``t``. Where a step has no code of a
codebook, the value is ``V`` (padding), which has a vector in the embedding and which no head predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from jielong.core.tokens import Layout


@dataclass(frozen=True, eq=False)
class Pattern:
    """An arrangement of codes."""

    layout: Layout  # layout of the arranged tokens, with K channels as before
    table: Tensor  # (steps, K) long: the position of each step's code per codebook; -1 where there is none

    @property
    def pad(self) -> int:
        """The value of "no code"."""
        assert self.layout.vocabulary is not None
        return self.layout.vocabulary

    @cached_property
    def present(self) -> Tensor:
        """``(steps, K)`` bool: where there is a code."""
        return self.table >= 0

    @cached_property
    def steps_of(self) -> Tensor:
        """``(positions, K)`` long: the step of each code; the inverse of the table."""
        steps, books = self.present.nonzero(as_tuple=True)
        inverse = torch.empty(len(steps) // self.table.shape[1], self.table.shape[1], dtype=torch.long)
        inverse[self.table[steps, books], books] = steps
        return inverse

    def build(self, values: Tensor) -> Tensor:
        """Codes ``(B, positions, K)`` to ``(B, steps, K)``."""
        index = self.table.clamp_min(0).to(values.device).expand(len(values), -1, -1)
        return values.gather(1, index).masked_fill(~self.present.to(values.device), self.pad)

    def undo(self, values: Tensor) -> Tensor:
        """The inverse of :meth:`build`: ``(B, steps, K)`` to ``(B, positions, K)``."""
        return values.gather(1, self.steps_of.to(values.device).expand(len(values), -1, -1))


def delay(layout: Layout, delays: Sequence[int]) -> Pattern:
    """Step ``s`` has ``(s - d_q, q)``: ``T + max d`` steps. With ``d = 0, 1, ..., K - 1`` it is MusicGen's; parallel is all zeros.

    Raises ``ValueError`` if tokens are not one-dimensional, or the delays are not one per codebook with a minimum of 0.
    """
    books = _codebooks(layout, "delay")
    if layout.scales or len(layout.grid) != 1:
        raise ValueError(f"the pattern delay needs 1-D tokens, such as those of audio, and these have the grid {layout.grid}: take flatten")
    if len(delays) != books or min(delays) != 0:
        raise ValueError(f"delays needs {books} numbers, one per codebook, the least 0, such as {list(range(books))}, not {list(delays)}")
    count = layout.positions
    table = torch.arange(count + max(delays))[:, None] - torch.tensor(list(delays))
    table = table.masked_fill((table < 0) | (table >= count), -1)
    return Pattern(replace(layout, grid=(len(table),)), table)


def flatten(layout: Layout) -> Pattern:
    """One code per step, the codebooks of a position in sequence: ``K T`` steps, the exact factorisation."""
    books = _codebooks(layout, "flatten")
    rows = torch.arange(layout.positions)[:, None, None].expand(-1, books, books)
    table = rows.masked_fill(~torch.eye(books, dtype=torch.bool), -1).flatten(0, 1)
    return Pattern(replace(layout, grid=(*layout.grid, books), axes=(*layout.axes, "channels")), table)


def coarse_first(layout: Layout) -> Pattern:
    """The first codebook at all positions, then all others together per position: ``2 T`` steps."""
    _codebooks(layout, "coarse_first")
    rows = torch.arange(layout.positions)[:, None].expand(-1, layout.channels)
    first = torch.arange(layout.channels) == 0
    table = torch.cat([rows.masked_fill(~first, -1), rows.masked_fill(first, -1)])
    return Pattern(replace(layout, grid=(2, *layout.grid), axes=("channels", *layout.axes)), table)


def level_by_level(layout: Layout) -> Pattern:
    """One code per step: the first codebook at all positions, then the second, and so on: ``K T`` steps."""
    books = _codebooks(layout, "level by level")
    rows = torch.arange(layout.positions).expand(books, -1)[..., None].expand(-1, -1, books)
    table = rows.masked_fill(~torch.eye(books, dtype=torch.bool)[:, None], -1).flatten(0, 1)
    return Pattern(replace(layout, grid=(books, *layout.grid), axes=("channels", *layout.axes)), table)


def _codebooks(layout: Layout, name: str) -> int:
    if layout.vocabulary is None or layout.scales or layout.channels < 2:
        has = "is continuous" if layout.vocabulary is None else "is on several scales" if layout.scales else "has one codebook"
        raise ValueError(f"the pattern {name} arranges the codes of several codebooks on one grid, but a token here {has}: take parallel")
    return layout.channels
