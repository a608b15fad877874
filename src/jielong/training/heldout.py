"""Held-out figures of a model in training, measured on the same items with the same masks and noise each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from jielong.core.json import JSON
from jielong.core.rng import PerSampleRNG
from jielong.data.order import spread
from jielong.data.sets import Batch
from jielong.evaluation.likelihood import likelihood_bits, no_likelihood_of
from jielong.evaluation.protocols import protocol_of
from jielong.generation.generator import Generator
from jielong.tokenizers.base import LearnedTokenizer, Tokenizer
from jielong.training.generator_objective import training_tokens
from jielong.training.opening import HELDOUT_ITEMS, Sets

_BATCH = 64


def figures_of(sets: Sets, tokenizer: Tokenizer, generator: Generator | None) -> Mapping[str, bool]:
    """Names of the figures, and whether higher is better; none without held-out items."""
    if not sets.measured:
        return {}
    if generator is not None:
        likely = no_likelihood_of(tokenizer, generator) is None
        return {"heldout_loss": False} | ({"heldout_bits_per_dimension": False} if likely else {})
    return {f"heldout_{name}": higher for name, higher in protocol_of(sets.heldout.medium).quick_figures.items()}


@torch.no_grad()
def measure_tokenizer(sets: Sets, model: LearnedTokenizer) -> JSON:
    """Figures of reconstructions; nothing without held-out items."""
    if not sets.measured:
        return {}
    heldout = sets.heldout
    batch = heldout.batch(spread(len(heldout), heldout.kind.measured_count))
    device = next(model.parameters()).device
    reconstructions = torch.cat([model.decode(model.encode(part.to(device))).cpu() for part in batch.media.split(_BATCH)])
    figures = protocol_of(heldout.medium).quick(reconstructions, batch, heldout.medium)
    return {f"heldout_{name}": value for name, value in figures.items()}


@torch.no_grad()
def measure_generator(
    sets: Sets, tokenizer: Tokenizer, values_of: Callable[[Batch], Sequence[object] | None], timed: bool, model: Generator
) -> JSON:
    """Held-out loss and the figures of a joint head's, with the same masks every time; nothing without held-out items.

    Also bits per dimension, where the loss is a likelihood of pictures.
    """
    if not sets.measured:
        return {}
    heldout = sets.heldout
    rows = spread(len(heldout), HELDOUT_ITEMS)
    total, level_nats, figures = torch.zeros((), dtype=torch.float64), 0.0, dict[str, float]()

    def on_figure(name: str, each: torch.Tensor) -> None:
        figures[name] = figures.get(name, 0.0) + float(each.double().sum())

    was_training = model.training
    model.eval()
    device = model.placeholder.device
    for first in range(0, len(rows), _BATCH):
        part = rows[first : first + _BATCH]
        batch = heldout.batch(part)
        rng = PerSampleRNG(0, range(first, first + len(part)))
        tokens = training_tokens(tokenizer, batch.to(device), rng, timed)
        values = values_of(batch)
        prepared = model.condition.prepare(values) if model.condition is not None and values is not None else None
        total += float(model.loss(tokens, prepared, rng, on_figure=on_figure)) * len(part)
        level_nats += float(tokenizer.level_nats(tokens).sum())
    model.train(was_training)
    loss = float(total) / len(rows)
    found: JSON = {"heldout_loss": loss, **{f"heldout_{name}": value / len(rows) for name, value in figures.items()}}
    if no_likelihood_of(tokenizer, model) is None:
        found["heldout_bits_per_dimension"] = likelihood_bits(tokenizer, model, loss, level_nats / len(rows))
    return found
