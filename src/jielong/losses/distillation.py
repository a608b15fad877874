"""Distillation: the first code tells what a network that understands speech tells (SpeechTokenizer, 2308.16692; Mimi, 2410.00037)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.medium import ALONG_TIME, Axes
from jielong.losses.base import LossSettings

SHORT = 1e-2
"""Vectors shorter than this have no direction yet: a fresh encoder's codes are tiny, and the angle's gradient is one over their length."""

Teacher = Callable[[Tensor], Tensor]
"""Sound ``(B, C, T)`` to features ``(B, M, F)``, evenly spread over its length; no gradient."""


def pooling(frames: int, positions: int) -> Tensor:
    """Weights ``(N, M)`` that average ``M`` frames to ``N`` positions of the same length of time, looking both ways.

    A position averages the frames whose centres are nearer to its own than it is long; so four frames a position are an average of eight
    in steps of four (Mimi's), and one a position is that frame itself.
    """
    length = frames / positions
    centres = (torch.arange(positions) + 0.5) * length
    apart = (torch.arange(frames) + 0.5 - centres[:, None]).abs()
    near = (apart < max(length, 1.0) - 1e-6).float()
    return near / near.sum(1, keepdim=True)


class DistillationLoss(nn.Module):
    """``weight`` times the mean of ``1 - cos(W h, f)``: first codes ``h`` through a linear map, a teacher's features ``f`` pooled in time.

    The map is learned beside the tokenizer and not kept.

    Args:
        teacher: Gives ``f``.
        dim: Width ``D`` of ``h``.
        width: Width ``F`` of ``f``.
        weight: Its share of the objective.
    """

    def __init__(self, teacher: Teacher, dim: int, width: int, weight: float = 1.0) -> None:
        super().__init__()
        self.teacher, self.weight = teacher, weight
        self.projection = nn.Linear(dim, width, bias=False)

    def forward(self, first: Tensor, media: Tensor) -> Tensor:
        """Weighted scalar, in float32.

        Args:
            first: What the first code of each position gives, ``(B, N, D)``.
            media: The sound itself, ``(B, C, T)``.
        """
        with torch.autocast(first.device.type, enabled=False):
            with torch.no_grad():
                features = self.teacher(media).to(first.device, torch.float32)  # (B, M, F)
                wanted = pooling(features.shape[1], first.shape[1]).to(features) @ features
            return self.weight * (1 - F.cosine_similarity(self.projection(first.float()), wanted, dim=-1, eps=SHORT)).mean()


class Distillation(LossSettings, family="loss", name="distillation"):
    """The first code, through a linear map, against the features of a frozen network that understands speech.

    Attributes:
        weight: Its share of the objective; it stays outside a balancer.
        start_samples: Samples seen before it joins.
        teacher: ``whisper-base``, whose encoder gives 512 numbers 50 times a second; it needs the extra ``speech``.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    weight: NonNegativeFloat = 1.0
    start_samples: NonNegativeInt = 0
    teacher: Literal["whisper-base"] = "whisper-base"

    def build(self, *, teacher: Teacher, dim: int, width: int) -> DistillationLoss:
        """The loss, ``loss(first, media) -> scalar``."""
        return DistillationLoss(teacher, dim, width, self.weight)
