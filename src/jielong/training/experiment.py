"""From a recipe to a training run: data, parts, objective and caches for the trainer."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, Unpack

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import nn

from jielong.config.recipe import upgraded
from jielong.config.registry import RecipeError
from jielong.config.schedule import scheduled
from jielong.config.schema import Recipe
from jielong.core.allocation import TooLargeError, bounded, may_have, memory_limit
from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.core.locks import one_run
from jielong.core.medium import Medium
from jielong.core.progress import progress_on
from jielong.core.storage import size_words
from jielong.core.tokens import Tokens
from jielong.data.sets import MediaSet
from jielong.generation.generator import Generator
from jielong.quantizers.parallel import world
from jielong.system import (
    DESCRIPTION,
    build_generator,
    build_tokenizer,
    copy_stages,
    describe,
    find,
    is_timed,
    load_stages,
    read_description,
    tokenizers_of,
)
from jielong.system.hub import pinned
from jielong.tokenizers.base import LearnedTokenizer, Tokenizer
from jielong.training import token_cache as cache
from jielong.training.adapting import Adapting, base_of, begin, check_classes
from jielong.training.best import selection_of
from jielong.training.blocks import check_blocks
from jielong.training.freezing import Frozen, freeze
from jielong.training.heldout import figures_of
from jielong.training.objective import Objective
from jielong.training.objectives import generator_objective, measured_tokens, tokenizer_objective
from jielong.training.opening import Sets, open_sets
from jielong.training.processes import join_processes
from jielong.training.run_card import write_card
from jielong.training.state import check_run_folder, check_same_inputs
from jielong.training.stream import TrainingStream
from jielong.training.subject import open_subject
from jielong.training.trainer import Summary, TrainOptions, train

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Experiment:
    """A recipe with its data and parts.

    Attributes:
        recipe: The recipe.
        sets: The training and held-out items.
        media: The format of the media.
        tokenizer: Trained, or to be trained.
        generator: To be trained; ``None`` for a tokenizer's recipe.
        stages: Tokenizers of the earlier stages of a cascade, by name.
        adapting: The base and the record of an adapter, where that is what is trained.
        frozen: What `train.freeze` keeps as it is.
    """

    recipe: Recipe
    sets: Sets
    media: Medium
    tokenizer: Tokenizer
    generator: Generator | None
    stages: Mapping[str, Tokenizer] = field(default_factory=dict)
    adapting: Adapting | None = None
    frozen: Frozen = field(default_factory=Frozen)

    @property
    def data(self) -> MediaSet:
        """The training items."""
        return self.sets.train

    @property
    def heldout(self) -> MediaSet:
        """The held-out items; those of training where there are none."""
        return self.sets.heldout

    @property
    def model(self) -> LearnedTokenizer | Generator:
        """The model to train."""
        return self.learned_tokenizer if self.generator is None else self.generator

    @property
    def learned_tokenizer(self) -> LearnedTokenizer:
        """The tokenizer, which is to be trained.

        Raises:
            RecipeError: if it has nothing to learn.
        """
        if not isinstance(self.tokenizer, LearnedTokenizer):
            raise RecipeError("this recipe has nothing to train")
        return self.tokenizer

    @property
    def figures(self) -> Mapping[str, bool]:
        """Held-out figures that are measured while training, and whether higher is better."""
        return figures_of(self.sets, self.tokenizer, self.generator)

    def describe(self) -> JSON:
        """The contents of ``model.json``: what a checkpoint records beside recipe and weights."""
        description = describe(self.media, self.data.classes, self.tokenizer, self.generator, self.stages)
        return {**description, "data": {"items": len(self.data), "content": self.data.fingerprint}}

    def load_tokens(self, file: Path | None) -> Tokens | None:
        """The training set's tokens from a file or the user's cache; ``None`` for a tokenizer's recipe, and where crops or the
        items themselves are drawn anew.

        Raises:
            ValueError: if a file does not fit, or items are changed before they are tokenized.
        """
        augmenter = self.data.augmenter
        if file is not None and augmenter is not None:
            raise ValueError(f"{file} holds tokens of pictures as they are, but data.augment changes them: leave out one of the two")
        if self.generator is None or (augmenter is not None and augmenter.augmentation.crops):
            return None
        if file is None and self.data.source.drawn:
            return None
        if file is not None:
            return cache.read_for(file, self.tokenizer, self.data)
        return cache.cached(self.tokenizer, self.data)

    def load_mirrored(self, tokens: Tokens | None) -> Tokens | None:
        """Tokens of the flipped training set, beside those of the set; ``None`` where no flips are drawn."""
        augmenter = self.data.augmenter
        return None if tokens is None or augmenter is None else cache.cached(self.tokenizer, augmenter.mirrored)


def prepare(recipe: Recipe, data: str | None = None) -> Experiment:
    """Open the data and build the parts, initialised from the recipe's seed.

    Args:
        recipe: The recipe.
        data: A set's name or a path, instead of the recipe's.

    Raises:
        ValueError: if the data have no captions or classes where the recipe needs them, or sizes do not fit, together or into memory,
            or `train.keep` names a figure that is not measured.
    """
    if recipe.adapts:
        return _prepare_adapter(recipe, data or recipe.data.set)
    sets = open_sets(recipe, data or recipe.data.set)
    media = sets.train.medium
    torch.manual_seed(recipe.train.seed)
    stages = load_stages(recipe, media)
    trained, limit = tokenizers_of(stages), memory_limit()
    with bounded(limit, may_have(limit)):
        tokenizer = build_tokenizer(recipe, media, stages)
        generator = build_generator(recipe, tokenizer, sets.train.classes, trained) if recipe.trains_generator else None
    if generator is None and isinstance(tokenizer, LearnedTokenizer) and tokenizer.reads_captions:
        _check_captions(sets.train)
    held = 4 * math.prod(media.shape if generator is None else (tokenizer.layout.positions, tokenizer.layout.channels))
    if (size := held * recipe.train.batch // world()[1]) > limit:
        raise TooLargeError(f"a batch takes at least {size_words(size)}, {may_have(limit)}: choose a smaller train.batch")
    if generator is not None and generator.condition is not None and recipe.data.missing_condition != "error":
        sets = sets.readable(generator.condition)
    experiment = Experiment(recipe, sets, media, tokenizer, generator, {name: trained[name] for name in recipe.stages})
    return _checked(experiment)


def _prepare_adapter(recipe: Recipe, data: str) -> Experiment:
    """The base with an adapter to train, and what it learns from: the pictures of a subject, or any data."""
    base, sets = base_of(recipe), open_sets(recipe, data) if recipe.adapter is None else open_subject(recipe, data)
    media, condition = sets.train.medium, None if base.generator is None else base.generator.condition
    if media != base.tokenizer.media:
        raise ValueError(f"{base.name} draws {base.tokenizer.media}, but the data are read as {media}: change `data` to fit")
    if recipe.adapter is None and condition is not None and recipe.data.missing_condition != "error":
        sets = sets.readable(condition)
    check_classes(recipe, base, sets.train)
    torch.manual_seed(recipe.train.seed)
    adapting, trained = begin(recipe, base, sets.train), tokenizers_of(base.stages)
    stages = {name: trained[name] for name in recipe.stages}
    return _checked(Experiment(recipe, sets, media, base.tokenizer, adapting.generator, stages, adapting))


def _checked(experiment: Experiment) -> Experiment:
    """The experiment, whose model can do what the training settings ask for."""
    settings = experiment.recipe.train
    check_blocks(experiment.model, settings)
    selection_of(settings, experiment.figures, keeps_best=False)
    if not settings.freeze:
        return experiment
    tokenizer = None if experiment.generator is None else experiment.tokenizer
    return replace(experiment, frozen=freeze(experiment.model, settings.freeze, tokenizer, experiment.recipe.losses))


def _check_captions(data: MediaSet) -> None:
    """Refuse data and processes that a tokenizer which compares media with captions cannot learn from."""
    if missing := sum(not caption.strip() for caption in data.captions):
        raise RecipeError(f"the tokenizer compares media with captions, and {missing:,} of {len(data):,} items of {data.name} have none")
    if (processes := world()[1]) > 1:
        raise RecipeError(f"the tokenizer compares the items of a whole batch, which one process must hold: train on one, not {processes}")


def run(
    recipe: Recipe,
    out: Path,
    data: str | None = None,
    tokens: Path | None = None,
    on_start: Callable[[], None] | None = None,
    device: str | torch.device = "auto",
    **options: Unpack[TrainOptions],
) -> Summary:
    """Train a recipe into a folder, or resume the run in it.

    Args:
        recipe: The recipe.
        out: The run's folder, a checkpoint in the end.
        data: A set's name or a path, instead of the recipe's.
        tokens: A token file of ``jielong tokenize`` to train a generator on, instead of the cache.
        on_start: Called by one process after all checks, before data are cached.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
        options: For :func:`jielong.training.trainer.train`.

    Raises:
        InUseError: if another process trains in the folder.
    """
    accelerator = join_processes(device)
    with one_run(out) if accelerator.is_main_process else contextlib.nullcontext():
        return _run(accelerator, recipe, out, data, tokens, on_start, options)


def _run(
    accelerator: Accelerator,
    recipe: Recipe,
    out: Path,
    data: str | None,
    tokens: Path | None,
    on_start: Callable[[], None] | None,
    options: TrainOptions,
) -> Summary:
    """The run of a folder that this process holds."""
    if data is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"set": data})})
    recipe = pinned(recipe, out)
    schedule = scheduled(recipe)
    state, name = check_run_folder(out, recipe.to_yaml(), upgraded, schedule), recipe.train.init_from
    init_from = None if name is None or state is not None or recipe.adapts else find(name)
    experiment = prepare(recipe)
    description = experiment.describe()
    if state is not None and (out / DESCRIPTION).exists():
        check_same_inputs(dict(read_description(out / DESCRIPTION)[0]), description, out)
    if on_start is not None and accelerator.is_main_process:
        on_start()

    def write_inputs() -> None:
        write_bytes(out / DESCRIPTION, json.dumps(description, indent=2).encode())
        if experiment.adapting is None:  # whose base has them
            copy_stages(recipe, out)

    def start(objective: Objective[Model], stream: TrainingStream) -> Summary:
        objective.frozen, objective.still = experiment.frozen.names, experiment.frozen.modules
        summary = train(
            objective,
            stream,
            recipe.train,
            out,
            recipe_yaml=recipe.to_yaml(),
            schedule=schedule,
            upgrade=upgraded,
            accelerator=accelerator,
            init_from=init_from,
            write_inputs=write_inputs,
            notes=[experiment.frozen.words] if experiment.frozen.words else [],
            **options,
        )
        if summary.finished and accelerator.is_main_process and experiment.adapting is None:  # an adapter's record is in its file
            write_card(out, recipe, experiment.sets, summary)
        return summary

    generator, seed = experiment.generator, recipe.train.seed
    if generator is None:
        return start(tokenizer_objective(experiment), TrainingStream(experiment.data, seed))
    objective = generator_objective(experiment)
    screen = (options.get("console") or Console(stderr=True)) if options.get("progress", True) and accelerator.is_main_process else None
    with accelerator.local_main_process_first(), progress_on(screen):  # it fills the caches, which the others then read
        if generator.condition is not None:
            generator.condition.precompute(experiment.data, experiment.heldout)
        loaded = experiment.load_tokens(tokens)
        mirrored = experiment.load_mirrored(loaded)
    if loaded is not None and loaded.lengths is not None and experiment.adapting is None:  # a base has what was fitted
        _fit_durations(experiment, generator, loaded)
    if generator.head.measures and state is None and experiment.adapting is None:  # a state and a base hold what was measured
        generator.head.measure(measured_tokens(experiment, loaded))
    # A shifted order is not trained on positions after the longest item of a batch, so similar lengths save computation.
    similar = recipe.train.batch if generator.order.shifted and is_timed(recipe) else None
    return start(objective, TrainingStream(experiment.data, seed, loaded, similar, mirrored))


def _fit_durations(experiment: Experiment, generator: Generator, tokens: Tokens) -> None:
    """Fit what the generator's durations estimate from the training set."""
    settings, data = experiment.recipe.condition, experiment.data
    if settings is not None and tokens.lengths is not None and generator.durations.predicts_lengths:
        items = data.tokenised(range(len(data)), tokens.values)
        generator.durations.fit(generator.condition, settings.from_batch(items, experiment.media), tokens.lengths)
