"""A generator's inputs: conditions, lengths, sampling parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from jielong.conditions.base import ConditionSettings, registered_inputs
from jielong.conditions.inputs import ConditionInput, InputError, broadcast, mismatch
from jielong.conditions.length import SECONDS
from jielong.conditions.text import NEGATIVE_TEXT, TEXT
from jielong.config.registry import nearest
from jielong.config.schema import Recipe
from jielong.core.rng import seed_of
from jielong.system.long_text import Cut, cut_items
from jielong.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from jielong.system.pipeline import System

StageOptions = Mapping[str, Mapping[str, Any]]
"""What earlier stages are drawn with, by their names: arguments of :meth:`System.generate_tokens`, and ``stage_options`` of their own."""


@dataclass(frozen=True)
class GenerationInputs:
    """Inputs of one call, an item each.

    Attributes:
        conditions: Values of the condition; ``None`` generates without one.
        captions: A caption per item, for display.
        durations: Seconds of each item; ``None`` where they are not set.
        count: Number of items.
        negatives: Values of the condition in place of its null in guidance, ``None`` where there is none; ``None`` for none at all.
        items: Of long transcripts that were cut, the item of each piece; then conditions are those of the pieces.
    """

    conditions: Sequence[object] | None
    captions: list[str] | None
    durations: list[float] | None
    count: int
    negatives: Sequence[object | None] | None = None
    items: list[int] | None = None


def is_timed(recipe: Recipe) -> bool:
    """Whether items have lengths: by a duration condition, an alignment or a stop head."""
    condition = recipe.condition
    if condition is None:
        return recipe.stop_head is not None
    return recipe.stop_head is not None or condition.alignment is not None or any(each.sets_duration for each in condition.inputs)


def condition_inputs(recipe: Recipe) -> tuple[ConditionInput, ...]:
    """The named inputs of a generator's condition."""
    return () if recipe.condition is None else recipe.condition.inputs


def condition_parts(recipe: Recipe) -> tuple[ConditionSettings, ...]:
    """The conditions with a named input each."""
    return () if recipe.condition is None else recipe.condition.components


def durations_of(recipe: Recipe, conditions: Sequence[object] | None) -> list[float] | None:
    """Seconds of each item, where its condition sets a duration."""
    return None if recipe.condition is None or conditions is None else recipe.condition.durations(conditions)


