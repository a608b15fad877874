"""From a recipe to a training run: builds data, parts and objective, and hands them to the trainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jielong.config.recipe import completed
from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe
from jielong.core.medium import Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data.opening import open_data
from jielong.data.order import AlikeOrder, ShuffledOrder, spread
from jielong.data.sets import Batch, MediaSet
from jielong.data.splits import Split
from jielong.evaluation.protocols import protocol_of
from jielong.generation.generator import Generator
from jielong.losses.base import LossContext, LossTerms
from jielong.media.images import write_bytes
from jielong.quantizers.parallel import world
from jielong.system import (
    DESCRIPTION,
    build_generator,
    build_tokenizer,
    condition_inputs,
    copy_stages,
    describe,
    durations_of,
    find,
    is_timed,
    lengths_of,
    load_stages,
    tokenizers_of,
)
from jielong.tokenizers.base import LearnedTokenizer, Tokenizer
from jielong.training import token_cache as cache
from jielong.training.distill_teacher import WhisperTeacher
from jielong.training.generator_objective import GeneratorObjective, to_learn
from jielong.training.objective import Objective
from jielong.training.processes import join_processes
from jielong.training.state import check_run_folder, check_same_inputs
from jielong.training.tokenizer_objective import TokenizerObjective
from jielong.training.trainer import Summary, train

CALIBRATED = 2048
"""Training items on which a tokenizer measures the scale of its tokens."""
MEASURED = 512
"""Held-out items behind the figures that training logs; ``jielong evaluate`` takes all of them."""


class Stream:
    """The endless shuffled stream of training items that the trainer reads: the data cursor is the number of samples seen.

    Args:
        images: The set.
        seed: Of the shuffling.
        tokens: The set's tokens, in which case pictures are never decoded.
        alike: Items of a batch that are to be of similar lengths, where padding can be spared; any lengths by default.

    Sound without tokens is read from anywhere in a clip, by the seed and the position in the stream.
    """

    def __init__(self, images: MediaSet, seed: int, tokens: Tokens | None = None, alike: int | None = None) -> None:
        self.images, self.seed, self.tokens = images, seed, tokens
        self.order = ShuffledOrder(len(images), seed)
        if alike is not None and tokens is not None and tokens.lengths is not None:
            self.order = AlikeOrder(tokens.lengths.tolist(), alike, seed)

    def batch(self, first: int, count: int) -> Batch:
        """The items at positions ``first`` to ``first + count`` of the stream."""
        rows = self.order.at(first, count)
        if self.tokens is not None:
            return self.images.tokenised(rows, self.tokens.values[rows])
        return self.images.crops(rows, range(first, first + count), self.seed)


@dataclass(frozen=True)
class Experiment:
    """A recipe with its data and parts, ready to train or to look at.

    Attributes:
        recipe: What to do.
        images: The training split.
        heldout: The held-out split; the training split where the set has none.
        media: The format of the pictures or the sound.
        tokenizer: Trained, or to be trained.
        generator: To be trained; ``None`` for a tokenizer's recipe.
        stages: Tokenizers of the earlier stages of a cascade, by name.
    """

    recipe: Recipe
    images: MediaSet
    heldout: MediaSet
    media: Medium
    tokenizer: Tokenizer
    generator: Generator | None
    stages: Mapping[str, Tokenizer] = field(default_factory=dict)

    @property
    def model(self) -> LearnedTokenizer | Generator:
        """What is trained."""
        if self.generator is not None:
            return self.generator
        if not isinstance(self.tokenizer, LearnedTokenizer):
            raise RecipeError("this recipe has nothing to train")
        return self.tokenizer


def prepare(recipe: Recipe, data: str | None = None) -> Experiment:
    """Open the data and build the parts; seeded by the recipe, so that weights start the same every time.

    Args:
        recipe: The recipe.
        data: A set's name or a path to take instead of the recipe's.

    Raises:
        ValueError: if the data have no captions or classes where the recipe needs them, or sizes do not fit.
    """
    where = data or recipe.data.set
    images, heldout = _open(recipe, where, "train"), _open(recipe, where, "heldout")
    for each in condition_inputs(recipe):
        each.check(images, images.medium, where)
    torch.manual_seed(recipe.train.seed)
    media = images.medium
    stages = load_stages(recipe, media)
    tokenizer, trained = build_tokenizer(recipe, media, stages), tokenizers_of(stages)
    generator = build_generator(recipe, tokenizer, images.classes, trained) if recipe.trains_generator else None
    return Experiment(recipe, images, heldout, media, tokenizer, generator, {name: trained[name] for name in recipe.stages})


def _open(recipe: Recipe, where: str, split: Split) -> MediaSet:
    """A split; a generator takes whole clips alone, since captions describe all of them."""
    return open_data(where, split, settings=recipe.data, whole=recipe.trains_generator)


def run(
    recipe: Recipe,
    out: Path,
    data: str | None = None,
    tokens: Path | None = None,
    begun: Callable[[], None] | None = None,
    device: str | torch.device = "auto",
    **options: Any,
) -> Summary:
    """Train a recipe into a folder, or resume the run in it.

    Args:
        recipe: The recipe.
        out: The run's folder, a checkpoint in the end.
        data: A set's name or a path to take instead of the recipe's.
        tokens: A token file of ``jielong tokenize`` to train a generator on, instead of the cache.
        begun: Called by one process once the data are open, the parts are built and the folder is checked, before what takes long.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
        options: For :func:`jielong.training.trainer.train`.
    """
    accelerator = join_processes(device)
    if data is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"set": data})})
    state, named = check_run_folder(out, recipe.to_yaml(), completed), recipe.train.init_from
    start = None if named is None or state is not None else find(named)
    experiment = prepare(recipe)
    description = _describe(experiment)
    if state is not None and (out / DESCRIPTION).exists():
        check_same_inputs(json.loads((out / DESCRIPTION).read_text(encoding="utf-8")), description, out)
    if begun is not None and accelerator.is_main_process:
        begun()
    objective = tokenizer_objective(experiment) if experiment.generator is None else generator_objective(experiment)
    with accelerator.local_main_process_first():  # it fills the caches, which the others then read
        if experiment.generator is not None and experiment.generator.condition is not None:
            experiment.generator.condition.precompute(experiment.images, experiment.heldout)
        made = _tokens(experiment, tokens)
    _fit_durations(experiment, made)
    # What is drawn forwards is trained without what stands behind a batch's longest item: the more alike they are, the less there is.
    trimmed = experiment.generator is not None and experiment.generator.order.shifted and is_timed(recipe)
    stream = Stream(experiment.images, recipe.train.seed, made, recipe.train.batch if trimmed else None)

    def write_inputs() -> None:
        write_bytes(out / DESCRIPTION, json.dumps(description, indent=2).encode())
        copy_stages(recipe, out)

    return train(
        objective,
        stream,
        recipe.train,
        out,
        recipe_yaml=recipe.to_yaml(),
        complete=completed,
        accelerator=accelerator,
        init_from=start,
        write_inputs=write_inputs,
        **options,
    )


def _describe(experiment: Experiment) -> dict[str, Any]:
    """What a checkpoint records beside recipe and weights."""
    description = describe(experiment.media, experiment.images.classes, experiment.tokenizer, experiment.generator, experiment.stages)
    return description | {"data": {"items": len(experiment.images), "fingerprint": experiment.images.fingerprint}}


def _fit_durations(experiment: Experiment, tokens: Tokens | None) -> None:
    """Fit what the generator's durations estimate from the training set."""
    generator, settings, images = experiment.generator, experiment.recipe.condition, experiment.images
    if generator is None or settings is None or tokens is None or tokens.lengths is None or not generator.durations.predicts_lengths:
        return
    words = images.tokenised(range(len(images)), tokens.values)
    generator.durations.fit(generator.condition, settings.from_batch(words, experiment.media), tokens.lengths)


