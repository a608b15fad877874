"""Cross-entropy with soft targets: how video pixel networks measure moving digits (arXiv:1610.00527, section 5.1).

A grey level ``z`` in [0, 1] counts as the probability of white, and a model predicts ``y``; nats a frame are

    H(z, y) = - sum over pixels of z ln y + (1 - z) ln(1 - y)

whose least value is not 0 but ``H(z, z)``, which depends on the clips: the bound of a test set.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.core.json import JSON
from jielong.core.medium import ALONG_FRAMES
from jielong.evaluation.provenance import Measurement
from jielong.generation.generator import Generator
from jielong.heads.bernoulli import BernoulliHead
from jielong.tokenizers.base import Tokenizer


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


@torch.no_grad()
def nats_of_generator(
    tokenizer: Tokenizer, model: Generator, media: Tensor, conditions: Sequence[object] | None = None, batch: int = 8
) -> Measurement | None:
    """:func:`soft_nats` of a generator whose head is ``bernoulli``, each pixel given the real ones before it; ``None`` of others.

    Args:
        tokenizer: That of the pixels.
        model: Draws clips pixel by pixel; frames that are always given are context.
        media: Clips ``(B, C, T, H, W)`` in [-1, 1], which are rounded to the tokenizer's levels.
        conditions: Raw conditions of a conditional generator.
        batch: Clips computed at once.
    """
    head, layout = model.head, model.layout
    if not isinstance(head, BernoulliHead) or layout.axes != ALONG_FRAMES or not model.order.shifted:
        return None
    logits, clips = [], []
    for first in range(0, len(media), batch):
        tokens = tokenizer.encode(media[first : first + batch].to(model.device))
        prepared = None
        if model.condition is not None and conditions is not None:
            prepared = model.condition.prepare(conditions[first : first + batch])
        found = head.logits(model.training_states(tokens, prepared).hidden)
        logits.append(found.transpose(1, 2).unflatten(2, layout.grid).float().cpu())
        clips.append(tokenizer.decode(tokens).cpu())
    given = model.order.given_positions(layout)
    context = 0 if given is None else int(given.view(layout.grid).flatten(1).all(1).sum())
    return soft_nats(torch.cat(logits), torch.cat(clips), context)
