"""Distillation of a speech encoder into the first codebook (SpeechTokenizer, arXiv 2308.16692; Mimi, 2410.00037)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.medium import ALONG_TIME, Axes
from jielong.losses.base import CodeLoss, LossContext, LossSettings, LossTerms, Teacher

SHORT = 1e-2
"""Least length in the cosine: codes of a fresh encoder are tiny, and the gradient of an angle is one over their length."""


def pooling(frames: int, positions: int) -> Tensor:
    """Weights ``(N, M)`` that average ``M`` frames to ``N`` positions of the same duration.

    A position averages the frames whose centres are closer to its own than its length: four frames a position are an average of eight in
    steps of four (Mimi's), and one a position is that frame itself.
    """
    length = frames / positions
    centres = (torch.arange(positions) + 0.5) * length
    apart = (torch.arange(frames) + 0.5 - centres[:, None]).abs()
    near = (apart < max(length, 1.0) - 1e-6).float()
    return near / near.sum(1, keepdim=True)


class DistillationLoss(CodeLoss):
    """``weight`` times the mean of ``1 - cos(W h, f)``: vectors ``h`` through a linear map, a teacher's features ``f`` pooled in time.

    The map is trained beside the tokenizer and not saved with it.

    ``teacher``: gives ``f``; ``dim``: width ``D`` of ``h``.
    """

    def __init__(self, settings: Distillation, teacher: Teacher, dim: int) -> None:
        super().__init__()
        self.teacher, self.weight = teacher, settings.weight
        self.projection = nn.Linear(dim, teacher.width, bias=False)

    def forward(self, first: Tensor, media: Tensor) -> Tensor:
        """Weighted scalar, in float32, of vectors ``(B, N, D)`` and their audio ``(B, C, T)``."""
        with torch.autocast(first.device.type, enabled=False):
            with torch.no_grad():
                features = self.teacher(media).to(first.device, torch.float32)  # (B, M, F)
                targets = pooling(features.shape[1], first.shape[1]).to(features) @ features
            return self.weight * (1 - F.cosine_similarity(self.projection(first.float()), targets, dim=-1, eps=SHORT)).mean()


class Distillation(LossSettings, family="loss", name="distillation"):
    """Settings of distillation; its weight is not balanced.

    Attributes:
        teacher: ``whisper-base``, whose encoder gives 512 numbers 50 times a second; it needs the extra ``speech``.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    teacher: Literal["whisper-base"] = "whisper-base"

    def contribute(self, terms: LossTerms, context: LossContext) -> None:
        """Add a loss on the first codebook. Raises ``ValueError`` if the tokenizer has no quantizer, or is not of audio."""
        if context.medium.axes != self.axes or context.code_dim is None:
            raise ValueError("the loss distillation is for the first code of an audio tokenizer such as vq, which this is not")
        teacher = context.teachers[self.teacher](context.medium.sample_rate)
        terms.code[self.name] = DistillationLoss(self, teacher, context.code_dim)
