"""Exact likelihood of pictures: bits per dimension, for generators that draw pixels one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jielong.evaluation.provenance import Measurement, check_pictures
from jielong.system import System
from jielong.tokenizers.pixels import PixelTokenizer


def no_likelihood(system: System) -> str | None:
    """Why a system's loss is no likelihood of pictures; ``None`` if it is one."""
    model = system.generator
    if model is None:
        return "a tokenizer has no likelihood of pictures"
    if not isinstance(system.tokenizer, PixelTokenizer):
        return "its tokens are not pixels: the likelihood of a code says nothing of what its decoder leaves out"
    if not model.order.shifted or len(model.order.spans(model.layout)) != model.layout.positions:
        return "its order does not draw one position after the other, so its loss is not the likelihood of a picture"
    if model.head.nats_a_value(0.0) is None:
        return "its head's loss is not a likelihood"
    return None


@torch.no_grad()
def bits_per_dimension(system: System, media: Tensor, conditions: Sequence[Any] | None = None, batch: int = 64) -> Measurement:
    """Negative log-likelihood of pictures in bits a colour value: ``-log2 p(x) / (C H W)``, averaged over pictures.

    A uniform guess costs ``log2`` of the number of levels, 8 for 8-bit pictures. Dropout is off, nothing is drawn, and the figure is exact:
    it needs no bound and no dequantisation.

    Args:
        system: A generator over pixels.
        media: ``(B, C, H, W)`` in [-1, 1].
        conditions: What each picture is about, for a generator that is told; ``log p(x | c)`` is then measured.
        batch: Pictures computed at once.

    Raises:
        ValueError: if the system's loss is not a likelihood of pictures, or the conditions do not fit.
    """
    check_pictures(media)
    reason, model = no_likelihood(system), system.generator
    if reason is not None or model is None:
        raise ValueError(f"{system.name} has no bits per dimension: {reason}")
    total = 0.0
    for first in range(0, len(media), batch):
        part = slice(first, first + batch)
        tokens = system.encode(media[part])
        prepared = None
        if model.condition is not None and conditions is not None:
            prepared = model.condition.prepare(conditions[part])
        total += model.loss(tokens, prepared).double().item() * len(tokens)
    nats = model.head.nats_a_value(total / len(media))
    assert nats is not None
    dimensions = math.prod(system.tokenizer.media.shape)
    details = {
        "unit": "bits a colour value",
        "dimensions": dimensions,
        "levels": model.layout.vocabulary,
        "nats_per_picture": nats * dimensions,
        "condition": system.condition_kind,
        "mean_over": "pictures",
        "computed_as": "exact chain rule, teacher forcing, dropout off",
    }
    if model.layout.vocabulary != 256:
        details["warning"] = f"of pictures rounded to {model.layout.vocabulary} levels; published figures are of 256"
    return Measurement("bits_per_dimension", nats / math.log(2), len(media), details)
