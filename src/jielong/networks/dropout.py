"""Dropout whose masks belong to the items of a batch: an item drops the same channels in any batch, micro-batch or process.

In a training step (:func:`item_streams`) a mask is a hash of the item, the place in the network and the element; otherwise it is drawn from
torch's global generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.rng import Draws, PerSampleRNG, seed_of

_STREAMS: ContextVar[Draws | None] = ContextVar("streams", default=None)


class DropoutSite:
    """A module that drops; its masks are those of its number in the model (:func:`number_sites`)."""

    site: int = 0


def number_sites(model: nn.Module) -> None:
    """Number all places of dropout in a model, up to four in a module, so that each draws its own masks."""
    for number, module in enumerate(model.modules()):
        if isinstance(module, DropoutSite):
            module.site = 4 * number


@contextmanager
def item_streams(rng: PerSampleRNG, device: torch.device) -> Iterator[None]:
    """Draw the masks of a forward pass on these samples from their streams."""
    before = _STREAMS.set(rng.draws("dropout", device))
    try:
        yield
    finally:
        _STREAMS.reset(before)


def current_streams(items: int) -> Draws | None:
    """The streams of ``items`` rows, one a sample or copies of all samples one after the other; ``None`` outside of training steps."""
    streams = _STREAMS.get()
    return streams if streams is None or len(streams) == items else streams.copies(items // len(streams))


def streams_for(purpose: str, items: int) -> Draws | None:
    """Streams of ``items`` rows for one purpose, the same whenever they are asked for in a training step; ``None`` outside of them."""
    streams = current_streams(items)
    return streams if streams is None else Draws(streams.keys ^ seed_of(purpose)).each(1)[:, 0]


def dropout(x: Tensor, probability: float, site: int, streams: Draws | None, rows: int = 1, prefix: int = 0) -> Tensor:
    """``x`` ``(B, ...)`` or ``(B n, ...)`` with elements dropped and the others divided by the probability of staying.

    Args:
        x: Elements of the items of ``streams``, item after item.
        probability: Of dropping an element, rounded to a multiple of ``2^-16`` below 1.
        site: Number of the place in the model.
        streams: A stream for each item; without them the mask comes from torch's global generator.
        rows: Rows ``n`` of an item.
        prefix: First rows of an item whose number depends on the batch; the others are counted from there.
    """
    if streams is None:
        return F.dropout(x, probability)
    width, row = x.numel() // (len(streams) * rows), torch.arange(rows, device=x.device)
    dropped = min(round(probability * 2**16), 2**16 - 1)
    words = -(-width // 4)
    elements = torch.where(row < prefix, -1 - row, row - prefix)[:, None] * words + torch.arange(words, device=x.device)
    drawn = streams.bits(elements.flatten(), site + 1).view(torch.int16).view(-1, 4 * words)[:, :width]
    return x * (drawn >= dropped - 2**15).reshape(x.shape) * (2**16 / (2**16 - dropped))


class Dropout(nn.Dropout, DropoutSite):
    """:func:`dropout` in training; the first axis is that of the items."""

    def forward(self, x: Tensor, branch: int = 0, streams: Draws | None = None) -> Tensor:
        """``branch``: which of up to four places; ``streams`` of the rows of ``x``, by default those of the training step."""
        if not self.training or not self.p:
            return x
        return dropout(x, self.p, self.site + branch, current_streams(len(x)) if streams is None else streams)
