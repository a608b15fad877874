"""Inputs and results of an evaluation: the system, its held-out items, sampling, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jielong.conditions.inputs import HeldoutItems, InputError
from jielong.conditions.text import NEGATIVE_TEXT
from jielong.config.sampling import SamplingConfig
from jielong.core.json import JSON
from jielong.core.tokens import Tokens
from jielong.data.pairs import source_media
from jielong.data.sets import MediaSet
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.scorer import Scorer
from jielong.generation.callbacks import StepEvent
from jielong.generation.request import check_guided
from jielong.media.results import ResultItem, Results
from jielong.system import System
from jielong.system.inputs import GenerationInputs, call_inputs, condition_inputs, gather, stage_names, takes_negative_text

CANDIDATES = 100
"""Captions among which a picture's own is retrieved."""
BATCH = 64
KNOWN, KNOWN_FULL = 2_048, 50_000
"""Most training items that generated ones are compared with, evenly spread; and in a full evaluation."""

Progress = Callable[[str, int, int], None]
"""``(stage, done, total)``."""


@dataclass(frozen=True)
class DrawSettings:
    """How items are drawn for an evaluation.

    Attributes:
        seed: Seed of the random numbers.
        sampling: Sampling parameters; the recipe's by default.
        negative_text: Text in place of the null condition in guidance, for generators from texts.
        length: Duration of each item relative to the real recording's, for generators of sound with durations.
    """

    seed: int = 0
    sampling: SamplingConfig | None = None
    length: float | None = None
    negative_text: str = ""


@dataclass(frozen=True)
class EvalResult:
    """Figures of one evaluation.

    Attributes:
        figures: The measurements that apply, by name.
        omitted: Those that do not, and why.
        drawn: More about how items were sampled, for the provenance.
        items: The generated or reconstructed items, where the protocol makes them.
        pairs: Samples most similar to training items, then these training items.
    """

    figures: dict[str, Measurement] = field(default_factory=dict)
    omitted: dict[str, str] = field(default_factory=dict)
    drawn: JSON = field(default_factory=dict)
    items: Results[ResultItem] | None = None
    pairs: Results[ResultItem] | None = None


def merged(parts: Sequence[EvalResult], drawn: JSON, items: Results[ResultItem] | None) -> EvalResult:
    """One result of several; what one omits and another has is not omitted."""
    figures = {name: figure for part in parts for name, figure in part.figures.items()}
    omitted = {name: reason for part in parts for name, reason in part.omitted.items() if name not in figures}
    return EvalResult(figures, omitted, drawn, items, next((part.pairs for part in parts if part.pairs is not None), None))


