"""Monotonic alignment search in training, and a network that predicts the durations it finds.

Glow-TTS (arXiv 2005.11129, section 3.3) and Grad-TTS (2105.06337): every symbol has an emission distribution over tokens, ``N(mu_j, I)`` or
categorical. Dynamic programming finds the most probable monotonic path, in which every symbol has a token, and the emissions are trained
on that path. A weak prior for the diagonal keeps early training stable (One TTS Alignment, 2108.10447, section 3.3).
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
"""Least standard deviation of the diagonal prior, as a fraction of an item."""


@torch.no_grad()
def search(scores: Tensor, mask: Tensor, lengths: Tensor, whole: bool = True) -> Tensor:
    """Durations ``(B, L)`` of the path of the greatest sum: ``Q_{j,t} = s_{j,t} + max(Q_{j,t-1}, Q_{j-1,t-1})``.

    A path begins in the first symbol, ends in the last at the item's end, and gives every symbol a position or more. Items with fewer
    positions than symbols get equal durations.

    Args:
        scores: ``(B, L, N)`` float32, score of symbol ``j`` at position ``t``.
        mask: ``(B, L)`` bool, false at padding, which comes last.
        lengths: ``(B,)`` positions of each item.
        whole: Whether the positions cover all symbols. Otherwise they are a prefix of each item, and the path ends in the symbol with
            the greatest sum; later symbols get 0.
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
    """``-(t / T - j / L)^2 / (2 s^2)`` of middles, ``(B, L, N)``; ``s^2 = 1 / L`` (independent durations), at least ``DIAGONAL^2``."""
    count = mask.sum(1)[:, None]
    symbol = (torch.arange(mask.shape[1], device=mask.device) + 0.5) / count
    time = (torch.arange(positions, device=mask.device) + 0.5) / lengths[:, None]
    precision = count.clamp(max=DIAGONAL**-2)[..., None]
    return -0.5 * precision * (time[:, None] - symbol[..., None]).square()


class MonotonicAlignment(LengthRegulator):
    """Durations found by alignment search in training, for the tokens of ``layout``, and predicted by a small network in sampling."""

    def __init__(self, states: int, width: int, layout: Layout) -> None:
        super().__init__(states, width)
        self.layout = layout
        self.emission = nn.Linear(states, layout.channels * (layout.vocabulary or 1))
        self.conv1, self.conv2 = (nn.Conv1d(size, width, 3, padding=1) for size in (states, width))
        self.norm, self.duration = Norm(width, "layer", 1e-5), nn.Linear(width, 1)
        nn.init.zeros_(self.emission.weight)
        nn.init.zeros_(self.duration.weight)

    def log_durations(self, aligned: AlignedStates) -> Tensor:
        """Predicted log-durations, ``(B, L)``; states get no gradient from them."""
        here = aligned.mask[:, None]
        h = F.gelu(self.conv1(aligned.real.detach().mT)) * here
        return self.duration(self.norm(F.gelu(self.conv2(h)).mT))[..., 0]

    def scores(self, aligned: AlignedStates, values: Tensor) -> Tensor:
        """Log-likelihood of each token under each symbol's emission, up to a constant: ``(B, L, N)`` float32 for ``values (B, N, C)``."""
        emission = self.emission(aligned.real).float()
        with torch.autocast(emission.device.type, enabled=False):
            if self.layout.vocabulary is None:
                x = values.float()
                square = emission.square().sum(-1)[..., None] + x.square().sum(-1)[:, None]
                return emission @ x.mT - 0.5 * square
            logs = emission.unflatten(-1, (self.layout.channels, -1)).log_softmax(-1)  # (B, L, K, V)
            index = values.mT[:, None].expand(-1, logs.shape[1], -1, -1)
            return logs.gather(-1, index).sum(2)

    def learn(self, aligned: AlignedStates, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`LengthRegulator.learn`. Loss: error of the emissions per value plus half the Poisson deviance of durations per token.

        The deviance is least at the mean duration, so predicted lengths are right on average; the usual square error of log-durations
        (Matcha-TTS, arXiv 2309.03199) is least at the geometric mean, which is too short.
        """
        mask = aligned.mask
        scores = self.scores(aligned, values)
        found = search(scores.detach() + diagonal(mask, lengths, values.shape[1]), mask, lengths)
        real = (torch.arange(values.shape[1], device=mask.device) < lengths[:, None]).to(scores)
        ends = found.cumsum(1)
        middles = torch.arange(values.shape[1], device=mask.device) + 0.5
        index = (middles[None, :, None] > ends[:, None]).sum(-1).clamp(max=mask.shape[1] - 1)  # (B, N)
        at = scores.gather(1, index[:, None])[:, 0]
        emission_loss = -(at * real).sum(1) / (real.sum(1) * self.layout.channels)
        predicted = self.log_durations(aligned).float()
        deviance = (torch.xlogy(found, found) - found * predicted - found + predicted.exp()) * mask
        return found, (emission_loss + deviance.sum(1) / lengths).mean()

    def durations(self, aligned: AlignedStates, lengths: Tensor, prompt: Tensor | None = None) -> Tensor:
        """See :meth:`LengthRegulator.durations`: the prompt is aligned by search, the rest gets predicted durations."""
        predicted = scaled(self._predicted(aligned), lengths)
        if prompt is None:
            return predicted
        given = prompt.shape[1]
        scores = self.scores(aligned, prompt) + diagonal(aligned.mask, lengths, given)
        found = search(scores, aligned.mask, torch.full_like(lengths, given), whole=False)
        places = torch.arange(aligned.mask.shape[1], device=found.device)
        last = torch.where(found > 0, places, 0).amax(1, keepdim=True)  # the symbol in which the given part ends, and which may go on
        left = torch.where(places < last, 0, (predicted - found).clamp_min(1e-3)) * aligned.mask
        return found + scaled(left, lengths - given)

    def predict_lengths(self, aligned: AlignedStates) -> Tensor:
        """See :meth:`LengthRegulator.predict_lengths`."""
        return self._predicted(aligned).sum(1)

    def _predicted(self, aligned: AlignedStates) -> Tensor:
        return self.log_durations(aligned).float().exp() * aligned.mask
