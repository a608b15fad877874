"""What a generator's recipe says of its inputs: conditions, lengths, sampling parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from jielong.config.schema import Recipe
from jielong.heads.base import SamplingConfig
from jielong.tokenizers.base import Tokenizer


def is_timed(recipe: Recipe) -> bool:
    """Whether a generator knows of lengths: it is told one, stretches a text over one, or tells when an item ends."""
    condition = recipe.condition
    aligned = any(getattr(part, "aligned", None) for part in getattr(condition, "parts", (condition,)))
    return recipe.stop_head is not None or aligned or "seconds" in parts_told(recipe)


def parts_told(recipe: Recipe) -> dict[str, str]:
    """What a generator is told: what each part of its condition reads, and that part's name."""
    settings = recipe.condition
    return {getattr(part, "reads", ""): part.name for part in getattr(settings, "parts", (settings,) if settings is not None else ())}


def seconds_told(recipe: Recipe, conditions: Sequence[Any] | None) -> list[float] | None:
    """How long each item is to be, where all of the raw conditions say it."""
    name = parts_told(recipe).get("seconds")
    if name is None or conditions is None:
        return None
    several = getattr(recipe.condition, "reads", None) == "composite"
    told = [condition.get(name) if several else condition for condition in conditions]
    return None if any(seconds is None for seconds in told) else [float(seconds) for seconds in told]


def lengths_of(tokenizer: Tokenizer, seconds: Sequence[float] | None) -> list[int] | None:
    """Tokens that so many seconds of sound are; ``None`` where nothing is asked, or tokens stand for no stretch of sound.

    Raises:
        ValueError: if it is no time, or longer than what the tokenizer reads.
    """
    media = tokenizer.media
    if seconds is None or tokenizer.hop_length is None:
        return None
    longest = media.duration
    for value in seconds:
        if not 0 < value <= longest:
            raise ValueError(f"{value:g} s cannot be made: a length here is above 0 and at most {longest:g} s")
    lengths = tokenizer.positions_of(torch.tensor([round(value * media.sample_rate) for value in seconds]))
    return None if lengths is None else lengths.tolist()


def sampling_of(recipe: Recipe, **given: Any) -> SamplingConfig:
    """How boldly a recipe draws, with what is given, and not ``None``, in the place of its own settings."""
    own = {field.name: getattr(recipe.sampling, field.name) for field in fields(SamplingConfig)}
    return SamplingConfig(**own | {name: value for name, value in given.items() if value is not None})