def split_inputs(arguments: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """The arguments of a call that are inputs of any known condition and are not ``None``, and all others."""
    keywords = {each.keyword for each in (*registered_inputs().values(), NEGATIVE_TEXT)}
    given = {name: value for name, value in arguments.items() if name in keywords and value is not None}
    return given, {name: value for name, value in arguments.items() if name not in keywords}


def call_inputs(system: System) -> tuple[ConditionInput, ...]:
    """The named inputs of a call: those of the condition, and of the stages that supply the others."""
    inputs = dict[str, ConditionInput]()
    for part in condition_parts(system.recipe):
        own = (part.input,) if part.reads_stage is None else call_inputs(system.stages[part.reads_stage])
        inputs |= {each.name: each for each in own}
    return tuple(inputs.values())


def gather(
    system: System,
    given: Mapping[str, object],
    count: int | None,
    seed: int,
    cut: bool = False,
    draw: bool = True,
    stage_options: StageOptions | None = None,
    indices: Sequence[int] | None = None,
) -> GenerationInputs:
    """The inputs of a call, one per item; earlier stages whose output is an input run first.

    Models with an alignment or a stop head also take durations that are no input of their condition, one for every item or several for
    equal shares of the items.

    Args:
        system: The generator.
        given: Arguments by keyword.
        count: Items per set of values, or in all where nothing is given.
        seed: Of the call; earlier stages draw from seeds of their own.
        cut: Cut transcripts that are longer than the model's longest sound, unless durations are given.
        draw: Run earlier stages; otherwise their inputs are checked, and their output is zeros.
        stage_options: What earlier stages are drawn with.
        indices: The number of each item, on which random numbers of earlier stages depend; from 0 by default. Not of transcripts to cut.

    Raises:
        InputError: if the model does not take an input, lacks one, or the numbers of values differ.
    """
    recipe = system.recipe
    inputs = call_inputs(system)
    own = {each.name: each for each in (*inputs, *condition_inputs(recipe))}
    known = {each.keyword: each for each in (*registered_inputs().values(), NEGATIVE_TEXT, *own.values())}
    arguments, length = {known[name]: value for name, value in given.items()}, None
    if is_timed(recipe) and not any(each.sets_duration for each in inputs):
        length = arguments.pop(SECONDS, None)
    accepted = [
        *inputs,
        *((NEGATIVE_TEXT,) if NEGATIVE_TEXT in arguments and takes_negative_text(system) else ()),
        *(each for each in arguments if each.name in own and each not in inputs),
    ]
    columns, items = broadcast(arguments, accepted, count or 1, system.name)
    negative_texts = columns.pop(NEGATIVE_TEXT.name, [])
    rows = [[each.caption(columns[each.name][row]) for each in inputs if each.name in columns] for row in range(items)]
    captions = [next(filter(None, row), "") for row in rows] if items else None
    items = items or count or 1
    timed = length is not None or any(each.sets_duration and each.name in columns for each in own.values())
    pieces = cut_items(system, columns, items) if cut and not timed else None
    if pieces is not None:
        columns = {name: [column[item] for item in pieces.items] for name, column in columns.items()} | {TEXT.name: list(pieces.texts)}
    columns |= _StageRun(system, columns, negative_texts, seed, pieces, draw, stage_options or {}, indices).columns(items)
    conditions = recipe.condition.values(columns) if recipe.condition is not None and columns else None
    negatives = _negatives(recipe, columns, negative_texts)
    durations = durations_of(recipe, conditions)
    if length is not None:
        seconds = SECONDS.listed(length)
        if items % len(seconds):
            raise mismatch(SECONDS, items, len(seconds))
        durations = [value for value in seconds for _ in range(items // len(seconds))]
    return GenerationInputs(conditions, captions, durations, items, negatives, None if pieces is None else pieces.items)


def takes_negative_text(system: System) -> bool:
    """Whether its condition, or an earlier stage's, reads a text that describes an item and is not spoken."""
    return _reads_descriptions(system.recipe) or any(takes_negative_text(system.stages[name]) for name in stage_names(system.recipe))


def stage_names(recipe: Recipe) -> list[str]:
    """Names of the earlier stages whose output its condition reads."""
    return [part.reads_stage for part in condition_parts(recipe) if part.reads_stage is not None]


def _reads_descriptions(recipe: Recipe) -> bool:
    return any(part.input is TEXT and not part.transcript for part in condition_parts(recipe))


def _negatives(recipe: Recipe, columns: Mapping[str, list[object]], texts: Sequence[object]) -> list[object | None] | None:
    """Values of the condition with each item's negative text; ``None`` where that is empty."""
    if recipe.condition is None or not any(texts) or not _reads_descriptions(recipe):
        return None
    if TEXT.name not in columns:
        raise InputError("{negative_text} is what guidance leads away from, towards a text: give {text} too", [NEGATIVE_TEXT, TEXT])
    values = recipe.condition.values({**columns, TEXT.name: [text or own for text, own in zip(texts, columns[TEXT.name], strict=True)]})
    return [value if text else None for value, text in zip(values, texts, strict=True)]


@dataclass(frozen=True)
class _StageRun:
    """The earlier stages of a call; see :func:`gather` for what is not described."""

    system: System
    given: Mapping[str, Sequence[object]]  # values of the call's inputs by name, one per item
    negative_texts: Sequence[object]  # one per item, or none at all
    seed: int
    pieces: Cut | None
    draw: bool
    options: StageOptions
    numbers: Sequence[int] | None  # of each item, where there are no pieces

    def columns(self, items: int) -> dict[str, list[object]]:
        """Token values ``(N, C)`` of each item from the earlier stages whose output is an input that is not given, by the input's name."""
        recipe, outputs = self.system.recipe, dict[str, list[object]]()
        if unknown := [name for name in self.options if name not in stage_names(recipe)]:
            raise ValueError(f"`stage_options`: {self.system.name} has no stage {unknown[0]!r}; {nearest(unknown[0], stage_names(recipe))}")
        items = items if self.pieces is None else len(self.pieces.items)
        for part in condition_parts(recipe):
            if part.reads_stage is not None and part.input.name not in self.given:
                outputs[part.input.name] = list(self._values(part.reads_stage, items))
        return outputs

    def _values(self, name: str, items: int) -> Iterable[object]:
        stage, seed = self.system.stages[name], seed_of(self.seed, "stage", name)
        given: dict[str, Any] = {each.keyword: self.given[each.name] for each in call_inputs(stage) if each.name in self.given}
        if any(self.negative_texts) and takes_negative_text(stage):
            given[NEGATIVE_TEXT.keyword] = list(self.negative_texts)
        options: dict[str, Any] = dict(self.options.get(name, {}))
        if not self.draw:
            stage.check(**given, **options, count=None if given else items)
            layout = stage.tokenizer.layout
            return [torch.zeros(layout.positions, layout.channels, dtype=torch.long if layout.discrete else torch.float32)] * items
        indices = self.numbers if self.pieces is None else self.pieces.items
        inputs = gather(stage, given, None if given else items, seed, stage_options=options.pop("stage_options", None), indices=indices)
        count = None if inputs.conditions else items
        tokens = stage.generate_tokens(inputs.conditions, count, seed=seed, indices=indices, negatives=inputs.negatives, **options)
        return tokens.values.unbind()


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
