"""Training a generator: whatever its parts are, its loss is the generator's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from jielong.core.phases import phases_of
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data.sets import Batch
from jielong.generation.generator import Generator
from jielong.media.kinds.base import kind_of
from jielong.media.results import Results
from jielong.tokenizers.base import Tokenizer
from jielong.training.objective import Losses, Objective, StepRNG


def to_learn(tokenizer: Tokenizer, batch: Batch, rng: PerSampleRNG, timed: bool) -> Tokens:
    """The tokens of a batch, brought by it or made now, with their lengths if these matter.

    Args:
        tokenizer: What makes them.
        batch: Media, or what a token file keeps of them.
        rng: A stream for each item, where tokens are drawn.
        timed: Whether lengths matter.
    """
    layout, values = tokenizer.cached_layout, batch.tokens
    kept = tokenizer.encode_to_cache(batch.media) if values is None else Tokens(values.long() if layout.discrete else values, layout)
    tokens = tokenizer.sample_cached(kept, rng)
    lengths = tokenizer.positions_of(batch.lengths) if timed and batch.lengths is not None else None
    return replace(tokens, lengths=lengths)


class GeneratorObjective(Objective):
    """Predict the tokens that the order asks for.

    Args:
        model: The generator.
        tokenizer: Frozen; turns pictures into tokens where the batch does not bring them, and tokens into the sheet's pictures.
        raw: Picks the raw conditions (captions, labels) out of a batch.
        shown: Raw conditions of the sample sheet.
        draw: ``(generator, conditions) -> tokens``: how sheets are sampled.
        measure: Held-out figures of a generator.
        timed: Whether the generator is to learn only what comes before each clip's end; otherwise the silence behind it is learned too.
    """

    model: Generator

    def __init__(
        self,
        model: Generator,
        tokenizer: Tokenizer,
        raw: Callable[[Batch], Any],
        shown: Sequence[Any] | None,
        draw: Callable[[Generator, Sequence[Any] | None], Tokens],
        measure: Callable[[Generator], dict[str, Any]],
        timed: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self._raw, self._shown, self._draw, self._measure, self._timed = raw, shown, draw, measure, timed

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The generator's phases: its own, and those that its parts declare."""
        return phases_of(self.model)

    def train(self, mode: bool = True) -> GeneratorObjective:
        """Train the generator; the tokenizer stays as it is."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, batch: Batch, phase: str, samples_seen: int, draws: StepRNG) -> Losses:
        """The generator's loss in a phase."""
        tokens = to_learn(self.tokenizer, batch, draws.per_sample, self._timed)
        condition = self.model.condition
        prepared = condition.prepare(self._raw(batch)) if condition is not None else None
        self.model.head.on_train_step(samples_seen)
        return Losses(self.model.loss(tokens, prepared, draws.per_sample, phase))

    @torch.no_grad()
    def samples(self, model: nn.Module) -> Results[Any]:
        """Items for the fixed conditions."""
        tokens = self._draw(model, self._shown)  # type: ignore[arg-type]
        return kind_of(self.tokenizer.media).wrap(self.tokenizer.decode_padded(tokens).cpu(), self.tokenizer.media)

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Held-out loss and whatever the recipe's evaluation measures."""
        return self._measure(model)  # type: ignore[arg-type]
