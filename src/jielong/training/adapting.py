"""An adapter in training: the base's frozen parts with what is trained beside them, and the record of the result."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jielong.conditions.base import Condition
from jielong.conditions.words import words_of
from jielong.config.adapter import AdapterSettings, LoraSettings, TextualInversionSettings
from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe
from jielong.core.phases import phases_of
from jielong.data.ledger import Ledger
from jielong.data.licences import Licence
from jielong.data.opening import open_quietly
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.generation.generator import Generator
from jielong.networks import lora
from jielong.system import DESCRIPTION, System, condition_inputs, find, load, read_description
from jielong.system.adapters import AdapterRecord, word_key
from jielong.training.checkpoint import fingerprint

UPDATED = ("backbone", "head")
"""The parts of a generator that low-rank updates are of."""
UNNAMED = ""
"""Name in the record of an adapter without a subject until it is written: that of its run's folder."""
_PARTS = ("tokenizer", "stages", "condition", "order", "backbone", "head", "stop_head")


@dataclass(frozen=True)
class Adapting:
    """A base with an adapter in training.

    Attributes:
        base: The base, whose generator is changed: what is trained requires gradients, and nothing else does.
        record: Of the adapter.
        prior: Class pictures of prior preservation.
        initial: Vectors ``(n, D)`` that the new word begins as; ``None`` without one.
    """

    base: System
    record: AdapterRecord
    prior: MediaSet | None
    initial: Tensor | None = None

    @property
    def generator(self) -> Generator:
        """The generator in training."""
        assert self.base.generator is not None
        return self.base.generator


def base_of(recipe: Recipe) -> System:
    """The base of a recipe with `adapter` or `train.lora`, on the CPU.

    Raises:
        RecipeError: if it has other parts than the recipe, or cannot have an adapter.
        CheckpointError: if it cannot be loaded.
    """
    name, key = recipe.train.init_from, "adapter" if recipe.adapter is not None else "train.lora"
    assert name is not None
    base = load(name, "cpu")
    for part in _PARTS:
        if getattr(recipe, part) != getattr(base.recipe, part):
            raise RecipeError(f"{key}: it keeps the parts of {name}, and `{part}` is another here: leave it as {name} has it")
    if base.generator is None:
        raise RecipeError(f"{key}: {name} is a tokenizer, and adapters are of generators")
    if len(phases := list(phases_of(base.generator))) > 1:
        raise RecipeError(
            f"{key}: {name} is trained in the phases {', '.join(phases)}, and an adapter has one: choose a model with a single loss, "
            "such as a masked, autoregressive or flow matching one"
        )
    return base


def check_classes(recipe: Recipe, base: System, data: MediaSet) -> None:
    """Refuse data of other classes than those that a base was trained on, where it reads classes.

    Raises:
        RecipeError: naming the first class that differs.
    """
    if not any(each.name == "class" for each in condition_inputs(recipe)):
        return
    known = read_description(find(base.name) / DESCRIPTION)[0]["classes"]
    if list(data.classes) != known:
        other = next((name for name in data.classes if name not in known), None)
        what = f"{data.name} has the class {other!r}" if other is not None else f"{data.name} has other classes, or in another order,"
        raise RecipeError(f"train.lora: {what} than {base.name}, which knows {', '.join(known[:5])}...: name its classes so")


