"""Exact likelihood, for generators that draw one position after the other: bits per dimension of pixels, nats per token of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from jielong.core.rng import PerSampleRNG
from jielong.evaluation.provenance import Measurement, check_pictures
from jielong.generation.generator import Generator
from jielong.system import System
from jielong.tokenizers.pixels import PixelTokenizer


def no_likelihood(system: System) -> str | None:
    """Why a system's loss is no likelihood of pictures; ``None`` if it is one."""
    model = system.generator
    if model is None:
        return "a tokenizer has no likelihood of pictures"
    if not isinstance(system.tokenizer, PixelTokenizer):
        return "its tokens are not pixels: the likelihood of a code says nothing of what its decoder leaves out"
    return _no_chain_rule(model)


def no_density(system: System) -> str | None:
    """Why a system's loss is no density of continuous tokens; ``None`` if it is one."""
    model = system.generator
    if model is None:
        return "a tokenizer has no density of tokens"
    if model.layout.discrete:
        return "its tokens are codes, not numbers"
    return _no_chain_rule(model)


def _no_chain_rule(model: Generator) -> str | None:
    """Why a generator's loss is not the likelihood of all its tokens."""
    if not model.order.shifted or len(model.order.spans(model.layout)) != model.layout.positions:
        return "its order does not draw one position after the other, so its loss is not the likelihood of a picture"
    if model.head.nats_a_value(0.0) is None:
        return "its head's loss is not a likelihood"
    return None


@torch.no_grad()
def bits_per_dimension(system: System, media: Tensor, conditions: Sequence[object] | None = None, batch: int = 64) -> Measurement:
    """Negative log-likelihood of pictures in bits a colour value: ``-log2 p(x) / (C H W)``, averaged over pictures.

    A uniform guess costs ``log2`` of the number of levels, 8 for 8-bit pictures. Dropout is off, nothing is drawn, and the figure is exact:
    it needs no bound and no dequantisation.

    Args:
        system: A generator over pixels.
        media: ``(B, C, H, W)`` in [-1, 1].
        conditions: Raw conditions of a conditional generator, which then gives ``log p(x | c)``.
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
        "condition": ", ".join(system.inputs) or None,
        "mean_over": "pictures",
        "computed_as": "exact chain rule, teacher forcing, dropout off",
    }
    if model.layout.vocabulary != 256:
        details["warning"] = f"of pictures rounded to {model.layout.vocabulary} levels; published figures are of 256"
    return Measurement("bits_per_dimension", nats / math.log(2), len(media), details)


@torch.no_grad()
def nats_per_token(
    system: System, media: Tensor, conditions: Sequence[object] | None = None, batch: int = 64, seed: int = 0
) -> Measurement:
    """Negative log-density of pictures' continuous tokens in nats a token: ``-ln p(tokens) / N``, averaged over pictures.

    It is a density, so it may be below 0, and it is one of tokens, not of pictures: another tokenizer, or the same tokens at another scale,
    give another figure for an equally good generator. Compare generators of one tokenizer.

    Args:
        system: A generator over continuous tokens.
        media: ``(B, C, H, W)`` in [-1, 1].
        conditions: As in :func:`bits_per_dimension`.
        batch: Pictures computed at once.
        seed: Of the tokens, where the tokenizer draws them: picture ``i`` has those of ``(seed, i)``.

    Raises:
        ValueError: if the system's loss is not a density of tokens, or the conditions do not fit.
    """
    check_pictures(media)
    reason, model = no_density(system), system.generator
    if reason is not None or model is None:
        raise ValueError(f"{system.name} has no nats per token: {reason}")
    total, device = 0.0, model.placeholder.device
    for first in range(0, len(media), batch):
        rows = range(first, min(first + batch, len(media)))
        kept = system.tokenizer.encode_to_cache(media[rows.start : rows.stop].to(device))
        tokens = system.tokenizer.sample_cached(kept, PerSampleRNG(seed, rows, device))
        prepared = None
        if model.condition is not None and conditions is not None:
            prepared = model.condition.prepare(conditions[rows.start : rows.stop])
        total += model.loss(tokens, prepared).double().item() * len(rows)
    nats = model.head.nats_a_value(total / len(media))
    assert nats is not None
    details = {
        "unit": "nats a token",
        "tokens": model.layout.positions,
        "numbers_a_token": model.layout.channels,
        "nats_a_number": nats,
        "condition": ", ".join(system.inputs) or None,
        "mean_over": "pictures",
        "seed": seed,
        "computed_as": "exact chain rule, teacher forcing, dropout off, of tokens as the generator learns them",
        "warning": "a density of this tokenizer's tokens: not comparable with another tokenizer's",
    }
    return Measurement("nats_per_token", nats * model.layout.channels, len(media), details)
