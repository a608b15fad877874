"""Text as it is spelt: characters of a stored alphabet, through an encoder that is trained along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from jielong.conditions.alphabet import CHARACTERS, SOUNDLESS, Alphabet
from jielong.conditions.base import Condition, ConditionSettings
from jielong.conditions.text import Features, check_texts, pad
from jielong.networks.conditioning import AlignedStates, Alignment, Conditioning
from jielong.networks.text_encoder import TextEncoder


class SymbolText(Condition):
    """A state for every symbol of a text.

    Args:
        alphabet: The symbols.
        width: Channels of a state.
        layers: Transformer layers of the encoder.
        heads: Their heads.
        length: Most symbols of a text.
        cfg_dropout: Share of texts replaced by the null in training.
        aligned: How symbols are told frame by frame, if they are. Those that last no time of their own are not; their neighbours, which
            have heard of them in the encoder, are. Before and behind them stands an edge, for the silence there.
    """

    soundless: Tensor

    def __init__(
        self, alphabet: Alphabet, width: int, layers: int, heads: int, length: int, cfg_dropout: float, aligned: Alignment | None = None
    ) -> None:
        super().__init__(width, cfg_dropout)
        self.alphabet, self.length, self.aligned = alphabet, length, aligned
        self.encoder = TextEncoder(len(alphabet), width, layers, heads)
        if aligned is not None:
            self.edges = nn.Parameter(torch.randn(2, width) * 0.02)
            quiet = torch.tensor([symbol in SOUNDLESS for symbol in alphabet.symbols])
            self.register_buffer("soundless", quiet, persistent=False)

    def symbols(self, text: str) -> list[int]:
        """The numbers of a text's symbols."""
        return self.alphabet.numbers(text)

    def lasting(self, text: str) -> int:
        """How many states go along with the sound of a text: its symbols that last, and two edges."""
        return sum(self.alphabet.symbols[number] not in SOUNDLESS for number in self.symbols(text)) + 2

    def prepare(self, values: Sequence[str]) -> Features:
        """Texts to numbers of symbols, ``(B, L)`` with ``L`` the longest text.

        Raises:
            ValueError: if a text holds a character that cannot be read, or is too long to be said whole.
        """
        check_texts(values)
        return pad([self._row(text) for text in values])

    def _row(self, text: str) -> Tensor:
        row = self.symbols(text)
        if len(row) > self.length:
            raise ValueError(
                f"a text has {len(row)} symbols, and this condition reads {self.length} at most: shorten {text[:40]!r}... or set its length"
            )
        return torch.tensor(row, dtype=torch.long)

    def check(self, texts: Sequence[str]) -> None:
        """Read all texts of a set before training begins.

        Raises:
            ValueError: if some cannot be read; the text says how many, and why the first.
        """
        faults = []
        for text in dict.fromkeys(texts):
            try:
                self._row(text)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError(f"{len(faults):,} of {len(set(texts)):,} texts cannot be read. The first: {faults[0]}")

    def embed(self, prepared: Features) -> Conditioning:
        """``(B, L)`` numbers to ``(B, L, width)`` states; the pooled vector is their mean."""
        device = self.null.device
        numbers, mask = prepared.states.to(device), prepared.mask.to(device)
        states = self.encoder(numbers, mask)
        pooled = states.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)
        return Conditioning(states, mask, pooled, self._along(numbers, states, mask) if self.aligned else None)

    def _along(self, numbers: Tensor, states: Tensor, mask: Tensor) -> AlignedStates:
        """An edge, the states of symbols that last, and an edge."""
        lasting = mask & ~self.soundless[numbers]
        count = lasting.sum(1)
        order = (~lasting).long().argsort(dim=1, stable=True)
        first, last = self.edges.to(states.dtype).expand(len(states), 2, -1).split(1, dim=1)
        row = torch.cat([first, states.gather(1, order[..., None].expand_as(states)), last], dim=1)
        places = torch.arange(row.shape[1], device=row.device)
        row = torch.where((places == count[:, None] + 1)[..., None], last, row)
        length = int(count.max()) + 2
        return AlignedStates(row[:, :length], (places < count[:, None] + 2)[:, :length])

    def describe(self) -> dict[str, Any]:
        """The alphabet."""
        return {"alphabet": self.alphabet.symbols, "length": self.length}


class SymbolSettings(ConditionSettings):
    """What characters and phonemes have in common.

    ``alphabet``: the symbols, in the order of their numbers; ``width`` of a state; ``layers`` and ``heads`` of the transformer behind two
    convolutions; ``length``: most symbols of a text; ``cfg_dropout``: fraction of texts replaced by the null in training;
    ``aligned``: add each position's symbol to its input, durations being ``even`` or found by monotonic alignment ``search``.
    """

    reads: ClassVar[str] = "text"
    alphabet: str = CHARACTERS
    width: int = Field(default=256, ge=2)
    layers: int = Field(default=4, ge=0)
    heads: int = Field(default=4, ge=1)
    length: int = Field(default=400, ge=1)
    cfg_dropout: float = Field(default=0.1, ge=0, lt=1)
    aligned: Alignment | None = None

    @field_validator("alphabet")
    @classmethod
    def _is_an_alphabet(cls, symbols: str) -> str:
        return Alphabet(symbols).symbols


class Characters(SymbolSettings, family="condition", name="characters"):
    """Settings: see :class:`SymbolSettings`. Case, accents and typographic marks that the alphabet has not got are folded."""

    def build(self, classes: Sequence[str] = ()) -> SymbolText:
        """The condition; classes are not used."""
        return SymbolText(Alphabet(self.alphabet), self.width, self.layers, self.heads, self.length, self.cfg_dropout, self.aligned)