@dataclass(frozen=True)
class EvalContext:
    """A system and the held-out items it is measured on.

    Attributes:
        system: A tokenizer or a generator.
        media: The set's held-out split, as the system reads it.
        rows: Indices of the items.
        real: The items, ``(n, C, *size)``.
        draws: How a generator samples.
        report: Progress callback.
        candidates: Captions to choose from in retrieval of pictures.
        scorer: Scorer of that retrieval in place of the shipped one.
        perception: Also perceptual figures of a tokenizer's pictures.
        ceiling: Also figures of real audio and of its reconstructions beside generated audio.
        source: The name or path by which the set was opened.
        skip_metrics: Figures of generated audio that are not computed.
        known: Most training items that generated ones are compared with.
    """

    system: System
    media: MediaSet
    rows: list[int]
    real: Tensor
    draws: DrawSettings
    report: Progress
    candidates: int = CANDIDATES
    scorer: Scorer | None = None
    perception: bool = False
    ceiling: bool = True
    source: str = ""
    skip_metrics: frozenset[str] = frozenset()
    known: int = KNOWN

    @property
    def sounds(self) -> MediaSet:
        """The set, by the name that metrics of audio use."""
        return self.media

    @property
    def names(self) -> list[str]:
        """Caption, otherwise class, otherwise key of each item."""
        return names_of(self.media, self.rows)

    @property
    def groups(self) -> list[str | None]:
        """Class of each item."""
        labels = [self.media.labels[self.media.resolve(row)] for row in self.rows]
        return [None if label is None else self.media.classes[label] for label in labels]

    @property
    def clips(self) -> list[Tensor]:
        """Real audio without padding, ``(C, T)`` each."""
        return [clip[:, : self.sounds.length(row)] for clip, row in zip(self.real, self.rows, strict=True)]

    def items(self, prompts: Sequence[Tensor | None] | None = None) -> HeldoutItems:
        """The items, with other recordings of their speakers as ``prompts``."""
        words = self.media.tokenised(self.rows, torch.empty(len(self.rows), 0, 0))
        batch, scale = replace(words, media=self.real, tokens=None), 1.0 if self.draws.length is None else self.draws.length
        paired = any(each.paired for each in condition_inputs(self.system.recipe))
        sources = list(source_media(self.media, self.rows)) if paired else None
        columns = {name: [values[row] for row in self.rows] for name, values in self.media.columns.items()}
        return HeldoutItems(self.media.name, batch, self.media.classes, self.system.tokenizer.media, prompts, scale, sources, columns)

    def conditions(self, prompts: Sequence[Tensor | None] | None = None) -> Sequence[object] | None:
        """Values of the generator's condition for each item.

        Raises:
            ValueError: if the set lacks an input of the condition.
        """
        settings = self.system.recipe.condition
        return None if settings is None else settings.from_heldout(self.items(prompts))

    def draw(
        self, conditions: Sequence[object] | None, lengths: Sequence[int] | None = None, start: tuple[Tokens, Tensor] | None = None
    ) -> Tokens:
        """Sampled tokens, one item per row; earlier stages of a cascade run first, as they do in :meth:`System.generate`.

        ``start``: tokens and the positions of them that are kept, ``(N,)`` bool.
        """
        done, negatives = 0, self._negatives(conditions)
        if stage_names(self.system.recipe):
            inputs = self._inputs()
            conditions, negatives = inputs.conditions, inputs.negatives

        def tick(event: StepEvent) -> None:
            # All tokens of a batch are known after its last step.
            nonlocal done
            if bool(event.known.all()):
                done += len(event.known)
                self.report("generating", done, len(self.rows))

        return self.system.generate_tokens(
            conditions,
            len(self.rows),
            seed=self.draws.seed,
            sampling=sampling_of(self.system, self.draws),
            batch=BATCH,
            on_step=tick,
            lengths=lengths,
            negatives=negatives,
            start=None if start is None else start[0],
            known=None if start is None else start[1],
        )

    def _inputs(self) -> GenerationInputs:
        """The inputs of a call for each item, with the output of earlier stages."""
        given: dict[str, object] = {**self.given()}
        if self.draws.negative_text:
            given[NEGATIVE_TEXT.keyword] = self.draws.negative_text
        return gather(self.system, given, None if given else len(self.rows), self.draws.seed)

    def given(self) -> dict[str, Sequence[object]]:
        """The inputs of a call by keyword, a value of each for each item."""
        found = {each.keyword: each.from_heldout(self.items()) for each in call_inputs(self.system)}
        return {name: values for name, values in found.items() if values is not None}

    def first_given(self) -> dict[str, object] | None:
        """Of a cascade :meth:`given` of the first item; ``None`` of other generators."""
        return {name: [values[0]] for name, values in self.given().items()} if stage_names(self.system.recipe) else None

    def _negatives(self, conditions: Sequence[object] | None) -> Sequence[object | None] | None:
        """The value of the condition with the negative text, of each item."""
        text, settings = self.draws.negative_text, self.system.recipe.condition
        if not text or settings is None or conditions is None:
            return None
        words = self.items().batch
        return settings.from_heldout(replace(self.items(), batch=replace(words, captions=[text] * len(words))))


def names_of(media: MediaSet, rows: Sequence[int]) -> list[str]:
    """Caption, otherwise class, otherwise key of items."""
    found = [(media.captions[row], media.labels[row], media.keys[row]) for row in map(media.resolve, rows)]
    return [caption or (key if label is None else media.classes[label]) for caption, label, key in found]


def sampling_of(system: System, draws: DrawSettings) -> SamplingConfig:
    """The sampling parameters in force."""
    return draws.sampling or system.default_sampling(bool(system.inputs))


def check_negative_text(system: System, draws: DrawSettings) -> None:
    """Raise :class:`InputError` for a negative text where no text describes an item, or guidance is off."""
    if not takes_negative_text(system):
        raise InputError(f"{system.name} reads no text that describes an item: leave out {{negative_text}}", [NEGATIVE_TEXT])
    check_guided(sampling_of(system, draws))


def drawing(system: System, draws: DrawSettings) -> JSON:
    """The sampling parameters in force, for a report."""
    sampling = sampling_of(system, draws)
    evaluations = sampling.num_inference_steps or getattr(system.generator and system.generator.head, "steps", None)
    order = None if system.recipe.order is None else system.recipe.order.model_dump(mode="json")
    negative: JSON = {"negative_text": draws.negative_text} if draws.negative_text else {}
    negative |= {"stages": stages} if (stages := stage_names(system.recipe)) else {}
    negative |= {} if system.weaker is None else {"autoguidance": system.weaker.name}
    drawn = {"steps": None, **negative, **sampling.model_dump(mode="json", exclude_none=True), "num_inference_steps": evaluations}
    return {"seed": draws.seed, "order": order, **{name: value for name, value in drawn.items() if value is not None or name == "steps"}}
