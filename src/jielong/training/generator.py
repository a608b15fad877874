"""Training a generator: whatever its parts are, its loss is the generator's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jielong.data.sets import Batch
from jielong.generator import Generator
from jielong.tokenizers.base import Tokenizer
from jielong.tokens import Tokens
from jielong.training.objective import Draws, Losses, Objective


class GeneratorObjective(Objective):
    """Predict the tokens that the order asks for.

    Args:
        model: The generator.
        tokenizer: Frozen; turns pictures into tokens where the batch does not bring them, and tokens into the sheet's pictures.
        raw: Picks the raw conditions (captions, labels) out of a batch.
        shown: Raw conditions of the sample sheet.
        draw: ``(generator, conditions) -> tokens``: how sheets are sampled.
        measure: Held-out figures of a generator.
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
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self._raw, self._shown, self._draw, self._measure = raw, shown, draw, measure

    def train(self, mode: bool = True) -> GeneratorObjective:
        """Train the generator; the tokenizer stays as it is."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, batch: Batch, phase: str, samples_seen: int, draws: Draws) -> Losses:
        """The generator's loss."""
        tokens = self.tokenizer.redraw(self._kept(batch), draws.noise)
        condition = self.model.condition
        prepared = condition.prepare(self._raw(batch)) if condition is not None else None
        self.model.head.follow(samples_seen)
        loss = self.model.loss(tokens, prepared, draws.noise)
        return Losses(loss, {"loss": loss.detach()})

    def _kept(self, batch: Batch) -> Tokens:
        """What a token file keeps of the batch: brought by it, or made now."""
        if batch.tokens is None:
            return self.tokenizer.keep(batch.media)
        layout = self.tokenizer.kept_layout
        return Tokens(batch.tokens.long() if layout.discrete else batch.tokens, layout)

    @torch.no_grad()
    def sheet(self, model: nn.Module) -> Tensor | None:
        """Pictures for the fixed conditions."""
        tokens = self._draw(model, self._shown)  # type: ignore[arg-type]
        return self.tokenizer.decode(tokens).cpu()

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Held-out loss and whatever the recipe's evaluation measures."""
        return self._measure(model)  # type: ignore[arg-type]
