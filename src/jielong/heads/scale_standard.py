"""Standardisation of the tokens of each scale, for joint heads that draw scale by scale."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from jielong.core.tokens import Layout, Tokens

LEAST = 1e-4
"""Least standard deviation of a channel."""


class ScaleStandard(nn.Module):
    """Shift and scale of every channel at each scale: a coarse scale, an average of many tokens, varies less than the finest.

    They are measured before training (:meth:`measure`), and stored with the weights; until then tokens stay as they are.

    Args:
        head: The head's name, for messages.
        layout: The tokens.

    Raises:
        ValueError: if they have no scales.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, head: str, layout: Layout) -> None:
        super().__init__()
        if not layout.scales:
            raise ValueError(
                f"head.{head}.standardize: scale is for tokens of several scales, and these are on one grid, whose tokenizer has "
                "standardised them: leave it out, or take order: {next_scale: {divide: {scales: auto}}}"
            )
        shape = len(layout.scales), layout.channels
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    @torch.no_grad()
    def measure(self, tokens: Iterable[Tokens]) -> None:
        """Measure mean and standard deviation of items, in float64. Raises ``ValueError`` without items."""
        count = torch.zeros(len(self.mean), 1, dtype=torch.float64)
        sums = torch.zeros(2, *self.mean.shape, dtype=torch.float64)
        for part in tokens:
            scales = part.layout.coordinates()[:, 0]
            each = part.values.detach().cpu().double()
            for index, values in enumerate((each, each.square())):
                sums[index].index_add_(0, scales, values.sum(0))
            count.index_add_(0, scales, torch.full((len(scales), 1), float(len(part)), dtype=torch.float64))
        if not bool(count.all()):
            raise ValueError("the deviation of each scale is measured on training items, and there are none")
        mean, square = sums / count
        self.mean.copy_(mean)
        self.deviation.copy_((square - mean.square()).clamp_min(0).sqrt().clamp_min(LEAST))

    def standardised(self, values: Tensor, scale: int) -> Tensor:
        """Tokens ``(..., C)`` of a scale to deviation 1."""
        return (values - self.mean[scale]) / self.deviation[scale]

    def restored(self, values: Tensor, scale: int) -> Tensor:
        """The inverse of :meth:`standardised`."""
        return values * self.deviation[scale] + self.mean[scale]
