"""A checked request for tokens, and how its items are batched."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.conditions.inputs import InputError
from jielong.conditions.text import NEGATIVE_TEXT
from jielong.config.sampling import SamplingConfig
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepCallback
from jielong.generation.extent import extended, layout_of, lengthened
from jielong.generation.plan import SequencePlan
from jielong.generation.sampler import Sampler
from jielong.generation.state import SamplerState
from jielong.orders.base import Step

if TYPE_CHECKING:
    from jielong.generation.generator import Generator


@dataclass(frozen=True, eq=False)
class SamplingRequest:
    """What :meth:`Generator.generate` was called with, checked.

    Attributes:
        model: The generator.
        conditions: A raw condition per item, or ``None``.
        count: Items.
        config: Sampling parameters.
        seed: Seed of the random numbers.
        lengths: Tokens of each item, ``(count,)``, where they are given or predicted.
        start: Tokens of which the ``known`` positions are kept.
        known: ``(N,)`` bool.
        negatives: A raw condition per item in place of the null in guidance, ``None`` for the null; or ``None``.
        indices: Number of each item, on which its random numbers depend; 0, 1, ... by default.
        weaker: A generator of the same tokens in place of the null condition in guidance.
        strength: Of an edit of ``start``, in (0, 1].
    """

    model: Generator
    conditions: Sequence[object] | None
    count: int
    config: SamplingConfig
    seed: int
    lengths: Tensor | None = None
    start: Tokens | None = None
    known: Tensor | None = None
    indices: Sequence[int] | None = None
    negatives: Sequence[object | None] | None = None
    weaker: Generator | None = None
    strength: float = 1.0

    @staticmethod
    def of(
        model: Generator,
        conditions: Sequence[object] | None,
        count: int | None,
        config: SamplingConfig,
        *,
        seed: int = 0,
        batch: int | None = None,
        lengths: Sequence[int] | None = None,
        start: Tokens | None = None,
        known: Tensor | None = None,
        indices: Sequence[int] | None = None,
        negatives: Sequence[object | None] | None = None,
        weaker: Generator | None = None,
        strength: float = 1.0,
    ) -> SamplingRequest:
        """Check the arguments of :meth:`Generator.generate`, and predict lengths that are not given."""
        if model.training:
            raise ValueError("this generator is in training mode, in which dropout is on: call eval() before it generates")
        if isinstance(conditions, str):
            raise ValueError(f"conditions are a list with one condition an item: write [{conditions!r}]")
        if conditions is not None and len(conditions) == 0:
            raise ValueError("no conditions are given: give one an item, or None to generate without a condition")
        count = len(conditions) if conditions is not None else 1 if count is None else count
        for name, number in (("count", count), ("batch", batch)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be 1 or more, not {number}")
        check_config(model, config, conditions is not None, weaker is not None)
        config, layout = extended(model, config), layout_of(model, config)
        _check_weaker(model, config, weaker, negatives)
        if start is not None and len(start) == 1:
            start = Tokens(start.values.expand(count, -1, -1), start.layout)  # every item begins with it
        if start is None and known is None and model.condition is not None and conditions is not None:
            start, known = model.condition.start(conditions) or (None, None)
        start, known = lengthened(layout, start, known)
        _check_start(layout, count, start, known, strength)
        model.order.check_known(layout, known)
        negatives = _checked_negatives(model, config, count, negatives)
        if model.condition is not None and conditions is not None:
            conditions = [model.condition.resolve(value) for value in conditions]  # they are prepared twice: for lengths, and to draw
        if lengths is None and conditions is not None and known is None:
            lengths = _predicted_lengths(model, conditions, batch or len(conditions))
        given = None if lengths is None else _checked_lengths(model, lengths, count, known)
        if indices is not None and len(indices) != count:
            raise ValueError(f"`indices`: expected {count} values, one per item, got {len(indices)}")
        return SamplingRequest(model, conditions, count, config, seed, given, start, known, indices, negatives, weaker, strength)

    @torch.inference_mode()
    def run(self, size: int, on_step: StepCallback | None = None) -> Tokens:
        """Draw all items, ``size`` at a time."""
        values, ends, rows, unended = list[Tensor](), list[Tensor](), [row for part in self._rows(size) for row in part], 0
        for sampler, state in self.batches(size):
            for _ in sampler.steps(state, on_step):
                pass
            values.append(sampler.tokens(state)[0])
            ends.append(state.lengths)
            unended += sampler.unended(state)
        warn_unended(unended, self)
        order, layout = torch.tensor(rows).argsort(), layout_of(self.model, self.config)
        drawn = torch.cat(values)[order.to(self.model.device)]
        if self.config.soft_codes:
            layout = replace(layout, channels=drawn.shape[2], vocabulary=None)
        timed = self.model.durations.ends_items or self.lengths is not None
        return Tokens(drawn, layout, torch.cat(ends)[order] if timed else None)

    @torch.inference_mode()
    def batches(self, size: int) -> Iterator[tuple[Sampler, SamplerState]]:
        """A sampler and its first state for each batch of at most ``size`` items."""
        for rows in self._rows(size):
            conditions = None if self.conditions is None else [self.conditions[row] for row in rows]
            lengths = None if self.lengths is None else self.lengths[rows]
            numbers = rows if self.indices is None else [self.indices[row] for row in rows]
            sampler = Sampler(self.model, self._plan(lengths), self.config, numbers, self.seed, self.weaker, self.strength)
            state = sampler.start(conditions, lengths, None if self.negatives is None else [self.negatives[row] for row in rows])
            if self.start is not None and self.known is not None:
                sampler.keep(state, self.start.values[rows], self.known)
            yield sampler, state

    def _rows(self, size: int) -> list[list[int]]:
        """Which items are computed together: those of one length, unless what an item does not have comes last anyway."""
        rows: list[list[int]] = [list(range(self.count))]
        if self.lengths is not None and not self.model.plan.padding_last:
            rows = [(self.lengths == length).nonzero()[:, 0].tolist() for length in self.lengths.unique().tolist()]
        return [part[first : first + size] for part in rows for first in range(0, len(part), size)]

    def _plan(self, lengths: Tensor | None) -> SequencePlan:
        """The plan of a batch: a shorter one where all its items are of one length that the order must not see behind."""
        plan = self.model.plan
        if self.config.frames is not None:
            return self.model.shortened_plan(self.config.frames)
        return plan if lengths is None or plan.padding_last else self.model.shortened_plan(int(lengths[0]))


def warn_unended(count: int, request: SamplingRequest) -> None:
    """Warn of items that the stop head has not ended by the greatest length."""
    if count:
        most = request.model.layout.positions
        warnings.warn(f"{count} of {request.count} items did not end by themselves: they stop at {most} tokens, the longest", stacklevel=4)


def check_config(model: Generator, config: SamplingConfig, conditioned: bool, autoguided: bool = False) -> None:
    """Raise ``ValueError`` for sampling parameters that the generator does not have."""
    if model.condition is None and conditioned:
        raise ValueError("this generator was trained without a condition: ask for a count, not for texts or classes")
    if config.guidance.scale != 1.0 and not conditioned and not autoguided:
        raise ValueError("guidance needs a condition to follow: give texts or classes, or leave guidance at 1")
    _check_image_guidance(model, config, conditioned, autoguided)
    if config.guidance_rescale and config.guidance.scale == 1.0:
        raise ValueError("guidance_rescale changes guided predictions, and guidance is off (1): leave it at 0, or set guidance, such as 3")
    if config.soft_codes and model.soft_embedding is None:
        raise ValueError("soft_codes feeds mixtures of codes to the next scale: it is for the order next_scale")
    if config.lazy is not None and not config.cache:
        raise ValueError("lazy steps keep what they computed, and cache=False computes everything at every step: give one of them")
    check_parts(model, config)


def check_parts(model: Generator, config: SamplingConfig) -> None:
    """Raise ``ValueError`` for sampling parameters that the order and the head, by themselves or together, do not have."""
    order, head, guidance = model.order, model.head, config.guidance
    order.check_sampling(config)
    head.check_sampling(config)
    if guidance.counted == "after" and (head.joint or head.whole):
        raise ValueError(
            f"guidance counted after a step is for tokens that are drawn step by step, and the {type(head).__name__} guides inside a draw "
            "of many: leave out guidance.counted"
        )
    last = model.plan.spans[-1][0]  # an order may change parameters on the way
    head.check_sampling(order.sampling_at(model.plan.layout, last, Step(0, 1, 1, 0), config))
    if order.gradual or len(model.plan.spans) > 1:
        return
    once = f"the {type(order).__name__} draws all tokens in one step"
    if config.final_inference_steps is not None:
        raise ValueError(
            f"final_inference_steps {config.final_inference_steps}: it is reached as tokens become known, and {once}: leave it out and set "
            "num_inference_steps"
        )
    inside = head.joint and head.guides_inside and guidance.kind != "ramp"
    if guidance.scale != 1.0 and guidance.kind != "constant" and not inside:
        follows = "grows from step to step" if guidance.kind == "ramp" else "follows how many tokens are known"
        raise ValueError(f"guidance of the kind {guidance.kind} {follows}, and {once}: give its scale alone, which is constant")


def _check_image_guidance(model: Generator, config: SamplingConfig, conditioned: bool, autoguided: bool) -> None:
    if config.image_guidance == 1.0:
        return
    if model.condition is None or not model.condition.keeps_a_part or not conditioned:
        raise ValueError(
            "image_guidance is the scale of a source picture beside that of a text, and this generator is given none: leave it at 1"
        )
    if config.lazy is not None or autoguided:
        other = "autoguidance" if autoguided else "lazy steps"
        raise ValueError(f"image_guidance compares three branches and {other} two: give one of them")
    if not model.head.guides_twice:
        raise ValueError(f"the {type(model.head).__name__} guides with one scale: leave image_guidance at 1")


def _check_weaker(model: Generator, config: SamplingConfig, weaker: Generator | None, negatives: Sequence[object | None] | None) -> None:
    if weaker is None:
        return
    if config.guidance.scale == 1.0:
        raise ValueError("autoguidance leads away from a weaker model, and guidance is off (1): set it, such as 2")
    if negatives is not None and any(value is not None for value in negatives):
        raise ValueError("autoguidance and a negative text take the place of the same null condition: give one of them")
    model.head.check_weaker(weaker.head)
    if len(model.plan.spans) > 1 or len(weaker.plan.spans) > 1:
        raise ValueError("autoguidance is for models that draw all tokens at once: order: at_once with a joint head")


def check_guided(config: SamplingConfig) -> None:
    """Raise :class:`InputError` for a negative text where guidance is off."""
    if config.guidance.scale == 1.0:
        raise InputError("{negative_text} is what guidance leads away from, and guidance is off (1): set it, such as 3", [NEGATIVE_TEXT])


def _checked_negatives(
    model: Generator, config: SamplingConfig, count: int, negatives: Sequence[object | None] | None
) -> list[object | None] | None:
    if negatives is None or model.condition is None or all(value is None for value in negatives):
        return None
    check_guided(config)
    if config.image_guidance != 1.0:
        raise ValueError("a negative text takes the place of the branch that image_guidance compares with: give one of them")
    if len(negatives) != count:
        raise ValueError(f"`negatives`: expected {count} values, one per item, got {len(negatives)}")
    return [None if value is None else model.condition.resolve(value) for value in negatives]


def _check_start(layout: Layout, count: int, start: Tokens | None, known: Tensor | None, strength: float) -> None:
    if not 0 < strength <= 1 or (strength < 1 and start is None):
        raise ValueError(f"`strength` is above 0 and at most 1, and below 1 only with tokens to `start` from; it is {strength}")
    if start is None or known is None:
        if start is not None or known is not None:
            raise ValueError("to complete tokens, give both `start` and the mask `known` of positions to keep")
        return
    if start.layout != layout or len(start) != count:
        raise ValueError(f"`start` must hold {count} items of layout {layout}, not {len(start)} of {start.layout}")
    if known.dtype != torch.bool or known.shape != (layout.positions,):
        raise ValueError(f"`known` must be bool ({layout.positions},), not {known.dtype} {tuple(known.shape)}")
    kept, size = start.values[:, known.to(start.values.device)], layout.vocabulary
    if size is not None and kept.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < size:
        raise ValueError(f"`start` must hold code indices in [0, {size}), but these span {int(kept.min())} to {int(kept.max())}")


def _checked_lengths(model: Generator, lengths: Sequence[int], count: int, known: Tensor | None) -> Tensor:
    if len(lengths) != count:
        raise ValueError(f"`lengths`: expected {count} values, one per item, got {len(lengths)}")
    model.layout.check_lengths(lengths)
    if known is not None and bool(known[min(lengths) :].any()):
        raise ValueError(f"`known` marks positions beyond length {min(lengths)}: shorten it, or give a greater length")
    return torch.tensor(list(lengths), dtype=torch.long)


@torch.inference_mode()
def _predicted_lengths(model: Generator, conditions: Sequence[object], batch: int) -> list[int] | None:
    """Tokens that each item's condition takes; ``None`` where nothing predicts them."""
    if model.condition is None or not model.durations.predicts_lengths:
        return None
    found: list[int] = []
    for first in range(0, len(conditions), batch):
        lengths = model.durations.predict_lengths(model.condition(model.condition.prepare(conditions[first : first + batch])))
        if lengths is None:
            return None
        found += lengths.round().clamp_min(1).long().tolist()
    most = model.layout.positions
    if over := sum(length > most for length in found):
        warnings.warn(f"{over} of {len(found)} items are cut at {most} tokens, the longest; up to {max(found)} are predicted", stacklevel=4)
    return [min(length, most) for length in found]
