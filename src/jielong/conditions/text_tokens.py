"""A text whose tokens stand before the picture's in one causal chain, and are predicted too (DALL-E, arXiv 2102.12092)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.inputs import ConditionInput
from jielong.conditions.text import TEXT, PaddedTexts, check_texts, find_encoder
from jielong.networks.conditioning import Conditioning


class TextTokens(ConditionSettings, family="condition", name="text_tokens"):
    """Settings of a text in one chain with the tokens.

    Attributes:
        tokenizer: ``minilm`` (the 30,522 word pieces of all-MiniLM-L6-v2), ``bytes`` (256), or a local folder or hub id of any Hugging Face
            tokenizer; its weights are not read.
        length: Text positions; longer texts are cut, and behind the end of shorter ones each position has a learned padding vector.
        loss_weight: Share of the training loss that the text has; the picture's tokens have the rest. 0 leaves the text unpredicted.
    """

    input: ClassVar[ConditionInput] = TEXT
    in_chain: ClassVar[bool] = True
    tokenizer: str = "minilm"
    length: int = Field(default=32, ge=1)
    loss_weight: float = Field(default=0.125, ge=0, lt=1)

    def build(self, context: BuildContext = NO_CONTEXT) -> TextTokensCondition:
        """The condition. Raises ``ValueError`` if the tokenizer is not installed."""
        return TextTokensCondition(self)


class TextTokensCondition(Condition[str, PaddedTexts]):
    """States ``[begin, text_1, ..., text_L]``, each of which sees those before it; the hidden vector of one predicts the token after it.

    The loss of an item is the mean over its text tokens and the end, the first padding, in nats; what follows the end is padding for
    certain and has none. Dropped texts have no loss, and the others weigh ``1 / (1 - cfg_dropout)`` in training, so that its mean is
    theirs.
    """

    head: nn.Linear

    def __init__(self, settings: TextTokens) -> None:
        super().__init__(settings.width, settings.cfg_dropout)
        self.kind, self.text_length, self.length = settings.tokenizer, settings.length, settings.length + 1
        self.loss_weight = settings.loss_weight
        self.vocabulary, self._numbers = _tokenizer(settings.tokenizer)
        self.begin = nn.Parameter(torch.randn(settings.width) * 0.02)
        self.table = nn.Embedding(self.vocabulary, settings.width)
        self.places, self.padding = (nn.Embedding(settings.length, settings.width) for _ in range(2))
        for table in (self.table, self.places, self.padding):
            nn.init.normal_(table.weight, std=0.02)

    def add_output(self, width: int) -> None:
        """Logits of the tokens and of the end; zero weights, so that the first loss is exactly ``ln(V + 1)``."""
        self.head = nn.Linear(width, self.vocabulary + 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def prepare(self, values: Sequence[str]) -> PaddedTexts:
        """Texts to token numbers, ``(B, length)``, and which of them are no padding."""
        check_texts(values)
        numbers, mask = torch.zeros(len(values), self.text_length, dtype=torch.long), torch.zeros(len(values), self.text_length)
        for row, text in enumerate(values):
            found = self._numbers(text)[: self.text_length]
            numbers[row, : len(found)], mask[row, : len(found)] = torch.tensor(found, dtype=torch.long), 1
        return PaddedTexts(numbers, mask.bool())

    def embed(self, prepared: PaddedTexts) -> Conditioning:
        """``(B, length)`` numbers to ``1 + length`` states."""
        device = self.null.device
        numbers, real = prepared.states.to(device), prepared.mask.to(device)[..., None]
        texts = torch.where(real, self.table(numbers) + self.places.weight, self.padding.weight)
        states = torch.cat([self.begin.expand(len(texts), 1, -1), texts], 1)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=device)
        return Conditioning(states, mask, states.mean(1), causal=True)

    def predict(self, hidden: Tensor) -> Tensor:
        """Logits of the text tokens 1 to ``length``, ``(B, length, V + 1)``; ``V`` is the end. ``hidden``: ``(B, 1 + length, D)``."""
        logits: Tensor = self.head(hidden[:, :-1])
        return logits

    def loss(self, hidden: Tensor, prepared: PaddedTexts, conditioning: Conditioning) -> Tensor:
        """See the class; ``(B,)`` in nats."""
        numbers, real = prepared.states.to(hidden.device), prepared.mask.to(hidden.device)
        wanted = F.pad(real[:, :-1], (1, 0), value=True)  # the tokens, and the position behind the last one, if there is any
        targets = torch.where(real, numbers, self.vocabulary)
        logits = self.head(hidden[:, :-1][wanted])
        with torch.autocast(logits.device.type, enabled=False):
            each = torch.zeros(targets.shape, device=hidden.device, dtype=torch.float32 if logits.dtype != torch.float64 else logits.dtype)
            each = each.masked_scatter(wanted, F.cross_entropy(logits.to(each.dtype), targets[wanted], reduction="none"))
        kept = conditioning.mask[:, 1]  # all states of an item whose text was not dropped
        scale = 1 / (1 - self.cfg_dropout) if self.training else 1.0
        return each.sum(1) / wanted.sum(1) * kept * scale

    def describe(self) -> dict[str, object]:
        """The tokenizer and the size of its vocabulary."""
        return {"tokenizer": self.kind, "length": self.text_length, "vocabulary": self.vocabulary}


def _tokenizer(name: str) -> tuple[int, Callable[[str], list[int]]]:
    """The size of a vocabulary, and what turns a text into numbers."""
    if name == "bytes":
        return 256, lambda text: list(text.encode())
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(find_encoder(name))
    return len(found), lambda text: list(found(text, add_special_tokens=False)["input_ids"]) if text else []
