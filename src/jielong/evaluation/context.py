"""What is measured, on what, and how it draws; what every kind of evaluation is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from jielong.conditions.inputs import HeldoutItems
from jielong.config.sampling import SamplingConfig
from jielong.core.tokens import Tokens
from jielong.data.sets import MediaSet
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.scorer import Scorer
from jielong.system import System

CANDIDATES = 100
"""Captions that a picture is shown with, in retrieval."""
BATCH = 64

Progress = Callable[[str, int, int], None]
"""What is being done, how many items are done, and how many there are."""


@dataclass(frozen=True)
class DrawSettings:
    """How items are drawn for an evaluation.

    Attributes:
        seed: Seed of the random numbers.
        sampling: Sampling parameters; the recipe's by default.
        length: Duration of each item relative to the real recording's, for generators of sound with durations.
    """

    seed: int = 0
    sampling: SamplingConfig | None = None
    length: float | None = None


@dataclass(frozen=True)
class EvalResult:
    """What one kind of evaluation found.

    Attributes:
        figures: The measurements that apply, by name.
        omitted: Those that do not, and why.
        drawn: More to tell of how items were drawn.
    """

    figures: dict[str, Measurement] = field(default_factory=dict)
    omitted: dict[str, str] = field(default_factory=dict)
    drawn: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalContext:
    """A system and what it is measured on.

    Attributes:
        system: A tokenizer or a generator.
        media: The set's held-out split, as the system reads it.
        rows: Which of its items.
        real: Those items, ``(n, C, H, W)`` or ``(n, C, T)``.
        draws: How a generator draws.
        report: Told how far it is.
        candidates: Captions to choose from in retrieval of pictures.
        scorer: Another judge of that retrieval than the shipped one.
        perception: Also what a network sees of a tokenizer's pictures.
        ceiling: Also the figures of real sound, and of sound that the tokenizer gave back, beside generated.
        source: The name or path by which the set was opened.
        without: Figures of generated sound that are not made.
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
    without: frozenset[str] = frozenset()

    @property
    def sounds(self) -> MediaSet:
        """The set, by the name that metrics of audio use."""
        return self.media

    @property
    def clips(self) -> list[Tensor]:
        """Real sound without the silence behind its end, ``(C, T)`` each."""
        return [clip[:, : self.sounds.length(row)] for clip, row in zip(self.real, self.rows, strict=True)]

    def items(self, prompts: Sequence[Tensor | None] | None = None) -> HeldoutItems:
        """The items, with other recordings of their speakers as ``prompts``."""
        words = self.media.tokenised(self.rows, torch.empty(len(self.rows), 0, 0))
        batch, scale = replace(words, media=self.real, tokens=None), 1.0 if self.draws.length is None else self.draws.length
        return HeldoutItems(self.media.name, batch, self.media.classes, self.system.tokenizer.media, prompts, scale)

    def conditions(self, prompts: Sequence[Tensor | None] | None = None) -> Sequence[object] | None:
        """Values of the generator's condition for each item.

        Raises:
            ValueError: if the set lacks an input of the condition.
        """
        settings = self.system.recipe.condition
        return None if settings is None else settings.from_heldout(self.items(prompts))

    def draw(self, conditions: Sequence[object] | None, **options: Any) -> Tokens:
        """Tokens, an item a row."""
        done = 0

        def tick(moment: Any) -> None:
            # A batch's last step makes its last tokens known.
            nonlocal done
            if bool(moment.known.all()):
                done += len(moment.known)
                self.report("generating", done, len(self.rows))

        return self.system.generate_tokens(
            conditions,
            len(self.rows),
            seed=self.draws.seed,
            sampling=sampling_of(self.system, self.draws),
            batch=BATCH,
            on_step=tick,
            **options,
        )


def sampling_of(system: System, draws: DrawSettings) -> SamplingConfig:
    """The sampling parameters in force."""
    return draws.sampling or system.default_sampling(bool(system.inputs))


def drawing(system: System, draws: DrawSettings) -> dict[str, Any]:
    """The sampling parameters in force, for a report."""
    sampling = sampling_of(system, draws)
    evaluations = sampling.num_inference_steps or getattr(system.generator and system.generator.head, "steps", None)
    order = None if system.recipe.order is None else system.recipe.order.model_dump(mode="json")
    drawn = {"steps": None, **sampling.model_dump(mode="json", exclude_none=True), "num_inference_steps": evaluations}
    return {"seed": draws.seed, "order": order, **{name: value for name, value in drawn.items() if value is not None or name == "steps"}}
