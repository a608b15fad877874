"""What a generator of pictures is measured by."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.data.opening import open_quietly
from jielong.data.order import spread
from jielong.data.selection import chooses, split_name
from jielong.data.sets import MediaSet
from jielong.evaluation.attributes import AttributeJudge, JudgeError, attribute_accuracy
from jielong.evaluation.context import BATCH, EvalContext, EvalResult, merged, sampling_of
from jielong.evaluation.edits import edits
from jielong.evaluation.features import FeatureExtractor, FeatureSet
from jielong.evaluation.frechet import frechet
from jielong.evaluation.judges.base import judged
from jielong.evaluation.known import features_of
from jielong.evaluation.likelihood import bits_per_dimension, nats_per_token, no_density, no_likelihood
from jielong.evaluation.neighbours import by_group, copies, copies_figures, most_similar, nearest, overlap_figures
from jielong.evaluation.network_evaluations import count_evaluations, first_of
from jielong.evaluation.provenance import Measurement, picture_hash
from jielong.evaluation.retrieval import Score, retrieval_at_1
from jielong.evaluation.scorer import Scorer, ScorerError
from jielong.evaluation.scorer_training import scorer_for
from jielong.media.pictures import Pictures
from jielong.networks.efficientnet import WeightsError
from jielong.system import System

NEIGHBOURS = ("precision", "recall", "density", "coverage")


def generator(context: EvalContext) -> EvalResult:
    """How near generated pictures are to real ones, to training ones, and to what they were to show."""
    system = context.system
    conditions = context.conditions()
    begun = time.perf_counter()
    items = system.wrap(context.draw(conditions), names=context.names)
    seconds = time.perf_counter() - begun
    sampling, seed = sampling_of(system, context.draws), context.draws.seed
    counted = count_evaluations(system, first_of(conditions), sampling, seed, context.first_given())
    drawn: JSON = {
        "pictures": "one a held-out caption or class, picture i from (seed, i)",
        "seconds_per_picture": round(seconds / len(context.rows), 4),
        "evaluations_per_picture": counted.to_json(),
    }
    found = [_likelihoods(context, conditions), _attributes(context, items.tensor), edits(context, items.tensor)]
    found.append(judged(context, items.tensor))
    try:
        space = Space(context, items.tensor, context.scorer.extractor if context.scorer is not None else FeatureExtractor())
        found += [_distances(space), _prompts(space)]
    except (ImportError, WeightsError) as error:
        reason = f"{error}; pip install 'jielong[evaluate]'" if isinstance(error, ImportError) else str(error)
        found.append(EvalResult(omitted=dict.fromkeys(("frechet", *NEIGHBOURS, "memorised", "retrieval_at_1"), reason)))
    return merged(found, drawn, items)


@dataclass
class Space:
    """Features of generated, real and training pictures, each extracted once.

    Attributes:
        context: The system and its held-out items.
        made: Generated pictures.
        extractor: The network.
    """

    context: EvalContext
    made: Tensor
    extractor: FeatureExtractor

    @cached_property
    def generated(self) -> FeatureSet:
        """Of generated pictures."""
        self.context.report("features", 0, 1)
        found = self.extractor.extract(self.made)
        self.context.report("features", 1, 1)
        return found

    @cached_property
    def real(self) -> FeatureSet:
        """Of the held-out pictures."""
        values = self._kept(self.context.media, self.context.rows, "features of real pictures")
        return FeatureSet(values, picture_hash(self.context.real), self.extractor.provenance())

    @cached_property
    def trained(self) -> tuple[MediaSet, list[int]]:
        """The training split, and the rows of it that pictures are compared with."""
        system = self.context.system
        whole = open_quietly(self.context.source, "train", medium=system.tokenizer.media, settings=system.recipe.data, whole=True)
        return whole, spread(len(whole), self.context.known)

    @cached_property
    def known(self) -> Tensor:
        """Of those."""
        return self._kept(*self.trained, "features of training pictures")

    def _kept(self, media: MediaSet, rows: list[int], what: str) -> Tensor:
        def extract(pictures: Tensor, rows: Sequence[int]) -> Tensor:
            return self.extractor.extract(pictures).values

        return features_of(media, rows, self.extractor.provenance(), extract, self.context.report, what)


def _likelihoods(context: EvalContext, conditions: Sequence[object] | None) -> EvalResult:
    system, real, report = context.system, context.real, context.report
    figures: dict[str, Measurement] = {}
    omitted: dict[str, str] = {}
    unlikely = no_likelihood(system)
    if unlikely is None:
        report("likelihood", 0, 1)
        figures["bits_per_dimension"] = bits_per_dimension(system, real, conditions, BATCH)
        report("likelihood", 1, 1)
    else:
        omitted["bits_per_dimension"] = unlikely
    dense = no_density(system)
    if dense is None:
        report("density", 0, 1)
        figures["nats_per_token"] = nats_per_token(system, real, conditions, BATCH)
        report("density", 1, 1)
    elif not system.tokenizer.layout.discrete:
        omitted["nats_per_token"] = dense
    return EvalResult(figures, omitted)


def _distances(space: Space) -> EvalResult:
    """Fréchet distance, overlap with the real pictures, and copies of training pictures."""
    context = space.context
    if len(context.rows) < 2:
        return EvalResult(omitted=dict.fromkeys(("frechet", *NEIGHBOURS, "memorised"), "it needs at least two pictures"))
    figures, omitted = {"frechet": frechet(space.generated, space.real)}, dict[str, str]()
    ours, real = space.generated.values, space.real.values
    details: JSON = {"features": space.extractor.provenance()}
    groups = context.groups
    trained, rows = space.trained
    keys = [trained.keys[row] for row in rows]
    if set(keys) & {context.media.keys[row] for row in context.rows}:
        reason = f"{context.media.name} has no training pictures beside the held-out ones"
        return EvalResult(figures | _overlap(space, omitted), omitted | dict.fromkeys(("memorised", "authenticity"), reason))
    try:
        found = copies(ours, real, space.known)
    except ValueError as error:
        return EvalResult(figures | _overlap(space, omitted), omitted | dict.fromkeys(("memorised", "authenticity"), str(error)))
    figures |= _overlap(space, omitted, space.known[spread(len(rows), len(context.rows))])
    figures |= copies_figures(found, details, keys, len(trained), groups)
    figures |= _classes(space, [trained.labels[trained.resolve(row)] for row in rows])
    close = most_similar(found)
    pairs = torch.cat([space.made[close].cpu(), trained.media([rows[int(found.rows[row])] for row in close])])
    names = [*(context.names[row] for row in close), *(keys[int(found.rows[row])] for row in close)]
    return EvalResult(figures, omitted, pairs=Pictures(pairs, names))


def _overlap(space: Space, omitted: dict[str, str], known: Tensor | None = None) -> dict[str, Measurement]:
    """Of generated pictures, and of as many training pictures as the same figures of real ones."""
    details: JSON = {"features": space.extractor.provenance()}
    try:
        figures = overlap_figures(space.generated.values, space.real.values, details, space.context.groups)
        return figures | ({} if known is None else overlap_figures(known, space.real.values, details, side="_real"))
    except ValueError as error:
        omitted |= dict.fromkeys(NEIGHBOURS, str(error))
        return {}


def _classes(space: Space, labels: Sequence[int | None]) -> dict[str, Measurement]:
    """Class of the nearest training picture against the requested one, for generators of classes or captions."""
    context = space.context
    wanted, kept = context.groups, [place for place, label in enumerate(labels) if label is not None]
    inputs = set(context.system.inputs)
    if len(set(wanted)) < 2 or not kept or "picture" in inputs or not {"text", "class"} & inputs:
        return {}
    theirs = [context.media.classes[labels[place] or 0] for place in kept]
    details: JSON = {
        "protocol": f"class of the nearest of {len(kept)} training pictures",
        "classes": len(set(theirs)),
        "chance": max(map(theirs.count, set(theirs))) / len(theirs),
        "features": space.extractor.provenance(),
    }
    figures = {}
    for side, features in (("", space.generated.values), ("_real", space.real.values)):
        found = nearest(features, space.known[kept])[1][:, 0].tolist()
        right = torch.tensor([theirs[place] == want for place, want in zip(found, wanted, strict=True)])
        more = by_group(right, wanted)
        figures[f"class_at_1{side}"] = Measurement("class_at_1", right.double().mean().item(), len(right), details | more)
    return figures


def _attributes(context: EvalContext, made: Tensor) -> EvalResult:
    """Attributes that a judge reads, where the set has one."""
    images, names = context.media, ("attribute_accuracy", "attribute_accuracy_real")
    try:
        judge = _judge(context.system, images)
        if judge is None:
            return EvalResult()
        wanted = {name: [images.columns[name][row] for row in context.rows] for name in judge.classes}
        pairs = zip(names, (made, context.real), strict=True)
        return EvalResult({name: attribute_accuracy(pictures, wanted, judge, name) for name, pictures in pairs})
    except JudgeError as error:
        return EvalResult(omitted=dict.fromkeys(names, str(error)))


def _judge(system: System, images: MediaSet) -> AttributeJudge | None:
    """The judge of the set's attributes, for pictures drawn from captions; ``None`` where there is none."""
    if "text" not in system.inputs:
        return None
    judge = AttributeJudge.of(split_name(images.name)[0] if chooses(images.name) else images.name)
    return judge if judge is not None and judge.classes.keys() <= images.columns.keys() else None


