"""Transcripts as characters of a stored alphabet, through a trained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from jielong.conditions.alphabet import CHARACTERS, SOUNDLESS, Alphabet
from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.inputs import ConditionInput
from jielong.conditions.text import TEXT, PaddedTexts, check_texts, mean_pooled, pad
from jielong.core.medium import ALONG_TIME, Axes
from jielong.networks.conditioning import AlignedStates, Alignment, Conditioning
from jielong.networks.text_encoder import TextEncoder

if TYPE_CHECKING:
    from jielong.data.sets import MediaSet


class SymbolText(Condition[str, PaddedTexts]):
    """A state per symbol of a text.

    With ``settings.aligned``, symbols without a duration (:data:`~jielong.conditions.alphabet.SOUNDLESS`) are left out of the aligned
    states, and a learned state before and one after the text is for silence.
    """

    soundless: Tensor

    def __init__(self, settings: SymbolSettings) -> None:
        super().__init__(settings.width, settings.cfg_dropout)
        self.alphabet, self.length, self.alignment = Alphabet(settings.alphabet), settings.length, settings.aligned
        self.encoder = TextEncoder(len(self.alphabet), settings.width, settings.layers, settings.heads)
        if self.alignment is not None:
            self.edges = nn.Parameter(torch.randn(2, settings.width) * 0.02)
            soundless = torch.tensor([symbol in SOUNDLESS for symbol in self.alphabet.symbols])
            self.register_buffer("soundless", soundless, persistent=False)

    def symbols(self, text: str) -> list[int]:
        """The numbers of a text's symbols."""
        return self.alphabet.numbers(text)

    def count_aligned(self, values: Sequence[str]) -> list[int] | None:
        """Symbols with a duration, and two edges."""
        if self.alignment is None:
            return None
        return [sum(self.alphabet.symbols[number] not in SOUNDLESS for number in self.symbols(text)) + 2 for text in values]

    def prepare(self, values: Sequence[str]) -> PaddedTexts:
        """Texts to numbers of symbols, ``(B, longest)``. Raises ``ValueError`` if a character cannot be read, or a text is too long."""
        check_texts(values)
        return pad([self._row(text) for text in values])

    def _row(self, text: str) -> Tensor:
        row = self.symbols(text)
        if len(row) > self.length:
            raise ValueError(
                f"a text has {len(row)} symbols, but at most {self.length} are read: shorten {text[:40]!r}... or set its `length`"
            )
        return torch.tensor(row, dtype=torch.long)

    def unreadable(self, data: MediaSet) -> dict[int, str]:
        """Items with a text that cannot be read."""
        found = dict[int, str]()
        for row, texts in enumerate(data.captions_of_items):
            try:
                self.check([text for text in texts if text])
            except ValueError as error:
                found[row] = str(error)
        return found

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Check that all texts can be read."""
        self.check([text for data in (train, heldout) for text in data.every_caption if text])

    def check(self, texts: Sequence[str]) -> None:
        """Check that texts can be read. Raises ``ValueError`` if some cannot; the message says how many, and why the first."""
        faults = []
        for text in dict.fromkeys(texts):
            try:
                self._row(text)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError(f"{len(faults):,} of {len(set(texts)):,} texts cannot be read. The first: {faults[0]}")

    def embed(self, prepared: PaddedTexts) -> Conditioning:
        """``(B, L)`` numbers to ``(B, L, width)`` states; the pooled vector is their mean."""
        numbers, mask = prepared.states.to(self.null.device), prepared.mask.to(self.null.device)
        found = mean_pooled(self.encoder(numbers, mask), mask)
        return found if self.alignment is None else replace(found, aligned_states=self._aligned_states(numbers, found.states, mask))

    def _aligned_states(self, numbers: Tensor, states: Tensor, mask: Tensor) -> AlignedStates:
        """An edge, the states of symbols with a duration, and an edge."""
        kept = mask & ~self.soundless[numbers]
        count = kept.sum(1)
        order = (~kept).long().argsort(dim=1, stable=True)
        first, last = self.edges.to(states.dtype).expand(len(states), 2, -1).split(1, dim=1)
        row = torch.cat([first, states.gather(1, order[..., None].expand_as(states)), last], dim=1)
        index = torch.arange(row.shape[1], device=row.device)
        row = torch.where((index == count[:, None] + 1)[..., None], last, row)
        length = int(count.max()) + 2
        return AlignedStates(row[:, :length], (index < count[:, None] + 2)[:, :length])

    def describe(self) -> dict[str, object]:
        """The alphabet."""
        return {"alphabet": self.alphabet.symbols, "length": self.length}


class SymbolSettings(ConditionSettings):
    """Settings of conditions on the symbols of a transcript.

    Attributes:
        alphabet: The symbols, in the order of their numbers.
        layers: Layers of the transformer after two convolutions.
        heads: Attention heads of a layer.
        length: Most symbols of a text.
        aligned: Also add each position's symbol to its input, durations being ``even`` or found by monotonic alignment ``search``.
    """

    axes: ClassVar[Axes | None] = ALONG_TIME
    input: ClassVar[ConditionInput] = TEXT
    transcript: ClassVar[bool] = True
    alphabet: str = CHARACTERS
    width: int = Field(default=256, ge=2)
    layers: int = Field(default=4, ge=0)
    heads: int = Field(default=4, ge=1)
    length: int = Field(default=400, ge=1)
    aligned: Alignment | None = None

    @field_validator("alphabet")
    @classmethod
    def _check_alphabet(cls, symbols: str) -> str:
        return Alphabet(symbols).symbols

    @property
    def alignment(self) -> Alignment | None:
        """The setting ``aligned``."""
        return self.aligned


class Characters(SymbolSettings, family="condition", name="characters"):
    """Settings of :class:`SymbolSettings`. Case, accents and typographic marks that the alphabet lacks are folded."""

    def build(self, context: BuildContext = NO_CONTEXT) -> SymbolText:
        """The condition."""
        return SymbolText(self)
