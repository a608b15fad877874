"""A stop head: it reads each hidden vector and says whether the item ended before it (SLED, arXiv 2505.13181)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.config.ending import StopHeadSettings


class StopHead(nn.Module):
    """A linear map from the hidden vector of a position to the logit of "the item was over before this position".

    Args:
        width: Width ``D`` of the hidden vectors.
        settings: Threshold and weights.
    """

    def __init__(self, width: int, settings: StopHeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.logit = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.logit.weight)

    def loss(self, hidden: Tensor, times: Tensor, lengths: Tensor) -> Tensor:
        """Binary cross-entropy at the positions before an item's end and the one behind it, averaged over each item and then over all.

        An item that is as long as can be has no position behind its end; there is nothing to learn of it there.

        Args:
            hidden: ``(B, N, D)``.
            times: ``(N,)`` the token that begins at each position; -1 where none does.
            lengths: ``(B,)`` tokens an item has.
        """
        times, lengths = times.to(hidden.device), lengths.to(hidden.device)
        over = times == lengths[:, None]  # (B, N)
        asked = (times >= 0) & (times <= lengths[:, None])
        logits = self.logit(hidden)[..., 0]
        with torch.autocast(hidden.device.type, enabled=False):
            weight = torch.tensor(self.settings.positive_weight, device=hidden.device)
            each = F.binary_cross_entropy_with_logits(logits.float(), over.float(), reduction="none", pos_weight=weight)
        return ((each * asked).sum(1) / asked.sum(1)).mean()

    def over(self, hidden: Tensor) -> Tensor:
        """Whether the item was over before: ``(..., D)`` to ``(...)`` bool."""
        return self.logit(hidden)[..., 0].float().sigmoid() >= self.settings.threshold
