"""Conditions on the tokens of a frozen tokenizer, which are encoded once for a whole data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.conditions.base import Condition, Prepared, Value
from jielong.conditions.cache import cached
from jielong.core.progress import counting
from jielong.media.kinds.base import kind_of

if TYPE_CHECKING:
    from jielong.data.sets import MediaSet
    from jielong.tokenizers.base import Tokenizer

_BATCH = 64


class TokenReadingCondition(Condition[Value, Prepared]):
    """Reads tokens of media: a value is a key of the training data, token values ``(N, C)``, or media ``(C, ...)``.

    ``tokenizer``: its weights are not the condition's.
    """

    def __init__(self, tokenizer: Tokenizer, width: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        # In a tuple, so that nn.Module does not register it.
        self._encoder, self.known = (tokenizer,), dict[str, Tensor]()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._encoder[0]

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Token values ``(B, N, C)`` of media, which are resized to what the tokenizer reads as its data are."""
        medium = self.tokenizer.media
        if tuple(media.shape[2:]) != medium.size:
            media = kind_of(medium).fitted(media, medium)
        weight = next(self.tokenizer.parameters(), media)
        return self.tokenizer.encode(media.to(weight.device)).values.cpu()

    def media_of(self, data: MediaSet, rows: range) -> Tensor:
        """The media of items whose tokens are the condition, ``(B, C, *size)``: as the tokenizer's own data are read."""
        return self._read(data).media(rows)

    def identity_of(self, data: MediaSet) -> str:
        """What :meth:`media_of` depends on."""
        return self._read(data).fingerprint

    def _read(self, data: MediaSet) -> MediaSet:
        medium = self.tokenizer.media
        return data if data.medium == medium or data.medium.kind != medium.kind else data.fitted_to(medium)

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Encode both splits, or load their tokens from the cache on disk."""
        for data in (train, heldout):
            key = [TokenReadingCondition.describe(self), self._weights(), self.identity_of(data), data.fingerprint, list(data.keys)]
            shapes = {"values": (len(data), self.tokenizer.layout.positions, self.tokenizer.layout.channels)}
            values = cached("stages", key, shapes, partial(self._encode_all, data))["values"]
            self.known.update(zip(data.keys, values.unbind(), strict=True))

    def _weights(self) -> str:
        total = hashlib.sha256(repr(self.tokenizer).encode())
        for name, value in sorted(self.tokenizer.state_dict().items()):
            total.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    def _encode_all(self, data: MediaSet) -> dict[str, Tensor]:
        parts = list[Tensor]()
        with counting("tokenizing for the condition", len(data), data.kind.noun[1]) as advance:
            for first in range(0, len(data), _BATCH):
                parts.append(self.encode(self.media_of(data, range(first, min(first + _BATCH, len(data))))))
                advance(len(parts[-1]))
        return {"values": torch.cat(parts)}

    def encoded(self, values: Sequence[Value]) -> Tensor:
        """Values, one per item, to token values ``(B, N, C)``. Raises ``ValueError`` if an item is of no training data."""
        return torch.stack([self.tokens_of(value) for value in values])

    def tokens_of(self, value: Value) -> Tensor:
        """Token values ``(N, C)``."""
        if isinstance(value, Tensor):
            layout = self.tokenizer.layout
            return value.cpu() if tuple(value.shape) == (layout.positions, layout.channels) else self.encode(value[None])[0]
        if not isinstance(value, str) or value not in self.known:
            raise ValueError(f"there are no tokens of the earlier stage for {value!r}: give their values, or the media")
        return self.known[value]

    def describe(self) -> dict[str, object]:
        """Layout and media of the tokenizer; its weights are recorded with the checkpoint."""
        return {"layout": self.tokenizer.layout.to_json(), "media": self.tokenizer.media.to_json()}


class EncodedCondition(TokenReadingCondition[Value, Tensor]):
    """Embeds tokens of media; prepared are token values, ``(B, N, C)``."""

    def prepare(self, values: Sequence[Value]) -> Tensor:
        """See :meth:`TokenReadingCondition.encoded`."""
        return self.encoded(values)
