"""The contrastive loss of two towers (InfoNCE; CLIP, arXiv 2103.00020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(scores: Tensor) -> Tensor:
    """InfoNCE in both directions, picture to text and text to picture (van den Oord et al., arXiv 1807.03748).

    Args:
        scores: ``(B, B)``, positive pairs on the diagonal.
    """
    positives = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, positives) + F.cross_entropy(scores.T, positives)) / 2
