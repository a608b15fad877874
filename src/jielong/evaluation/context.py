"""What is measured, on what, and how it draws; what every kind of evaluation is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from jielong.conditions.inputs import HeldoutItems
from jielong.config.guidance import Guidance
from jielong.core.tokens import Tokens
from jielong.data.opening import MediaSet
from jielong.data.sounds import AudioSet
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.scorer import Scorer
from jielong.heads.base import SamplingConfig
from jielong.system import System

CANDIDATES = 100
"""Captions that a picture is shown with, in retrieval."""
BATCH = 64

Progress = Callable[[str, int, int], None]
"""What is being done, how many items are done, and how many there are."""


@dataclass(frozen=True)
class DrawSettings:
    """How items are drawn for an evaluation; ``None`` is the recipe's own setting.

    ``length``, of generators of sound that know of lengths: ask for so many times the real recording's length.
    """

    seed: int = 0
    steps: int | None = None
    guidance: Guidance | float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    num_inference_steps: int | None = None
    final_inference_steps: int | None = None
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
    def sounds(self) -> AudioSet:
        """The set, which holds sound."""
        if not isinstance(self.media, AudioSet):
            raise ValueError(f"{self.media.name} holds pictures, not sound")
        return self.media

    @property
    def clips(self) -> list[Tensor]:
        """Real sound without the silence behind its end, ``(C, T)`` each."""
        return [clip[:, : self.sounds.length(row)] for clip, row in zip(self.real, self.rows, strict=True)]

    def items(self, prompts: Sequence[Tensor | None] | None = None) -> HeldoutItems:
        """The items, with other recordings of their speakers as ``prompts``."""
        words = self.media.words(self.rows, torch.empty(len(self.rows), 0, 0))
        batch, scale = replace(words, media=self.real, tokens=None), 1.0 if self.draws.length is None else self.draws.length
        return HeldoutItems(self.media.name, batch, self.media.classes, self.system.tokenizer.media, prompts, scale)

    def conditions(self, prompts: Sequence[Tensor | None] | None = None) -> list[Any] | None:
        """Values of the generator's condition for each item.

        Raises:
            ValueError: if the set lacks an input of the condition.
        """
        settings = self.system.recipe.condition
        return None if settings is None else settings.from_heldout(self.items(prompts))

    def draw(self, conditions: list[Any] | None, **options: Any) -> Tokens:
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
            steps=self.draws.steps,
            guidance=guidance_of(self.system, self.draws),
            sampling=sampling_of(self.system, self.draws),
            batch=BATCH,
            on_step=tick,
            **options,
        )


def sampling_of(system: System, draws: DrawSettings) -> SamplingConfig:
    """How boldly a generator draws."""
    return system.sampling(**{each.name: getattr(draws, each.name) for each in fields(SamplingConfig)})


def guidance_of(system: System, draws: DrawSettings) -> Guidance:
    """How strongly it follows what it is told."""
    if draws.guidance is not None:
        return draws.guidance if isinstance(draws.guidance, Guidance) else Guidance(scale=draws.guidance)
    return system.recipe.sampling.guidance if system.inputs else Guidance()


def drawing(system: System, draws: DrawSettings) -> dict[str, Any]:
    """The sampling settings in force, with the recipe's own where nothing else was said."""
    own, sampling = system.recipe.sampling, sampling_of(system, draws)
    evaluations = sampling.num_inference_steps or getattr(system.generator and system.generator.head, "steps", None)
    return {
        "seed": draws.seed,
        "steps": own.steps if draws.steps is None else draws.steps,
        "order": system.recipe.order.model_dump(mode="json") if system.recipe.order is not None else None,
        "guidance": guidance_of(system, draws).model_dump(mode="json"),
        **{name: value for name, value in (asdict(sampling) | {"num_inference_steps": evaluations}).items() if value is not None},
        **{name: option for name, option in own.model_dump(mode="json", include=set(own.speed)).items() if option is not None},
    }