def _tokens(experiment: Experiment, file: Path | None) -> Tokens | None:
    if experiment.generator is None:
        return None
    if file is not None:
        return cache.read(file, cache.identity(experiment.tokenizer, experiment.images), experiment.images)
    return cache.cached(experiment.tokenizer, experiment.images)


def tokenizer_objective(experiment: Experiment) -> Objective:
    """Reconstruction with the recipe's losses."""
    model, heldout = experiment.model, experiment.heldout
    quantizer = getattr(model, "quantizer", None)
    context = LossContext(experiment.media, None if quantizer is None else quantizer.dim, {"whisper-base": WhisperTeacher})
    terms = LossTerms.of(experiment.recipe.losses, context)
    shown = heldout.media(spread(len(heldout), heldout.kind.sample_count))
    measure, pictures = partial(_measure_tokenizer, heldout), partial(_calibration, experiment.images)
    return TokenizerObjective(model, terms, shown, measure, pictures, balance=experiment.recipe.balancer)  # type: ignore[arg-type]


def _calibration(images: MediaSet) -> Iterator[Tensor]:
    """This process's share of some training pictures, evenly spread over the set."""
    rank, processes = world()
    rows = spread(len(images), CALIBRATED)[rank::processes]
    return (images.media(rows[first : first + 64]) for first in range(0, len(rows), 64))


