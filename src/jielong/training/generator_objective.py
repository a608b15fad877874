"""The training objective of generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from jielong.core.json import JSON
from jielong.core.phases import MAIN, phases_of
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data.sets import Batch
from jielong.generation.generator import Generator
from jielong.generation.state import PreparedMismatch
from jielong.media.kinds.base import kind_of
from jielong.media.results import ResultItem, Results
from jielong.tokenizers.base import Tokenizer
from jielong.training.mismatches import Mismatches
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


class Recent:
    """Means of figures since the last line of the log, and advice that lasts.

    ``lines``: lines in a row with the same advice before it is given, since the first steps say little.
    """

    def __init__(self, lines: int = 5) -> None:
        self._lines, self._times, self._last = lines, 0, ""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add the figures of a batch."""
        for name, figure in figures.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(figure)) + figure
            self._counts[name] = self._counts.get(name, 0) + 1

    def lasting(self, advise: Callable[[Mapping[str, float]], str | None]) -> str | None:
        """The advice on these means, which are then forgotten."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        advice = advise(means) or ""
        self._times, self._last = (self._times + 1 if advice == self._last else 1), advice
        return advice if advice and self._times >= self._lines else None


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
        mismatches: Conditions of other items, for heads that read them.
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
        mismatches: Mismatches | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self._values_of, self._sample_values, self._generate = values_of, sample_values, generate
        self._measure, self._timed = measure, timed
        self.figures = figures
        self._mismatches, self._recent = mismatches, Recent()
        self._unpaired = None if mismatches is None else mismatches.unpaired()
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
        mismatch = None
        if self._mismatches is not None and condition is not None and values is not None and phase != MAIN:
            wrong = self._mismatches.draw(batch, values, rng.per_sample)
            mismatch = PreparedMismatch(condition.prepare(wrong.values), wrong.paired)
        parts: dict[str, Tensor] = {}

        def on_figure(name: str, each: Tensor) -> None:
            parts[name] = each.mean()

        loss = self.model.loss(tokens, prepared, rng.per_sample, phase, mismatch, on_figure)
        self._recent.add(parts)
        return Losses(loss, parts)

    def advice(self) -> str | None:
        """The head's, if it has been the same for some lines of the log; once, which items are not paired."""
        unpaired, self._unpaired = self._unpaired, None
        return self._recent.lasting(self.model.head.advice) or unpaired

    @torch.no_grad()
    def samples(self, model: Generator) -> Results[ResultItem]:
        """Items generated for fixed values."""
        tokens = self._generate(model, self._sample_values)
        return kind_of(self.tokenizer.media).wrap(self.tokenizer.decode_padded(tokens).cpu(), self.tokenizer.media)

    def evaluate(self, model: Generator) -> JSON:
        """Held-out figures."""
        return self._measure(model)
