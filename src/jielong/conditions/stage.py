"""The output of an earlier stage as a condition, for cascades (arXiv 2106.15282)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.cache import cached
from jielong.conditions.inputs import ConditionInput, HeldoutItems
from jielong.core.progress import counting

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet
    from jielong.tokenizers.base import Tokenizer

_BATCH = 64


class StageInput(ConditionInput):
    """Token values of an earlier stage; :class:`~jielong.system.System` generates those that a call does not give."""

    noun = "the output of an earlier stage"
    help = "Tokens of an earlier stage."

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """The items' keys, by which :meth:`StageCondition.precompute` stores their tokens."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> list[Tensor]:
        """The real media, ``(C, ...)`` each: a stage is measured by itself."""
        return list(items.batch.media)

    def from_json(self, value: object) -> object:
        """Refused: the stage itself is run."""
        raise ValueError(f"{self.noun} is generated, and not taken from a request: leave it out")

    def is_single(self, value: object) -> bool:
        """Whether it is the values of one item, ``(N, C)``, and not of several, ``(B, N, C)``."""
        return isinstance(value, Tensor) and value.ndim == 2


class StageCondition(Condition[str | Tensor, Tensor]):
    """Embeds the tokens of an earlier stage: those of the real media in training, generated ones afterwards.

    A value is a key of the training data, token values ``(N, C)``, or media ``(C, ...)``. Prepared are token values, ``(B, N, C)``.

    Args:
        tokenizer: The earlier stage's; its weights are not the condition's.
    """

    def __init__(self, tokenizer: Tokenizer, width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self._stage, self._values = (tokenizer,), dict[str, Tensor]()

    @property
    def tokenizer(self) -> Tokenizer:
        """The earlier stage's tokenizer."""
        return self._stage[0]

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Token values ``(B, N, C)`` of media, which are resized to what the stage reads."""
        size = self.tokenizer.media.size
        if tuple(media.shape[2:]) != size:
            media = F.interpolate(media, size=size, mode="area")
        weight = next(self.tokenizer.parameters(), media)
        return self.tokenizer.encode(media.to(weight.device)).values.cpu()

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Encode both splits, or load their tokens from the cache on disk."""
        for data in (train, heldout):
            key = [self.describe(), data.fingerprint, list(data.keys)]
            shapes = {"values": (len(data), self.tokenizer.layout.positions, self.tokenizer.layout.channels)}
            values = cached("stages", key, shapes, partial(self._encode_all, data))["values"]
            self._values.update(zip(data.keys, values.unbind(), strict=True))

    def _encode_all(self, data: MediaSet) -> dict[str, Tensor]:
        rows, parts = range(len(data)), []
        with counting("tokenizing for the earlier stage", len(rows), data.kind.noun[1]) as advance:
            for first in range(0, len(rows), _BATCH):
                parts.append(self.encode(data.media(rows[first : first + _BATCH])))
                advance(len(parts[-1]))
        return {"values": torch.cat(parts)}

    def prepare(self, values: Sequence[str | Tensor]) -> Tensor:
        """Values, one per item, to token values ``(B, N, C)``. Raises ``ValueError`` if an item is of no training data."""
        return torch.stack([self._tokens_of(value) for value in values])

    def _tokens_of(self, value: str | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            layout = self.tokenizer.layout
            return value.cpu() if tuple(value.shape) == (layout.positions, layout.channels) else self.encode(value[None])[0]
        if value not in self._values:
            raise ValueError(f"there are no tokens of the earlier stage for {value!r}: give their values, or the media")
        return self._values[value]

    def describe(self) -> dict[str, object]:
        """Layout and media of the stage; its weights are recorded with the checkpoint."""
        return {"layout": self.tokenizer.layout.to_json(), "media": self.tokenizer.media.to_json()}


class StageConditionSettings(ConditionSettings):
    """Settings of a condition on an earlier stage. ``stage``: the stage's name in the recipe's ``stages``."""

    stage: str

    @property
    def reads_stage(self) -> str:
        """See :attr:`ConditionSettings.reads_stage`."""
        return self.stage

    def build(self, context: BuildContext = NO_CONTEXT) -> StageCondition:
        """The condition. Raises ``ValueError`` if there is no such stage."""
        if self.stage not in context.stages:
            raise ValueError(f"the condition {self.name} reads the stage {self.stage!r}, which the recipe's `stages` does not name")
        return self.build_on(context.stages[self.stage])

    @abstractmethod
    def build_on(self, tokenizer: Tokenizer) -> StageCondition:
        """The condition on the tokens of a tokenizer."""