def _prompts(space: Space) -> EvalResult:
    """R@1 of the captions among :data:`~jielong.evaluation.context.CANDIDATES`, or as many as there are."""
    context, names = space.context, ("retrieval_at_1", "retrieval_at_1_real")
    images = context.media
    distinct = len(set(images.captions))
    if context.system.inputs != ("text",):
        return EvalResult(omitted=dict.fromkeys(names, "it asks which caption a picture shows, and this generator takes none"))
    if distinct < 2:
        return EvalResult(omitted=dict.fromkeys(names, f"all captions that {images.name} holds out are the same"))
    try:
        scorer: Score = context.scorer or _scorer(space)
    except (ImportError, WeightsError, ScorerError, ValueError) as error:
        return EvalResult(omitted=dict.fromkeys(names, str(error)))
    captions, figures = [images.captions[row] for row in context.rows], {}
    for done, (name, pictures, features) in enumerate(zip(names, (space.made, context.real), (space.generated, space.real), strict=True)):
        context.report("retrieval", done, 2)
        measured = retrieval_at_1(
            pictures, captions, images.captions, min(context.candidates, distinct), 0, scorer, name, features.values, context.groups
        )
        figures[name] = measured
    context.report("retrieval", 2, 2)
    return EvalResult(figures)


def _scorer(space: Space) -> Scorer:
    """The shipped scorer on the set that it was trained on; on others one trained on their training pictures and captions."""
    images, (trained, rows) = space.context.media, space.trained
    with contextlib.suppress(ScorerError):
        return Scorer.trained_on(images.name, space.extractor)
    captions = [trained.captions[trained.resolve(row)] for row in rows]
    kept = [place for place, caption in enumerate(captions) if caption]
    if len({captions[place] for place in kept}) < 2:
        raise ScorerError(f"{images.name} has fewer than two captions to train a scorer on")
    space.context.report("scorer", 0, 1)
    found = scorer_for(space.known[kept], [captions[place] for place in kept], trained, space.extractor)
    space.context.report("scorer", 1, 1)
    return found
