"""Length regulation: states in the order of a medium, such as the symbols of a transcript, repeated over its positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jielong.networks.conditioning import AlignedStates


def even(mask: Tensor, lengths: Tensor) -> Tensor:
    """Equal durations ``(B, L)`` that add up to ``lengths (B,)``; 0 at padding of ``mask (B, L)`` (ZipVoice, 2506.13053, section 3.1)."""
    return mask * (lengths / mask.sum(1))[:, None]


def scaled(shares: Tensor, lengths: Tensor) -> Tensor:
    """Durations ``(B, L)`` in proportion to ``shares``, that add up to ``lengths (B,)``."""
    return shares * (lengths / shares.sum(1))[:, None]


def spread(durations: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """The state at each position, ``(B, N)`` long, and the elapsed fraction of its duration, ``(B, N)`` in [0, 1].

    State ``j`` lasts from ``e_{j-1}`` to ``e_j``, the cumulative sums of durations; position ``t`` has the state with ``t + 1/2`` in its
    interval, and positions after the end have the last state.

    Args:
        durations: ``(B, L)`` positions of each state; 0 at padding.
        times: ``(N,)`` positions.
    """
    ends = durations.double().cumsum(1)
    middles = (times + 0.5).to(ends).expand(len(ends), -1).contiguous()
    last = (durations > 0).long().cumsum(1).argmax(1, keepdim=True)  # the first of the largest: the last state that lasts
    index = torch.minimum(torch.searchsorted(ends, middles, right=True), last)
    end, lasts = ends.gather(1, index), durations.double().gather(1, index)
    return index, (1 - (end - middles) / lasts.clamp_min(1e-9)).clamp(0, 1)


class LengthRegulator(nn.Module):
    """Adds to the embedding of every position: its state, the elapsed fraction of the state's duration, and the duration.

    Durations are equal; :class:`MonotonicAlignment` learns them.

    ``states``: channels ``W`` of the states.
    """

    rate: Tensor

    def __init__(self, states: int, width: int) -> None:
        super().__init__()
        self.state_projection, self.phase_projection = nn.Linear(states, width), nn.Linear(2, width)
        # Length = rate[0] * states + rate[1] in the training set; zeros until it is fitted.
        self.register_buffer("rate", torch.zeros(2))

    def forward(self, aligned: AlignedStates, durations: Tensor, times: Tensor) -> Tensor:
        """``(B, N, D)`` for positions ``times (N,)`` and durations ``(B, L)``."""
        index, over = spread(durations, times.to(durations.device))
        states = aligned.real
        here = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
        lasts = durations.gather(1, index).to(states.dtype)
        phase = torch.stack([over.to(states.dtype) - 0.5, lasts.log1p()], dim=-1)
        added: Tensor = self.state_projection(here) + self.phase_projection(phase)
        return added

    def learn(self, aligned: AlignedStates, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Durations ``(B, L)`` for a training step on ``values`` ``(B, N, C)``, and a loss to add, if durations are learned."""
        return even(aligned.mask, lengths), None

    def durations(self, aligned: AlignedStates, lengths: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Durations ``(B, L)`` that add up to ``lengths`` ``(B,)``; ``prompt``: given first tokens of each item, ``(B, P, C)``."""
        return even(aligned.mask, lengths)

    def predict_lengths(self, aligned: AlignedStates) -> Tensor:
        """Tokens that the states take, ``(B,)``; 0 before :meth:`fit`."""
        return self.rate[0] * aligned.mask.sum(1) + self.rate[1]

    def fit(self, states: Tensor, lengths: Tensor) -> None:
        """Fit ``length = a states + b`` by least squares, of ``(n,)`` items; ``b = 0`` where ``a`` would not be positive."""
        states, lengths = states.double(), lengths.double()
        apart = states - states.mean()
        slope = (apart * lengths).sum() / apart.square().sum().clamp_min(1e-9)
        offset = lengths.mean() - slope * states.mean()
        if slope <= 0:
            slope, offset = (states * lengths).sum() / states.square().sum(), offset.new_zeros(())
        self.rate.copy_(torch.stack([slope, offset]))
