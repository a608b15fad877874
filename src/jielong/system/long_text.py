"""Long transcripts: cut into sentences, clauses and words that fit the longest sound of a model, and joined with pauses."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.conditions.text import TEXT

if TYPE_CHECKING:
    from jielong.generation.generator import Generator
    from jielong.system.pipeline import System

PAUSE = 0.2
"""Seconds of silence between two pieces."""
RATE = 12.0
"""Characters spoken in a second, where a model does not predict durations; English is read at 13 to 16."""
WIDE = 3.0
"""Characters that one of Chinese, Japanese or Korean counts for."""
_WORD = re.compile(r"\s*\S+")
_PART = re.compile(r"\s*[\u2e80-\U0010ffff]|\s*[^\s\u2e80-\U0010ffff]+")  # Chinese and Japanese are written without spaces
_CLAUSE = re.compile(r"(?<=[,;:\u2014])(?=\s)|(?<=[\u3001\uff0c\uff1b\uff1a])")  # the last four are wide, and no space follows


@dataclass(frozen=True)
class Cut:
    """Items in pieces.

    Attributes:
        texts: All pieces.
        items: The item of each piece, ascending.
    """

    texts: list[str]
    items: list[int]


def sentences(text: str) -> list[str]:
    """The sentences of a text, with abbreviations, numbers and the marks of about 300 languages (sentencex)."""
    from sentencex import segment

    return [each.strip() for each in segment("en", text) if each.strip()]


def cut(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Pieces of a text that fit: the text, or else each sentence, or else as many clauses, or words, as fit together.

    A word that does not fit is a piece too; generation truncates it with a warning.
    """
    if fits(text):
        return [text]
    found = list[str]()
    for sentence in sentences(text):
        if fits(sentence):
            found.append(sentence)
            continue
        for clause in _packed([each for each in _CLAUSE.split(sentence) if each], fits):
            words = [each for word in _WORD.findall(clause) for each in ([word] if fits(word.strip()) else _PART.findall(word))]
            found += [clause] if fits(clause) else _packed(words, fits)
    return found


def _packed(units: Sequence[str], fits: Callable[[str], bool]) -> list[str]:
    """Neighbours, each with the white space before it, joined while they fit."""
    found = list[str]()
    for unit in units:
        if found and fits(found[-1] + unit):
            found[-1] += unit
        elif unit.strip():
            found.append(unit.strip())
    return found


def _wide(character: str) -> bool:
    return ord(character) >= 0x2E80


def seconds_of(text: str) -> float:
    """Estimated duration of a spoken text."""
    return sum(WIDE if _wide(character) else 1.0 for character in text) / RATE


def predicted_tokens(model: Generator, value: object) -> int:
    """Tokens that a model predicts for a value of its condition; 0 where it does not. Raises ``ValueError`` if it cannot read the value."""
    if model.condition is None:
        return 0
    prepared = model.condition.prepare([model.condition.resolve(value)])
    lengths = model.durations.predict_lengths(model.condition(prepared))
    return 0 if lengths is None else int(lengths.round())


def cut_items(system: System, columns: Mapping[str, list[object]], items: int) -> Cut | None:
    """Pieces of the items' transcripts; ``None`` if all fit, or the model does not speak.

    Raises:
        ValueError: if the condition cannot read a word.
    """
    condition, model, texts = system.recipe.condition, system.generator, columns.get(TEXT.name)
    speaks = condition is not None and any(part.transcript for part in condition.components) and system.tokenizer.hop_length is not None
    if not speaks or condition is None or model is None or texts is None:
        return None
    longest = system.tokenizer.media.duration
    refused: dict[str, ValueError] = {}
    predicts = model.durations.predicts_lengths and all(part.reads_stage is None for part in condition.components)

    @torch.inference_mode()
    def fits(item: int, text: str) -> bool:
        if not predicts or model.condition is None:
            return seconds_of(text) <= longest
        values = condition.values({name: [text if name == TEXT.name else column[item]] for name, column in columns.items()})
        try:
            return predicted_tokens(model, values[0]) <= model.layout.positions
        except ValueError as error:  # too many symbols, or one that is not read, which its pieces will show
            refused[text] = error
            return False

    found = Cut([], [])
    for item, text in enumerate(texts):
        pieces = cut(str(text), partial(fits, item)) if text else [str(text)]
        for piece in pieces:
            if piece in refused:
                raise refused[piece]
        found.texts.extend(pieces)
        found.items.extend([item] * len(pieces))
    if len(found.texts) == items:
        return None
    warnings.warn(
        f"longer than the {longest:g} s that {system.name} says at once: {items} text{'s' * (items > 1)} in {len(found.texts)} pieces, "
        f"joined with pauses of {PAUSE:g} s",
        stacklevel=5,
    )
    return found


def joined(clips: Sequence[Tensor], items: Sequence[int], rate: int) -> tuple[Tensor, list[int]]:
    """Clips ``(C, n)`` of the same item joined with pauses, padded with zeros to ``(B, C, longest)``; and the samples of each."""
    pause, whole = clips[0].new_zeros(len(clips[0]), round(PAUSE * rate)), dict[int, Tensor]()
    for clip, item in zip(clips, items, strict=True):
        whole[item] = torch.cat([whole[item], pause, clip], dim=1) if item in whole else clip
    samples = [sound.shape[1] for sound in whole.values()]
    padded = [torch.nn.functional.pad(sound, (0, max(samples) - sound.shape[1])) for sound in whole.values()]
    return torch.stack(padded), samples
