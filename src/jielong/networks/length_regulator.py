"""States that go along with a medium, stretched over its positions: which symbol of a text is heard at each frame of speech."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jielong.networks.conditioning import AlignedStates


def even(mask: Tensor, lengths: Tensor) -> Tensor:
    """Equally many positions for every state, ``(B, L)``, fractions too: ``lengths (B,)`` shared by ``mask (B, L)``, 0 where padded.

    A crude alignment that attention can mend, and does soon (ZipVoice, arXiv 2506.13053, section 3.1, "average upsampling").
    """
    return mask * (lengths / mask.sum(1))[:, None]


def scaled(shares: Tensor, lengths: Tensor) -> Tensor:
    """Durations ``(B, L)`` in proportion to ``shares``, that add up to ``lengths (B,)``."""
    return shares * (lengths / shares.sum(1))[:, None]


def spread(durations: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Which state stands at each position, ``(B, N)`` long, and how far it is over there, ``(B, N)`` in [0, 1].

    State ``j`` lasts from ``e_{j-1}`` to ``e_j``, the sums of durations so far; at position ``t`` stands the one in which ``t + 1/2`` lies,
    and behind the end the last.

    Args:
        durations: ``(B, L)`` positions each state lasts; 0 where there is none.
        times: ``(N,)`` positions.
    """
    ends = durations.double().cumsum(1)
    middles = (times + 0.5).to(ends).expand(len(ends), -1).contiguous()
    last = (durations > 0).long().cumsum(1).argmax(1, keepdim=True)  # the first of the largest: the last state that lasts
    index = torch.minimum(torch.searchsorted(ends, middles, right=True), last)
    end, lasts = ends.gather(1, index), durations.double().gather(1, index)
    return index, (1 - (end - middles) / lasts.clamp_min(1e-9)).clamp(0, 1)


class LengthRegulator(nn.Module):
    """What is added to a chain's inputs at every position: the state that stands there, how far it is over and how long it lasts.

    States are stretched evenly; :class:`MonotonicAlignment` learns better.

    Args:
        states: Channels ``W`` of the states.
        width: Channels ``D`` of the inputs.
    """

    pace: Tensor

    def __init__(self, states: int, width: int) -> None:
        super().__init__()
        self.map, self.phase = nn.Linear(states, width), nn.Linear(2, width)
        # Positions a state, and positions beside them, in what was learned from; zeros until it is measured.
        self.register_buffer("pace", torch.zeros(2))

    def forward(self, along: AlignedStates, durations: Tensor, times: Tensor) -> Tensor:
        """``(B, N, D)`` for positions ``times (N,)`` and durations ``(B, L)``."""
        index, over = spread(durations, times.to(durations.device))
        states = along.real
        here = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
        lasts = durations.gather(1, index).to(states.dtype)
        phase = torch.stack([over.to(states.dtype) - 0.5, lasts.log1p()], dim=-1)
        made: Tensor = self.map(here) + self.phase(phase)
        return made

    def learn(self, along: AlignedStates, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Durations ``(B, L)`` for a step of training, and a loss to add, if there is something to learn.

        Args:
            along: The states.
            values: Tokens ``(B, N, C)``.
            lengths: ``(B,)`` how many each item has.
        """
        return even(along.mask, lengths), None

    def durations(self, along: AlignedStates, lengths: Tensor, heard: Tensor | None = None) -> Tensor:
        """Durations ``(B, L)`` that add up to the lengths ``(B,)`` that are asked for.

        Args:
            along: The states.
            lengths: Positions of each item.
            heard: Tokens ``(B, P, C)`` that are given, the first of each item.
        """
        return even(along.mask, lengths)

    def predict_lengths(self, along: AlignedStates) -> Tensor:
        """How many positions the states take when none are asked for, ``(B,)``; 0 where nothing was measured."""
        return self.pace[0] * along.mask.sum(1) + self.pace[1]

    def measure(self, states: Tensor, lengths: Tensor) -> None:
        """Fit ``length = a states + b`` by least squares over a set's items, both ``(n,)``; through 0 where that gives no ``a`` above 0."""
        states, lengths = states.double(), lengths.double()
        apart = states - states.mean()
        slope = (apart * lengths).sum() / apart.square().sum().clamp_min(1e-9)
        offset = lengths.mean() - slope * states.mean()
        if slope <= 0:
            slope, offset = (states * lengths).sum() / states.square().sum(), offset.new_zeros(())
        self.pace.copy_(torch.stack([slope, offset]))