def begin(recipe: Recipe, base: System, data: MediaSet) -> Adapting:
    """Add what the recipe trains to its base, drawn from torch's global generator.

    Args:
        recipe: The recipe.
        base: Of :func:`base_of`; its generator is changed.
        data: The pictures of the subject.

    Raises:
        RecipeError: if the model has no such maps, or ``peft`` is missing.
        DataError: if the class pictures cannot be used.
    """
    settings, generator = recipe.adapter, base.generator
    assert generator is not None
    updates = recipe.train.lora if settings is None else settings.lora
    record = _record(recipe, updates, base, generator, data)
    generator.requires_grad_(False)
    if updates is not None:
        try:
            names = lora.chosen(lora.projections(generator, UPDATED), updates.targets, lora.maps(generator))
            lora.inject(generator, names, updates.rank, updates.alpha or updates.rank)
        except ValueError as error:
            raise RecipeError(f"{'train' if settings is None else 'adapter'}.lora: {error}") from None
    if settings is None:
        return Adapting(base, record, None)
    initial = None
    if settings.textual_inversion is not None:  # after the other, which freezes everything else
        initial = _add_word(generator.condition, settings.name, settings.textual_inversion, base.name)
    return Adapting(base, record, _prior(recipe, settings, data), initial)


def _add_word(condition: Condition | None, name: str, settings: TextualInversionSettings, base: str) -> Tensor:
    """Add the subject's word to a condition, to be trained; what its vectors begin as."""
    found = words_of(condition)
    if found is None:
        kind = type(condition).__name__
        raise RecipeError(f"adapter.textual_inversion: the {kind} of {base} has no embedding of words to add one to: take lora")
    try:
        initial = found[0].vectors_of(settings.noun, settings.vectors)
        found[0].add_word(name, initial).requires_grad_(True)
    except ValueError as error:
        raise RecipeError(f"adapter.textual_inversion: {error}") from None
    return initial


def trained_tensors(generator: Generator, record: AdapterRecord, initial: Tensor | None) -> dict[str, Tensor]:
    """What an adapter's file holds of a generator in training."""
    tensors, found = lora.factors(generator), words_of(generator.condition)
    if initial is not None and found is not None:
        trained = found[0].word_embeddings[record.name]
        tensors |= {word_key(record.name): trained.detach(), word_key(record.name, initial=True): initial}
    return tensors


def _record(recipe: Recipe, updates: LoraSettings | None, base: System, generator: Generator, data: MediaSet) -> AdapterRecord:
    settings = recipe.adapter
    terms, words = Licence.beside(find(base.name)), words_of(generator.condition)
    inversion = None if settings is None else settings.textual_inversion
    prior = None if settings is None else settings.prior
    return AdapterRecord(
        name=UNNAMED if settings is None else settings.name,
        base=base.name,
        base_sha256=fingerprint(generator),
        method="lora" if settings is None else settings.method,
        rank=None if updates is None else updates.rank,
        alpha=None if updates is None else float(updates.alpha or updates.rank),
        words={} if settings is None or inversion is None else {settings.name: inversion.vectors},
        condition=None if inversion is None or words is None else words[1].describe(),
        pictures=len(data),
        prior=None if prior is None else prior.model_dump(mode="json"),
        licence=(None if settings is None else settings.licence) or "not stated",
        base_licence=None if terms is None else terms.weights,
        attributions=[] if terms is None else [str(each) for each in terms.learned_from],
        train=recipe.train.model_dump(mode="json", exclude_none=True),
    )


def _prior(recipe: Recipe, settings: AdapterSettings, data: MediaSet) -> MediaSet | None:
    """Class pictures, all of which have a caption where the model reads them."""
    if settings.prior is None:
        return None
    found = open_quietly(settings.prior.set, "train", settings=recipe.data, medium=data.medium, whole=True)
    lacking = set() if recipe.condition is None else {row for row, caption in enumerate(found.captions) if not caption}
    rows = [row for row in range(len(found)) if row not in lacking]
    if not rows:
        raise RecipeError(f"adapter.prior: no picture of {settings.prior.set} has a caption, such as 'a picture of a person': add them")
    if len(rows) < settings.prior.pictures:
        raise RecipeError(
            f"adapter.prior: {settings.prior.set} holds {len(rows)} pictures with captions, and {settings.prior.pictures} are asked for: "
            "lower adapter.prior.pictures"
        )
    return found.restricted([rows[place] for place in spread(len(rows), settings.prior.pictures)], Ledger()).without_broken()
