"""The stop head: predicts from each hidden vector whether the item ended before its position (SLED, arXiv 2505.13181)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.config.ending import StopHeadSettings


class StopHead(nn.Module):
    """A linear map from the hidden vector of a position to the logit of "the item was over before this position"."""

    def __init__(self, width: int, settings: StopHeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.logit = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.logit.weight)

    def loss(self, hidden: Tensor, times: Tensor, lengths: Tensor) -> Tensor:
        """Binary cross-entropy at each item's positions and the one behind its end, averaged over each item and then over all.

        An item of the greatest length has no position behind its end.

        Args:
            hidden: ``(B, N, D)``.
            times: ``(N,)`` the token that begins at each position; -1 where none does.
            lengths: ``(B,)`` tokens of each item.
        """
        times, lengths = times.to(hidden.device), lengths.to(hidden.device)
        over = times == lengths[:, None]  # (B, N)
        counted = (times >= 0) & (times <= lengths[:, None])
        logits = self.logit(hidden)[..., 0]
        with torch.autocast(hidden.device.type, enabled=False):
            weight = torch.tensor(self.settings.positive_weight, device=hidden.device)
            each = F.binary_cross_entropy_with_logits(logits.float(), over.float(), reduction="none", pos_weight=weight)
        return ((each * counted).sum(1) / counted.sum(1)).mean()

    def over(self, hidden: Tensor) -> Tensor:
        """Whether the item ended before: ``(..., D)`` to ``(...)`` bool."""
        return self.logit(hidden)[..., 0].float().sigmoid() >= self.settings.threshold
