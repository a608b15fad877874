"""The state of a batch while it is generated, and the states of a batch in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jielong.conditions.base import Condition
from jielong.core.rng import PerSampleRNG
from jielong.generation.plan import SequencePlan
from jielong.heads.base import Mismatch
from jielong.networks.backbone import BackboneCache
from jielong.networks.conditioning import Conditioning


@dataclass(frozen=True)
class TrainingStates:
    """Hidden vectors of a batch in training, at all positions.

    Attributes:
        hidden: ``(B, N, D)``.
        targets: Tokens in the order's layout, ``(B, N, C)``.
        loss_mask: Positions whose token is predicted, ``(B, N)`` bool.
        present: Positions that items have, ``(B, N)`` bool.
        counts: How much each position counts in its item's loss, ``(B, N)``: the codes it predicts, or what the order says.
        lengths: Tokens of each item, ``(B,)``.
        plan: The order's positions; fewer than the generator's where no item is as long as can be.
        duration_loss: Loss of the durations, if they are learned.
        conditioning: The condition, with the null where it was dropped.
        prefix: Hidden vectors at its states, ``(B, L, D)``, where it has a loss of its own.
    """

    hidden: Tensor
    targets: Tensor
    loss_mask: Tensor
    present: Tensor
    counts: Tensor
    lengths: Tensor
    plan: SequencePlan
    duration_loss: Tensor | None
    conditioning: Conditioning | None
    prefix: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """Weight of each position in its item's loss, ``(B, N)``; they add up to 1."""
        return 1.0 / self.counts.sum(1, keepdim=True) * self.counts


@dataclass(frozen=True)
class PreparedMismatch:
    """Conditions of other items for a batch in training.

    Attributes:
        prepared: Output of the condition's ``prepare``, of B K items, K an item.
        paired: ``(B, K)`` bool: false where no other condition was found.
    """

    prepared: object
    paired: Tensor

    def of(self, condition: Condition) -> Mismatch:
        """What a head is given of them; none is dropped."""
        return Mismatch(condition(self.prepared), self.paired)


@dataclass
class SamplerState:
    """The state of one batch; of tensors marked (2)B the second half is the unconditional one, while guidance needs it.

    With a scale for the source picture they are of 3 B items: conditional, with the picture alone, unconditional.

    Attributes:
        values: Tokens so far, ``(B, N, C)``, in the order's layout.
        known: Positions whose token is known, ``(B, N)`` bool.
        lengths: Tokens of each item, ``(B,)``, on the CPU; the greatest possible number of items that have not ended.
        branches: How often the batch stands in those tensors: 1, 2 or 3.
        rng: Random numbers of each item.
        positions: Position embeddings, ``(N, D)``.
        conditioning: The condition, of (2)B items.
        cache: The backbone's cache, of (2)B items; ``None`` for the naive reference.
        fixed: Entries that are given or absent, ``(B, N, C)`` bool.
        attention_mask: Positions of each item, ``(B, N)`` bool, where later positions would attend to padding.
        open_ended: Whether items may end by themselves.
        aligned: What durations add to the embeddings, ``((2)B, N, D)``.
        difference: Of lazy steps: unconditional minus conditional hidden vectors.
        weaker: The state of the weaker generator of autoguidance.
        source: Tokens that an edit begins with, ``(B, N, C)``, where the head reads them (:attr:`Head.edits`).
    """

    values: Tensor
    known: Tensor
    lengths: Tensor
    branches: int
    rng: PerSampleRNG
    positions: Tensor
    conditioning: Conditioning | None = None
    cache: BackboneCache | None = None
    fixed: Tensor | None = None
    attention_mask: Tensor | None = None
    open_ended: bool = False
    aligned: Tensor | None = None
    difference: Tensor | None = None
    weaker: SamplerState | None = None
    source: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def guided(self) -> bool:
        """Whether there is an unconditional half."""
        return self.branches > 1

    @property
    def conditions(self) -> tuple[Conditioning | None, Conditioning | None, Conditioning | None]:
        """The condition and, while guidance needs them, what it is compared with, and that in turn, of ``B`` items each."""
        if self.conditioning is None:
            return None, None, None
        each = [self.conditioning.rows(slice(first * len(self), (first + 1) * len(self))) for first in range(self.branches)]
        return each[0], each[1] if self.branches > 1 else None, each[2] if self.branches > 2 else None

    def exclude(self, present: Tensor | None, pad: int) -> None:
        """Draw nothing where an item has no entry; ``present`` is ``(B, N, C)`` bool."""
        if present is None:
            return
        absent = ~present.to(self.values.device)
        self.values = self.values.masked_fill(absent, pad)
        self._fix(absent)
        if self.attention_mask is not None:
            self.attention_mask = present.any(-1).to(self.values.device)

    def keep(self, values: Tensor, entries: Tensor) -> None:
        """Take the given ``entries`` ``(B, N, C)`` bool of ``values`` as known."""
        self.values = torch.where(entries, values.to(self.values), self.values)
        self._fix(entries)

    def _fix(self, entries: Tensor) -> None:
        self.fixed = entries if self.fixed is None else self.fixed | entries
        self.known = self.known | self.fixed.all(-1)

    def merged(self, span: slice, drawn: Tensor) -> Tensor:
        """A drawn block, ``(B, n, C)``, with its fixed entries."""
        return drawn if self.fixed is None else torch.where(self.fixed[:, span], self.values[:, span], drawn)

    def write(self, span: slice, drawn: Tensor, new: Tensor | None = None) -> None:
        """Write a drawn block at the ``new`` positions, ``(B, n)`` bool; at all of them by default."""
        drawn = self.merged(span, drawn)
        if new is None:
            self.values[:, span], self.known[:, span] = drawn, True
        else:
            self.values[:, span] = torch.where(new[..., None], drawn, self.values[:, span])
            self.known[:, span] |= new

    def drop_unconditional(self) -> None:
        """Forget the unconditional half, which no later step needs."""
        self.branches, conditional = 1, slice(0, len(self))
        self.conditioning = self.conditioning and self.conditioning.rows(conditional)
        self.cache = self.cache and self.cache.rows(conditional)
