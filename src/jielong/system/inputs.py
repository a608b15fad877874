"""A generator's inputs: conditions, lengths, sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from jielong.conditions.base import registered_inputs
from jielong.conditions.inputs import ConditionInput, InputError, broadcast, mismatch
from jielong.conditions.length import SECONDS
from jielong.config.schema import Recipe
from jielong.heads.base import SamplingConfig
from jielong.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class GenerationInputs:
    """Inputs of one call, an item each.

    Attributes:
        conditions: Values of the condition; ``None`` generates without one.
        captions: A caption per item, for display.
        durations: Seconds of each item; ``None`` where they are not set.
        count: Number of items.
    """

    conditions: list[Any] | None
    captions: list[str] | None
    durations: list[float] | None
    count: int


def is_timed(recipe: Recipe) -> bool:
    """Whether items have lengths: by a duration condition, an alignment or a stop head."""
    condition = recipe.condition
    if condition is None:
        return recipe.stop_head is not None
    return recipe.stop_head is not None or condition.alignment is not None or any(each.sets_duration for each in condition.inputs)


def condition_inputs(recipe: Recipe) -> tuple[ConditionInput, ...]:
    """The named inputs of a generator's condition."""
    return () if recipe.condition is None else recipe.condition.inputs


def durations_of(recipe: Recipe, conditions: Sequence[Any] | None) -> list[float] | None:
    """Seconds of each item, where its condition sets a duration."""
    return None if recipe.condition is None or conditions is None else recipe.condition.durations(conditions)


def split_inputs(arguments: Mapping[str, object]) -> tuple[dict[str, object], dict[str, Any]]:
    """The arguments of a call that are inputs of any known condition and are not ``None``, and all others."""
    keywords = {each.keyword for each in registered_inputs().values()}
    given = {name: value for name, value in arguments.items() if name in keywords and value is not None}
    return given, {name: value for name, value in arguments.items() if name not in keywords}


def gather(recipe: Recipe, model: str, given: Mapping[str, object], count: int | None) -> GenerationInputs:
    """The inputs of a call, one per item.

    Models with an alignment or a stop head also take durations that are no input of their condition, one for every item or several for
    equal shares of the items.

    Args:
        recipe: Of the generator.
        model: Its name, for messages.
        given: Arguments by keyword.
        count: Items per set of values, or in all where nothing is given.

    Raises:
        InputError: if the model does not take an input, lacks one, or the numbers of values differ.
    """
    inputs = condition_inputs(recipe)
    known = {each.keyword: each for each in (*registered_inputs().values(), *inputs)}
    arguments, length = {known[name]: value for name, value in given.items()}, None
    if is_timed(recipe) and not any(each.sets_duration for each in inputs):
        length = arguments.pop(SECONDS, None)
    columns, items = broadcast(arguments, inputs, count or 1, model)
    conditions = recipe.condition.values(columns) if recipe.condition is not None and items else None
    rows = [[each.caption(columns[each.name][row]) for each in inputs if each.name in columns] for row in range(items)]
    captions = [next(filter(None, row), "") for row in rows] if items else None
    items = items or count or 1
    durations = durations_of(recipe, conditions)
    if length is not None:
        seconds = SECONDS.listed(length)
        if items % len(seconds):
            raise mismatch(SECONDS, items, len(seconds))
        durations = [value for value in seconds for _ in range(items // len(seconds))]
    return GenerationInputs(conditions, captions, durations, items)


def lengths_of(tokenizer: Tokenizer, seconds: Sequence[float] | None) -> list[int] | None:
    """Tokens of durations in seconds; ``None`` without durations, or where tokens have no position in time.

    Raises:
        InputError: if a duration is not positive, or longer than the tokenizer's longest.
    """
    media = tokenizer.media
    if seconds is None or tokenizer.hop_length is None:
        return None
    longest = media.duration
    for value in seconds:
        if not 0 < value <= longest:
            raise InputError(f"{{seconds}}: a duration must be above 0 and at most {longest:g} s, not {value:g} s", [SECONDS])
    lengths = tokenizer.positions_of(torch.tensor([round(value * media.sample_rate) for value in seconds]))
    return None if lengths is None else lengths.tolist()


def sampling_of(recipe: Recipe, **given: Any) -> SamplingConfig:
    """How boldly a recipe draws, with what is given, and not ``None``, in the place of its own settings."""
    own = {field.name: getattr(recipe.sampling, field.name) for field in fields(SamplingConfig)}
    return SamplingConfig(**own | {name: value for name, value in given.items() if value is not None})
