"""Which symbol lasts how long, found while training: the likeliest monotonic path, and a network that learns to say it.

Glow-TTS (arXiv 2005.11129, section 3.3) and Grad-TTS (2105.06337): every symbol guesses the tokens that it stands for, ``N(mu_j, I)`` or a
distribution over codes; of all ways to share the tokens among the symbols in their order, none left out, dynamic programming finds the
likeliest, and that teaches the guesses. Guesses and paths grow better together. A weak preference for even paths makes the beginning safe
(One TTS Alignment, 2108.10447, section 3.3).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.core.tokens import Layout
from jielong.networks.conditioning import AlignedStates
from jielong.networks.length_regulator import LengthRegulator, even, scaled
from jielong.networks.norm import Norm

DIAGONAL = 0.1
"""Least standard deviation of the preference for even paths, in shares of an item."""


@torch.no_grad()
def search(scores: Tensor, mask: Tensor, lengths: Tensor, whole: bool = True) -> Tensor:
    """Durations ``(B, L)`` of the path of the greatest sum: ``Q_{j,t} = s_{j,t} + max(Q_{j,t-1}, Q_{j-1,t-1})``.

    A path begins in the first symbol and ends in the last, at the item's end, and gives every symbol a position or more. Items that have
    fewer positions than symbols are shared evenly.

    Args:
        scores: ``(B, L, N)`` float32, how well symbol ``j`` explains position ``t``.
        mask: ``(B, L)`` bool, which symbols are real, from the first on.
        lengths: ``(B,)`` positions an item has.
        whole: Whether the positions are those of all symbols. Otherwise they are the first of an item, all of them, and the path ends in
            the symbol where its sum is greatest; those behind last 0.
    """
    batch, symbols, positions = scores.shape
    count = mask.sum(1)
    best = scores.new_full((batch, symbols + 1), -math.inf)  # best[:, j + 1] is Q_{j,t}; best[:, 0] is nowhere
    best[:, 1] = scores[:, 0, 0]
    stepped = []  # at each position, whether the best path came from the symbol before
    for time in range(1, positions):
        stay, step = best[:, 1:], best[:, :-1]
        stepped.append(step > stay)
        best = F.pad(torch.maximum(stay, step) + scores[..., time], (1, 0), value=-math.inf)
    here = count - 1 if whole else best[:, 1:].masked_fill(~mask, -math.inf).argmax(1)
    found = torch.zeros_like(mask, dtype=torch.long)
    for time in range(positions - 1, -1, -1):
        inside = time < lengths
        found.scatter_add_(1, here[:, None], inside[:, None].long())
        if time:
            back = stepped[time - 1].gather(1, here[:, None])[:, 0]
            here = here - (back & inside).long()
    enough = (lengths >= count)[:, None] | (not whole)
    return torch.where(enough, found.to(scores.dtype), even(mask, lengths))


def diagonal(mask: Tensor, lengths: Tensor, positions: int) -> Tensor:
    """``-(t / T - j / L)^2 / (2 s^2)`` of the middles of positions and symbols, ``(B, L, N)``.

    ``s^2 = 1 / L``, as if symbols' durations were independent, and no less than :data:`DIAGONAL` squared.
    """
    count = mask.sum(1)[:, None]
    symbol = (torch.arange(mask.shape[1], device=mask.device) + 0.5) / count
    time = (torch.arange(positions, device=mask.device) + 0.5) / lengths[:, None]
    precision = count.clamp(max=DIAGONAL**-2)[..., None]
    return -0.5 * precision * (time[:, None] - symbol[..., None]).square()


class MonotonicAlignment(LengthRegulator):
    """Stretches states by durations that are searched for in training and said by a small network afterwards.

    Args:
        states: Channels ``W`` of the states.
        width: Channels ``D`` of the inputs.
        layout: The tokens that symbols guess.
    """

    def __init__(self, states: int, width: int, layout: Layout) -> None:
        super().__init__(states, width)
        self.layout = layout
        self.guess = nn.Linear(states, layout.channels * (layout.vocabulary or 1))
        self.before, self.after = (nn.Conv1d(size, width, 3, padding=1) for size in (states, width))
        self.norm, self.said = Norm(width, "layer", 1e-5), nn.Linear(width, 1)
        nn.init.zeros_(self.guess.weight)
        nn.init.zeros_(self.said.weight)

    def log_durations(self, along: AlignedStates) -> Tensor:
        """Logarithms of durations, ``(B, L)``; states get no gradient, so that they need not please this network too."""
        here = along.mask[:, None]
        h = F.gelu(self.before(along.real.detach().mT)) * here
        return self.said(self.norm(F.gelu(self.after(h)).mT))[..., 0]

    def scores(self, along: AlignedStates, values: Tensor) -> Tensor:
        """Log-likelihood of each token under each symbol's guess, up to a constant: ``(B, L, N)`` float32 for ``values (B, N, C)``."""
        guess = self.guess(along.real).float()
        with torch.autocast(guess.device.type, enabled=False):
            if self.layout.vocabulary is None:
                x = values.float()
                square = guess.square().sum(-1)[..., None] + x.square().sum(-1)[:, None]
                return guess @ x.mT - 0.5 * square
            logs = guess.unflatten(-1, (self.layout.channels, -1)).log_softmax(-1)  # (B, L, K, V)
            index = values.mT[:, None].expand(-1, logs.shape[1], -1, -1)
            return logs.gather(-1, index).sum(2)

    def learn(self, along: AlignedStates, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`LengthRegulator.learn`. The loss: error of the guesses a value, and half the Poisson deviance of durations a token.

        The latter is least at the mean duration, so what a text is said to last is right on average; the square error of logarithms, which
        is usual (Matcha-TTS, arXiv 2309.03199), is least at the geometric mean, and texts come out too short.
        """
        mask = along.mask
        scores = self.scores(along, values)
        found = search(scores.detach() + diagonal(mask, lengths, values.shape[1]), mask, lengths)
        real = (torch.arange(values.shape[1], device=mask.device) < lengths[:, None]).to(scores)
        ends = found.cumsum(1)
        middles = torch.arange(values.shape[1], device=mask.device) + 0.5
        index = (middles[None, :, None] > ends[:, None]).sum(-1).clamp(max=mask.shape[1] - 1)  # (B, N)
        at = scores.gather(1, index[:, None])[:, 0]
        guessed = -(at * real).sum(1) / (real.sum(1) * self.layout.channels)
        said = self.log_durations(along).float()
        wrong = (torch.xlogy(found, found) - found * said - found + said.exp()) * mask
        return found, (guessed + wrong.sum(1) / lengths).mean()

    def durations(self, along: AlignedStates, lengths: Tensor, heard: Tensor | None = None) -> Tensor:
        """See :meth:`LengthRegulator.durations`: given tokens are aligned by search, the rest by predicted durations."""
        said = scaled(self._said(along), lengths)
        if heard is None:
            return said
        given = heard.shape[1]
        scores = self.scores(along, heard) + diagonal(along.mask, lengths, given)
        found = search(scores, along.mask, torch.full_like(lengths, given), whole=False)
        places = torch.arange(along.mask.shape[1], device=found.device)
        last = torch.where(found > 0, places, 0).amax(1, keepdim=True)  # the symbol in which the given part ends, and which may go on
        left = torch.where(places < last, 0, (said - found).clamp_min(1e-3)) * along.mask
        return found + scaled(left, lengths - given)

    def predict_lengths(self, along: AlignedStates) -> Tensor:
        """See :meth:`LengthRegulator.own_lengths`."""
        return self._said(along).sum(1)

    def _said(self, along: AlignedStates) -> Tensor:
        return self.log_durations(along).float().exp() * along.mask
