"""The objective of an experiment: what its recipe trains, with the data, samples and figures that belong to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from jielong.config.registry import RecipeError
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data.order import spread
from jielong.data.sets import Batch, MediaSet
from jielong.generation.generator import Generator
from jielong.losses.base import LossContext, LossTerms
from jielong.quantizers.parallel import world
from jielong.system import durations_of, is_timed, lengths_of
from jielong.training import token_cache as cache
from jielong.training.adapter_objective import AdapterObjective, Prior
from jielong.training.distill_teacher import WhisperTeacher
from jielong.training.generator_objective import GeneratorObjective, training_tokens
from jielong.training.heldout import measure_generator, measure_tokenizer
from jielong.training.mismatches import Mismatches
from jielong.training.tokenizer_objective import TokenizerObjective

if TYPE_CHECKING:
    from jielong.training.experiment import Experiment

CALIBRATION_ITEMS = 2048
"""Training items on which a tokenizer measures the scale of its tokens, and a head that of each scale."""
_BATCH = 64


def tokenizer_objective(experiment: Experiment) -> TokenizerObjective:
    """Reconstruction with the recipe's losses."""
    model, heldout = experiment.learned_tokenizer, experiment.heldout
    context = LossContext(experiment.media, model.code_dim, {"whisper-base": WhisperTeacher})
    terms = LossTerms.of(experiment.recipe.losses, context)
    samples = heldout.media(spread(len(heldout), heldout.kind.sample_count))
    measure, calibration = partial(measure_tokenizer, experiment.sets), partial(_calibration_media, experiment.data)
    return TokenizerObjective(model, terms, samples, measure, calibration, balance=experiment.recipe.balancer, figures=experiment.figures)


def _calibration_media(data: MediaSet) -> Iterator[Tensor]:
    """This process's share of training media that are evenly spread over the set."""
    rank, processes = world()
    rows = spread(len(data), CALIBRATION_ITEMS)[rank::processes]
    return (data.media(rows[first : first + _BATCH]) for first in range(0, len(rows), _BATCH))


def measured_tokens(experiment: Experiment, loaded: Tokens | None) -> Iterator[Tokens]:
    """Training tokens that are evenly spread over the set, the same in every process, of those that are ``loaded`` or else of the media."""
    data, seed, rows = experiment.data, experiment.recipe.train.seed, spread(len(experiment.data), CALIBRATION_ITEMS)
    for first in range(0, len(rows), _BATCH):
        part = rows[first : first + _BATCH]
        batch = data.batch(part) if loaded is None else data.tokenised(part, loaded.values[part])
        yield training_tokens(experiment.tokenizer, batch, PerSampleRNG(seed, part), timed=False)


def generator_objective(experiment: Experiment) -> GeneratorObjective:
    """The generator's loss on tokens.

    Raises:
        RecipeError: if the recipe trains a tokenizer, or guides away from what it never trains.
    """
    recipe, heldout, settings, model = experiment.recipe, experiment.heldout, experiment.recipe.condition, experiment.generator
    if model is None:
        raise RecipeError("this recipe trains a tokenizer, not a generator")
    count, timed = heldout.kind.sample_count, is_timed(recipe)

    def values_of(batch: Batch) -> Sequence[object] | None:
        return None if settings is None else settings.from_batch(batch, experiment.media)

    given = model.order.given_positions(model.layout)
    if model.condition is not None and recipe.sampling.guidance.scale != 1:
        try:
            model.condition.check_guided()
        except ValueError as error:
            raise RecipeError(str(error)) from None

    def generate(generator: Generator, values: Sequence[object] | None) -> Tokens:
        start = None
        if values is None and given is not None:  # samples continue the first held-out items
            media = heldout.media(range(min(count, len(heldout)))).to(generator.device)
            start = experiment.tokenizer.mean_cached(experiment.tokenizer.encode_to_cache(media))
        return generator.generate(
            values,
            None if values is not None else count if start is None else len(start),
            start=start,
            known=None if start is None else given,
            sampling=recipe.sampling if values is not None else recipe.sampling.unconditional(),
            lengths=lengths_of(experiment.tokenizer, durations_of(recipe, values)),
        )

    samples = None if settings is None else settings.for_samples(heldout, count)
    measure = partial(measure_generator, experiment.sets, experiment.tokenizer, values_of, timed)
    mismatches = None
    if model.head.mismatches and settings is not None:
        mismatches = Mismatches(experiment.data, settings, model.head.mismatches)
    arguments = (model, experiment.tokenizer, values_of, samples, generate, measure, timed, experiment.figures, mismatches)
    adapting = experiment.adapting
    if adapting is None:
        return GeneratorObjective(*arguments)
    prior, classes = None if recipe.adapter is None else recipe.adapter.prior, adapting.prior
    if prior is not None and classes is not None:
        tokens = cache.cached(experiment.tokenizer, classes)
        return AdapterObjective(*arguments, record=adapting.record, prior=Prior(classes, tokens, prior.weight), initial=adapting.initial)
    return AdapterObjective(*arguments, record=adapting.record, prior=None, initial=adapting.initial)
