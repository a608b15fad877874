"""New words of text conditions, whose vectors are learned while the encoder stays as it is (textual inversion, arXiv 2208.01618)."""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from jielong.conditions.base import Condition
from jielong.config.adapter import check_name

PRIVATE = 0xE000
"""First character of the Unicode private use area, which no text means anything by."""
LOADING = threading.Lock()
"""Guards encoders and caches, which threads may share."""


class WordVectors(nn.ParameterDict):
    """Vectors ``(n, D)`` of each new word. ``words``: how many each has, zeros until they are set."""

    def __init__(self, words: Mapping[str, int], width: int) -> None:
        super().__init__({word: nn.Parameter(torch.zeros(count, width)) for word, count in words.items()})
        self.width = width

    def pieces(self, text: str) -> list[str]:
        """The text cut into new words and what is between them; a new word is one only where no letter or digit is beside it."""
        if not len(self):
            return [text]
        words = "|".join(re.escape(word) for word in sorted(self.keys(), key=len, reverse=True))
        return [piece for piece in re.split(rf"(?<!\w)({words})(?!\w)", text) if piece]

    def within(self, text: str) -> bool:
        """Whether a text has a new word."""
        return any(piece in self for piece in self.pieces(text))

    def rows(self, word: str) -> range:
        """The rows of a word in :meth:`table`."""
        before = 0
        for each, vectors in self.items():
            if each == word:
                return range(before, before + len(vectors))
            before += len(vectors)
        raise KeyError(word)

    def table(self) -> Tensor:
        """The vectors of all words, ``(V, D)``."""
        return torch.cat([cast("Tensor", vectors) for vectors in self.values()])


class WordCondition(ABC):
    """A text condition with an embedding of tokens, to which rows for new words can be added.

    Attributes:
        word_embeddings: The rows of new words.
    """

    word_embeddings: WordVectors

    @abstractmethod
    def vectors_of(self, noun: str | None, count: int) -> Tensor:
        """What ``count`` vectors of a new word begin as, ``(count, D)``.

        Args:
            noun: The word's class: the vectors of its tokens in turn; ``None`` for the mean of the whole table.
            count: How many.
        """

    def is_token(self, word: str) -> bool:
        """Whether the embedding has a row of this word already."""
        return word in self.word_embeddings

    def add_word(self, word: str, vectors: Tensor) -> nn.Parameter:
        """Add the rows ``(n, D)`` of a word.

        Raises:
            ValueError: if there is such a word, it cannot be one, or the vectors are of another width.
        """
        check_name(word)
        if self.is_token(word):
            raise ValueError(f"{word!r} is a word of this model already: choose another name")
        if vectors.ndim != 2 or vectors.shape[1] != self.word_embeddings.width:
            raise ValueError(f"a word of this model has vectors (n, {self.word_embeddings.width}), not {tuple(vectors.shape)}")
        self.word_embeddings[word] = nn.Parameter(vectors.detach().clone())
        return cast("nn.Parameter", self.word_embeddings[word])


class EncoderWords(WordCondition):
    """New words of a frozen Hugging Face encoder: their vectors take the place of rows of its input embedding.

    Attributes:
        encoder: Its name.
        length: Most tokens of a text.
    """

    encoder: str
    length: int
    _frozen: dict[str, object]  # its tokenizer, its model, and the size of its vocabulary

    @abstractmethod
    def _load(self) -> tuple[Any, Any]:
        """Tokenizer and model."""

    def numbers_of(self, text: str) -> Tensor:
        """Numbers of tokens ``(L,)``; those of new words follow the encoder's vocabulary."""
        tokenizer, _ = self._load()
        with LOADING:
            self._know_rows(tokenizer)
        marks = {word: " ".join(chr(PRIVATE + row) for row in self.word_embeddings.rows(word)) for word in self.word_embeddings}
        spelt = "".join(f" {marks[piece]} " if piece in marks else piece for piece in self.word_embeddings.pieces(text))
        return torch.tensor(tokenizer(spelt.strip(), truncation=True, max_length=self.length)["input_ids"], dtype=torch.long)

    def _know_rows(self, tokenizer: Any) -> None:
        """Let the tokenizer read a character of the private use area as each row of new words."""
        from tokenizers import AddedToken

        first, count = int(str(self._frozen["vocabulary"])), len(self.word_embeddings.table())
        marks = [chr(PRIVATE + row) for row in range(len(tokenizer) - first, count)]
        if marks:
            tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
            found = tokenizer.convert_tokens_to_ids(marks[-1])
            if found != first + count - 1:
                raise ValueError(f"the encoder {self.encoder} takes no new tokens (it reads one as number {found}): use lora alone")

    def encode_words(self, numbers: Tensor, mask: Tensor) -> Tensor:
        """States ``(R, L, width)`` of texts with new words, with gradients to their vectors."""
        _, model = self._load()
        first = int(str(self._frozen["vocabulary"]))
        new = numbers >= first
        rows = model.get_input_embeddings()(numbers.masked_fill(new, 0))
        table = self.word_embeddings.table().to(rows.device)
        embedded = torch.where(new[..., None], table[(numbers - first).clamp(min=0)], rows)
        with torch.autocast(rows.device.type, enabled=False):
            states: Tensor = model(inputs_embeds=embedded, attention_mask=mask.long()).last_hidden_state
        return states

    def vectors_of(self, noun: str | None, count: int) -> Tensor:
        """See :meth:`WordCondition.vectors_of`."""
        tokenizer, model = self._load()
        table = model.get_input_embeddings().weight
        if noun is None:
            return table.mean(0, keepdim=True).repeat(count, 1)
        return in_turn(table[tokenizer(noun, add_special_tokens=False)["input_ids"]], count)

    def is_token(self, word: str) -> bool:
        """Whether the encoder's vocabulary has it, or it was added."""
        return super().is_token(word) or word in self._load()[0].get_vocab()


def in_turn(rows: Tensor, count: int) -> Tensor:
    """``count`` rows: those given, one after the other, again from the first where there are fewer."""
    return rows[[index % len(rows) for index in range(count)]].detach().clone()


def words_of(condition: Condition | None) -> tuple[WordCondition, Condition] | None:
    """The text condition of a generator that takes new words, twice: as such, and as a condition; ``None`` without one."""
    if condition is None:
        return None
    parts: Sequence[nn.Module] = [condition, *condition.children()]
    parts = [*parts, *(inner for part in parts if isinstance(part, nn.ModuleDict) for inner in part.values())]
    for part in parts:
        if isinstance(part, WordCondition) and isinstance(part, Condition):
            return part, part
    return None