@torch.no_grad()
def _measure_tokenizer(heldout: MediaSet, model: LearnedTokenizer) -> dict[str, Any]:
    batch = heldout.batch(spread(len(heldout), heldout.kind.measured_count))
    device = next(model.parameters()).device
    rebuilt = torch.cat([model.decode(model.encode(part.to(device))).cpu() for part in batch.media.split(64)])
    figures = protocol_of(heldout.medium).quick(rebuilt, batch, heldout.medium)
    return {f"heldout_{name}": value for name, value in figures.items()}


def generator_objective(experiment: Experiment) -> Objective:
    """The generator's loss on tokens."""
    recipe, heldout, model = experiment.recipe, experiment.heldout, experiment.generator
    if model is None:
        raise RecipeError("this recipe trains a tokenizer, not a generator")
    count = heldout.kind.sample_count
    settings = recipe.condition

    def raw(batch: Batch) -> list[Any] | None:
        return None if settings is None else settings.from_batch(batch, experiment.media)

    def draw(generator: Generator, shown: Sequence[Any] | None) -> Tokens:
        return generator.generate(
            shown,
            None if shown is not None else count,
            sampling=recipe.sampling if shown is not None else recipe.sampling.unconditional(),
            lengths=lengths_of(experiment.tokenizer, durations_of(recipe, shown)),
        )

    shown = None if settings is None else settings.for_samples(heldout, count, experiment.media)
    timed = is_timed(recipe)
    measure = partial(_measure_generator, heldout, experiment.tokenizer, raw, timed)
    return GeneratorObjective(model, experiment.tokenizer, raw, shown, draw, measure, timed)


@torch.no_grad()
def _measure_generator(
    heldout: MediaSet, tokenizer: Tokenizer, raw: Callable[[Batch], Any], timed: bool, model: Generator
) -> dict[str, Any]:
    """Held-out loss, with the same masks every time."""
    rows = spread(len(heldout), MEASURED)
    total = torch.zeros((), dtype=torch.float64)
    was_training = model.training
    model.eval()
    device = model.placeholder.device
    for first in range(0, len(rows), 64):
        part = rows[first : first + 64]
        batch = heldout.batch(part)
        rng = PerSampleRNG(0, range(first, first + len(part)))
        tokens = to_learn(tokenizer, batch.to(device), rng, timed)  # as training draws them
        prepared = model.condition.prepare(raw(batch)) if model.condition is not None else None
        total += float(model.loss(tokens, prepared, rng)) * len(part)
    model.train(was_training)
    return {"heldout_loss": float(total) / len(rows)}
