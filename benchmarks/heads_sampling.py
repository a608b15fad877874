"""Pictures sampled with each head on one frozen backbone, and their metrics, for ``heads.py``."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from heads_training import TrainingTargets, targets_of
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data.order import spread
from jielong.data.sets import Batch, MediaSet
from jielong.evaluation.features import FeatureExtractor, FeatureSet
from jielong.evaluation.frechet import SmallSampleWarning, frechet
from jielong.evaluation.retrieval import retrieval_at_1
from jielong.evaluation.scorer import Scorer, ScorerError
from jielong.heads.base import Head
from jielong.system import System
from jielong.training.experiment import Experiment

BATCH, SHOWN, CANDIDATES = 64, 8, 100


@dataclass(frozen=True)
class SamplingChoice:
    """Guidance scale and temperature of a head."""

    guidance: float
    temperature: float


class FrozenGenerator:
    """A trained generator without its head: hidden vectors of pictures, and pictures sampled with another head."""

    def __init__(self, experiment: Experiment, system: System) -> None:
        assert system.generator is not None
        self.recipe, self.system, self.generator = experiment.recipe, system, system.generator
        self.heldout, self.images = experiment.heldout, experiment.data
        if self.generator.condition is not None:
            self.generator.condition.precompute(self.images, self.heldout)

    def raw(self, batch: Batch) -> Any:
        """Condition values of a batch; ``None`` without a condition."""
        return None if self.recipe.condition is None else self.recipe.condition.from_batch(batch, self.system.tokenizer.media)

    @torch.no_grad()
    def targets(self, batch: Batch, rng: PerSampleRNG, training: bool = True) -> TrainingTargets:
        """Hidden vectors and targets of a batch, without dropout; in training some conditions are dropped, for guidance."""
        tokenizer, generator = self.system.tokenizer, self.generator.eval()
        cached = tokenizer.encode_to_cache(batch.media) if batch.tokens is None else Tokens(batch.tokens, tokenizer.cached_layout)
        prepared = None if generator.condition is None else generator.condition.prepare(self.raw(batch))
        generator.training = training  # of the generator alone, not of its submodules: conditions are dropped in training
        return targets_of(generator.training_states(tokenizer.sample_cached(cached, rng), prepared, rng))

    @torch.no_grad()
    def heldout_losses(self, heads: nn.ModuleDict, count: int) -> dict[str, float]:
        """Mean loss of each head on held-out pictures, with the same masks for all heads."""
        rows = spread(len(self.heldout), count)
        totals = dict.fromkeys(heads, 0.0)
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            targets = self.targets(self.heldout.batch(part), PerSampleRNG(0, range(first, first + len(part))), training=False)
            for name, head in heads.items():
                torch.manual_seed(first)
                totals[name] += float((head.eval().loss(targets.hidden, targets.targets) * targets.weights).sum())
        return {name: total / len(rows) for name, total in totals.items()}

    def sample(self, head: Head, conditions: Sequence[Any], choice: SamplingChoice, nfe: int | None) -> tuple[Tensor, float]:
        """Pictures, and seconds per picture to sample their tokens."""
        base, conditional = self.recipe.sampling, conditions[0] is not None
        self.generator.eval().head = head
        changes = {
            "temperature": choice.temperature,
            "num_inference_steps": nfe if head.iterative else None,
            "final_inference_steps": None,
            "guidance": base.guidance.model_copy(update={"scale": choice.guidance}),
        }
        sampling = base.model_copy(update=changes)
        start = time.perf_counter()
        tokens = self.generator.generate(
            list(conditions) if conditional else None,
            None if conditional else len(conditions),
            sampling=sampling if conditional else sampling.unconditional(),
            batch=BATCH,
        )
        seconds = (time.perf_counter() - start) / len(conditions)
        return self.system.decode(tokens), seconds

    def conditions(self, images: MediaSet, rows: Sequence[int]) -> list[Any]:
        """Condition values of some rows; ``None`` each without a condition."""
        values = self.raw(images.batch(list(rows)))
        return [None] * len(rows) if values is None else list(values)


class HeadMetrics:
    """Metrics of sampled pictures, and the choice of guidance scale and temperature.

    Args:
        frozen: The frozen generator.
        count: Held-out captions that metrics are reported on, at most.
        chosen_on: Training captions that scale and temperature are chosen on.
    """

    def __init__(self, frozen: FrozenGenerator, count: int, chosen_on: int) -> None:
        self.frozen, self.extractor = frozen, FeatureExtractor()
        self.rows = spread(len(frozen.heldout), min(count, len(frozen.heldout)))
        self.real = self.features(frozen.heldout, self.rows)
        self.chosen_on = spread(len(frozen.images), chosen_on)
        self.chosen_on_features = self.features(frozen.images, self.chosen_on)
        self.scorer: Scorer | None = None
        captions = frozen.heldout.captions
        if frozen.system.inputs == ("text",) and len(set(captions)) >= CANDIDATES:
            try:
                self.scorer = Scorer.trained_on(frozen.heldout.name, self.extractor)
            except ScorerError as error:
                print(f"no retrieval: {error}")

    def features(self, images: MediaSet, rows: Sequence[int]) -> FeatureSet:
        return self.extractor.extract(images.media(list(rows)))

    def frechet(self, pictures: Tensor, real: FeatureSet) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SmallSampleWarning)
            return frechet(pictures, real, self.extractor).value

    def choose(self, head: Head, guidance: Sequence[float], temperatures: Sequence[float]) -> tuple[SamplingChoice, list[dict[str, float]]]:
        """The best guidance scale, then the best temperature, on training captions; and the Frechet distance of each choice."""
        conditions = self.frozen.conditions(self.frozen.images, self.chosen_on)
        distances: dict[SamplingChoice, float] = {}

        def best(choices: Sequence[SamplingChoice]) -> SamplingChoice:
            for choice in choices:
                if choice not in distances:
                    distances[choice] = self.frechet(self.frozen.sample(head, conditions, choice, None)[0], self.chosen_on_features)
            return min(choices, key=distances.__getitem__)

        scales = guidance if conditions[0] is not None else (1.0,)
        first = best([SamplingChoice(scale, 1.0) for scale in scales])
        try:
            head.check_sampling(SamplingConfig(temperature=0.5))
        except ValueError:  # the head has no temperature
            temperatures = ()
        choice = best([first, *(replace(first, temperature=each) for each in temperatures)])
        return choice, [{**asdict(each), "frechet": value} for each, value in distances.items()]

    def row(self, head: Head, choice: SamplingChoice, nfe: int) -> tuple[dict[str, Any], Tensor]:
        """Metrics at one NFE, and some of the pictures."""
        conditions = self.frozen.conditions(self.frozen.heldout, self.rows)
        pictures, seconds = self.frozen.sample(head, conditions, choice, nfe)
        found: dict[str, Any] = {"nfe": nfe, "frechet": self.frechet(pictures, self.real), "count": len(pictures)}
        if self.scorer is not None:
            pool = [str(caption) for caption in self.frozen.heldout.captions]
            found["retrieval_at_1"] = retrieval_at_1(pictures, conditions, pool, CANDIDATES, scorer=self.scorer).value
        return found | {"seconds_per_picture": seconds}, pictures[:: max(1, len(pictures) // SHOWN)][:SHOWN]
