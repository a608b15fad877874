"""The training objective of generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import nn

from jielong.core.json import JSON
from jielong.core.phases import phases_of
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data.sets import Batch
from jielong.generation.generator import Generator
from jielong.media.kinds.base import kind_of
from jielong.media.results import ResultItem, Results
from jielong.tokenizers.base import Tokenizer
from jielong.training.objective import Losses, Objective, StepRNG


def training_tokens(tokenizer: Tokenizer, batch: Batch, rng: PerSampleRNG, timed: bool) -> Tokens:
    """The tokens of a batch, from its cached tokens or else its media.

    Args:
        tokenizer: Of the tokens.
        batch: Media, or cached tokens.
        rng: A stream per item, for tokens that are drawn.
        timed: Whether to give them lengths.
    """
    layout, values = tokenizer.cached_layout, batch.tokens
    if values is None:
        with torch.no_grad(), torch.autocast(batch.media.device.type, enabled=False):  # as tokens of the cache are computed
            cached = tokenizer.encode_to_cache(batch.media)
    else:
        cached = Tokens(values.long() if layout.discrete else values, layout)
    tokens = tokenizer.sample_cached(cached, rng)
    lengths = tokenizer.positions_of(batch.lengths) if timed and batch.lengths is not None else None
    return replace(tokens, lengths=lengths)


class GeneratorObjective(Objective[Generator]):
    """The generator's loss on a tokenizer's tokens, in all phases that its parts declare.

    Args:
        model: The generator.
        tokenizer: Frozen; encodes batches without cached tokens, and decodes the sample grid.
        values_of: Values of the condition, one per item of a batch.
        sample_values: Values of the condition for the sample grid.
        generate: ``(generator, values) -> tokens`` for the sample grid.
        measure: Held-out figures of a generator.
        figures: Of :class:`Objective`.
        timed: Whether items end, and only tokens before an item's end are learned; otherwise the silence after it is learned too.
    """

    def __init__(
        self,
        model: Generator,
        tokenizer: Tokenizer,
        values_of: Callable[[Batch], Sequence[object] | None],
        sample_values: Sequence[object] | None,
        generate: Callable[[Generator, Sequence[object] | None], Tokens],
        measure: Callable[[Generator], JSON],
        timed: bool = False,
        figures: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self._values_of, self._sample_values, self._generate = values_of, sample_values, generate
        self._measure, self._timed = measure, timed
        self.figures = figures
        self.keeps_best = model.head.loss_ranks_weights and len(self.phases) == 1

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        """The generator's, and those that its parts declare."""
        return phases_of(self.model)

    def train(self, mode: bool = True) -> GeneratorObjective:
        """Set the generator's mode; the tokenizer stays in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, batch: Batch, phase: str, samples_seen: int, rng: StepRNG) -> Losses:
        """The generator's loss in a phase."""
        tokens = training_tokens(self.tokenizer, batch, rng.per_sample, self._timed)
        condition = self.model.condition
        values = None if condition is None else self._values_of(batch)
        prepared = None if condition is None or values is None else condition.prepare(values)
        self.model.head.on_train_step(samples_seen)
        return Losses(self.model.loss(tokens, prepared, rng.per_sample, phase))

    @torch.no_grad()
    def samples(self, model: Generator) -> Results[ResultItem]:
        """Items generated for fixed values."""
        tokens = self._generate(model, self._sample_values)
        return kind_of(self.tokenizer.media).wrap(self.tokenizer.decode_padded(tokens).cpu(), self.tokenizer.media)

    def evaluate(self, model: Generator) -> JSON:
        """Held-out figures."""
        return self._measure(model)
