"""Likelihood of generators that draw position after position, or by a flow: bits per dimension of pictures, nats per token of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from jielong.core.rng import PerSampleRNG
from jielong.evaluation.provenance import Measurement, check_pictures
from jielong.generation.generator import Generator
from jielong.system import System
from jielong.tokenizers.base import Tokenizer


def no_likelihood(system: System) -> str | None:
    """Why a system's loss is no likelihood of pictures; ``None`` if it is one."""
    model = system.generator
    if model is None:
        return "a tokenizer has no likelihood of pictures"
    return no_likelihood_of(system.tokenizer, model)


def no_likelihood_of(tokenizer: Tokenizer, model: Generator) -> str | None:
    """Why a generator's loss is no likelihood of pictures; ``None`` if it is one."""
    return tokenizer.no_likelihood or _no_chain_rule(model)


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
    single = len(model.order.spans(model.layout)) == model.layout.positions
    if not model.order.shifted or not (single or model.head.joint):
        return "its order does not draw one position after the other, so its loss is not the likelihood of a picture"
    if not model.order.predicts_all:
        return "its order is given a part of each item, so its loss is not the likelihood of all of it"
    if model.head.nats_a_value(0.0) is None:
        return "its head's loss is not a likelihood"
    return None


def _computed(model: Generator) -> str:
    """How a generator's loss is a likelihood, in words."""
    return model.head.bound or ("joint density of the block" if model.head.joint else "exact chain rule, teacher forcing")


def likelihood_bits(tokenizer: Tokenizer, model: Generator, loss: float, level_nats: float) -> float:
    """Bits a colour value of pictures: ``(nats - level_nats) / (C H W ln 2)`` an item.

    Args:
        tokenizer: One without a :attr:`Tokenizer.no_likelihood`.
        model: Its generator.
        loss: Mean loss of tokens.
        level_nats: Mean of :meth:`Tokenizer.level_nats`.
    """
    nats = model.head.nats_a_value(loss)
    assert nats is not None
    return (nats - level_nats / math.prod(tokenizer.media.shape)) / math.log(2)


@torch.no_grad()
def _mean_loss(
    system: System, model: Generator, media: Tensor, conditions: Sequence[object] | None, batch: int, seed: int
) -> tuple[float, float]:
    """Means over pictures of the loss of tokens as the generator learns them, and of their :meth:`Tokenizer.level_nats`."""
    loss, level_nats, device = 0.0, 0.0, model.placeholder.device
    for first in range(0, len(media), batch):
        rows = range(first, min(first + batch, len(media)))
        kept = system.tokenizer.encode_to_cache(media[rows.start : rows.stop].to(device))
        tokens = system.tokenizer.sample_cached(kept, PerSampleRNG(seed, rows, device))
        prepared = None
        if model.condition is not None and conditions is not None:
            prepared = model.condition.prepare(conditions[rows.start : rows.stop])
        loss += model.loss(tokens, prepared).double().item() * len(rows)
        level_nats += float(system.tokenizer.level_nats(tokens).double().sum())
    return loss / len(media), level_nats / len(media)


def bits_per_dimension(
    system: System, media: Tensor, conditions: Sequence[object] | None = None, batch: int = 64, seed: int = 0
) -> Measurement:
    """Negative log-likelihood of pictures in bits a colour value: ``-log2 p(x) / (C H W)``, averaged over pictures.

    A uniform guess costs ``log2`` of the number of levels, 8 for 8-bit pictures. Dropout is off. Of codes the figure is exact and nothing
    is drawn; of numbers it is an upper bound, with one draw of the dequantisation a picture.

    Args:
        system: A generator over pixels, or over dequantised patches of them.
        media: ``(B, C, H, W)`` in [-1, 1].
        conditions: Raw conditions of a conditional generator, which then gives ``log p(x | c)``.
        batch: Pictures computed at once.
        seed: Of the dequantisation: picture ``i`` has that of ``(seed, i)``.

    Raises:
        ValueError: if the system's loss is not a likelihood of pictures, or the conditions do not fit.
    """
    check_pictures(media)
    reason, model = no_likelihood(system), system.generator
    if reason is not None or model is None:
        raise ValueError(f"{system.name} has no bits per dimension: {reason}")
    bits = likelihood_bits(system.tokenizer, model, *_mean_loss(system, model, media, conditions, batch, seed))
    dimensions, levels = math.prod(system.tokenizer.media.shape), system.tokenizer.levels
    computed = [_computed(model), "dropout off"]
    if not model.layout.discrete:
        computed.append("upper bound by uniform dequantisation")
    details = {
        "unit": "bits a colour value",
        "dimensions": dimensions,
        "levels": levels,
        "nats_per_picture": bits * math.log(2) * dimensions,
        "condition": ", ".join(system.inputs) or None,
        "mean_over": "pictures",
        "computed_as": ", ".join(computed),
    }
    if not model.layout.discrete:
        details["seed"] = seed
    if levels != 256:
        details["warning"] = f"of pictures rounded to {levels} levels; published figures are of 256"
    return Measurement("bits_per_dimension", bits, len(media), details)


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
    nats = model.head.nats_a_value(_mean_loss(system, model, media, conditions, batch, seed)[0])
    assert nats is not None
    details = {
        "unit": "nats a token",
        "tokens": model.layout.positions,
        "numbers_a_token": model.layout.channels,
        "nats_a_number": nats,
        "condition": ", ".join(system.inputs) or None,
        "mean_over": "pictures",
        "seed": seed,
        "computed_as": f"{model.head.bound or 'exact density, teacher forcing'}, dropout off, of tokens as the generator learns them",
        "warning": "a density of this tokenizer's tokens: not comparable with another tokenizer's",
    }
    return Measurement("nats_per_token", nats * model.layout.channels, len(media), details)
