"""Cross-entropy with soft targets: how video pixel networks measure moving digits (arXiv:1610.00527, section 5.1).

A grey level ``z`` in [0, 1] counts as the probability of white, and a model predicts ``y``; nats a frame are

    H(z, y) = - sum over pixels of z ln y + (1 - z) ln(1 - y)

whose least value is not 0 but ``H(z, z)``, which depends on the clips: the bound of a test set.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.core.json import JSON
from jielong.evaluation.provenance import Measurement


def nats_per_frame(logits: Tensor, clips: Tensor) -> Tensor:
    """``H(z, y)`` of each frame, ``(B, T)`` float64.

    Args:
        logits: Of ``y``, ``(B, C, T, H, W)``.
        clips: ``2 z - 1`` in [-1, 1], of the same shape.

    Raises:
        ValueError: if the shapes differ, or clips are not in [-1, 1].
    """
    if logits.shape != clips.shape or clips.ndim != 5:
        raise ValueError(f"logits and clips are (B, C, T, H, W) of one shape, not {tuple(logits.shape)} and {tuple(clips.shape)}")
    return F.binary_cross_entropy_with_logits(logits.double(), _shares(clips), reduction="none").sum((1, 3, 4))


def bound_per_frame(clips: Tensor) -> Tensor:
    """``H(z, z)`` of each frame ``(B, T)`` float64: what no prediction of these clips ``(B, C, T, H, W)`` is below."""
    share = _shares(clips)
    return -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).sum((1, 3, 4))


def soft_nats(logits: Tensor, clips: Tensor, context: int, name: str = "nats_per_frame") -> Measurement:
    """Nats a frame, mean over the frames after the first ``context`` of all clips, with the bound of the same frames.

    Raises:
        ValueError: as :func:`nats_per_frame`, or if no frame follows the context.
    """
    if not 0 <= context < clips.shape[2]:
        raise ValueError(f"of {clips.shape[2]} frames, {context} are context: none is left to measure")
    nats, bound = (each[:, context:] for each in (nats_per_frame(logits, clips), bound_per_frame(clips)))
    details: JSON = {
        "protocol": "cross-entropy with soft targets, summed over the pixels of a frame, mean over frames after the context",
        "unit": "nats a frame",
        "context": context,
        "frames": nats.shape[1],
        "bound": float(bound.mean()),
        "above_bound": float((nats - bound).mean()),
        "standard_error": float(nats.mean(1).std(correction=1) / len(nats) ** 0.5) if len(nats) > 1 else None,
    }
    return Measurement(name, float(nats.mean()), len(clips), details)


def _shares(clips: Tensor) -> Tensor:
    if clips.min() < -1 - 1e-6 or clips.max() > 1 + 1e-6:
        raise ValueError(f"clips are in [-1, 1], not from {float(clips.min()):.4g} to {float(clips.max()):.4g}")
    return ((clips.double() + 1) / 2).clamp(0, 1)
