"""The sampling loop that every order, backbone and head goes through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.config.sampling import Lazy, SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.generation.branches import Branches
from jielong.generation.callbacks import EventEmitter, StepCallback
from jielong.generation.plan import SequencePlan
from jielong.generation.state import SamplerState
from jielong.heads.base import HeadContext, SampleOutput, Source, StateCallback, ignore_state
from jielong.networks.backbone import BackboneCache
from jielong.networks.embedding import SoftCodeEmbedding
from jielong.networks.lazy import LazyCache
from jielong.orders.base import Step
from jielong.orders.pace import plan_steps, reveal_queue

if TYPE_CHECKING:
    from jielong.generation.generator import Generator


@dataclass(frozen=True)
class BlockStep:
    """One step of a block.

    Attributes:
        span: The block's positions.
        coords: Their coordinates, ``(n, axes)``.
        step: How many positions are hidden before and after it.
        index: The step among those of all blocks, from 0.
        progress: Fraction of the steps done before it, in [0, 1]: 0 at the first, 1 at the last (and at an only one).
        known: Fraction of the positions known before it, in [0, 1).
        config: Sampling parameters of the step.
        guidance: Guidance scale.
    """

    span: slice
    coords: Tensor
    step: Step
    index: int
    progress: float
    known: float
    config: SamplingConfig
    guidance: float


@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws one batch; all that changes on the way is a :class:`SamplerState`.

    Attributes:
        model: The generator.
        plan: The positions to walk through, block by block.
        config: Sampling parameters.
        rows: The number of each item, on which its random numbers depend.
        seed: The other number that they depend on.
        weaker: A generator of the same tokens that takes the place of the null condition in guidance (autoguidance, arXiv 2406.02507).
        strength: Of an edit; see :meth:`Order.redrawn` and :attr:`Source.strength`.
    """

    model: Generator
    plan: SequencePlan
    config: SamplingConfig
    rows: Sequence[int]
    seed: int
    weaker: Generator | None = None
    strength: float = 1.0

    @cached_property
    def soft(self) -> SoftCodeEmbedding | None:
        """The embedding that takes soft codes, where these are drawn."""
        return self.model.soft_embedding if self.config.soft_codes else None

    # --- the state before the first step ------------------------------------------------------------------------------------------

    def start(
        self, conditions: Sequence[object] | None, lengths: Tensor | None = None, negatives: Sequence[object | None] | None = None
    ) -> SamplerState:
        """The state before the first step.

        Args:
            conditions: A raw condition per item.
            lengths: Tokens of each item, ``(B,)``, where they are given.
            negatives: A raw condition per item in place of the null in guidance.
        """
        model, plan, device, batch = self.model, self.plan, self.model.device, len(self.rows)
        discrete, channels = plan.layout.discrete and self.soft is None, plan.layout.channels if self.soft is None else self.soft.dim
        shape, needed = (batch, plan.layout.positions, channels), self._needed_from(0.0)
        branches = 1 if not needed or self.weaker is not None else 2 if self.config.image_guidance == 1.0 else 3
        state = SamplerState(
            values=torch.full(shape, plan.pad, dtype=torch.long if discrete else torch.float32, device=device),
            known=torch.zeros(shape[:2], dtype=torch.bool, device=device),
            lengths=torch.full((batch,), plan.tokens.positions) if lengths is None else lengths.clone(),
            branches=branches,
            rng=PerSampleRNG(self.seed, self.rows, device),
            positions=model.position_vectors(plan),
        )
        state.open_ended = lengths is None and model.durations.ends_items
        if state.open_ended and not plan.padding_last:
            state.attention_mask = torch.ones_like(state.known)
        state.exclude(plan.present(None, batch), plan.pad)
        if model.condition is not None:
            state.conditioning = Branches(model.condition, self.rows, self.seed).of(conditions, negatives, branches)
        state.aligned = self._aligned(state)
        state.cache = self._cache(state)
        if needed and self.weaker is not None:
            alone = self.config.unconditional()
            state.weaker = replace(self, model=self.weaker, config=alone, weaker=None).start(conditions, lengths)
        return state

    def _aligned(self, state: SamplerState, prompt: Tensor | None = None) -> Tensor | None:
        prompt = None if prompt is None else prompt.repeat(state.branches, 1, 1)
        return self.model.added(state.conditioning, state.lengths.repeat(state.branches), self.plan, prompt)

    def _cache(self, state: SamplerState) -> BackboneCache | None:
        backbone, layout, config = self.model.backbone, self.plan.layout, self.config
        positions, lazy = layout.positions, config.lazy
        if config.window is not None:
            positions = self.model.order.span_of_window(layout, config.window)
        prefix = 0 if state.conditioning is None else state.conditioning.states.shape[1]
        height = state.branches * len(state)
        if lazy is None:
            return backbone.new_cache(height, positions, prefix, device=state.values.device) if self.config.cache else None
        queue = self.model.order.queue(~state.known, PerSampleRNG(0, range(len(state)), state.known.device))
        if queue is None or len(self.plan.spans) > 1:
            raise ValueError(
                "lazy steps need an order that reveals inside one block and chooses before it draws: order: {masked: {choose: random}}"
            )
        return backbone.new_lazy_cache(lazy, height, positions, prefix)

    def keep(self, state: SamplerState, values: Tensor, known: Tensor) -> None:
        """Start from known tokens: values ``(B, N, C)`` and known ``(N,)`` bool, of the tokenizer's positions or the first of them."""
        plan, head, device = self.plan, self.model.head, state.values.device
        values, known = values[:, : plan.tokens.positions].to(device), known[: plan.tokens.positions].to(device)
        if first := int(known.int().cumprod(0).sum()):
            state.aligned = self._aligned(state, values[:, :first])
        kept = ~self.model.order.redrawn(plan.tokens, (~known).expand(len(state), -1), self.strength, state.rng)  # (B, T)
        entries = kept[:, plan.times.clamp_min(0).to(device)] & (plan.times >= 0).to(device)  # (B, N, C)
        if self.soft is not None:
            values, entries = self.soft.vectors(values), entries[..., :1]
        state.keep(plan.build(values), entries.expand_as(state.values))
        if head.joint and head.edits:
            state.source = plan.build(values)

    # --- one pass of the backbone -------------------------------------------------------------------------------------------------

    def hidden(self, state: SamplerState, start: int, stop: int, commit: bool) -> Tensor:
        """Hidden vectors of positions ``start`` to ``stop``: ``(B, n, D)``, or of all branches, ``(2B, n, D)``."""
        first = 0 if state.cache is None else start  # without a cache everything up to here is computed again
        hidden = self._forward(state, slice(first, stop), state.cache, commit, state.branches)
        return hidden[:, start - first :] if state.cache is None else hidden

    def _forward(self, state: SamplerState, span: slice, cache: BackboneCache | None, commit: bool, branches: int) -> Tensor:
        """The backbone at the positions ``span``, for all branches or the conditional one."""
        model, plan, known = self.model, self.plan, state.known[:, span]
        embeddings = model.embeddings(state.values, state.known, span, state.positions)
        mask = None if state.attention_mask is None else state.attention_mask[:, span]
        if branches > 1:
            embeddings, known = embeddings.repeat(branches, 1, 1), known.repeat(branches, 1)
            mask = None if mask is None else mask.repeat(branches, 1)
        if state.aligned is not None:
            embeddings = embeddings + state.aligned[: len(embeddings), span]
        conditioning = None if cache is not None and cache.started else state.conditioning
        inputs = plan.inputs(embeddings, span)
        inputs = replace(inputs, conditioning=conditioning, known=known, attention_mask=mask, window=self.config.window)
        return model.backbone(inputs, cache, commit)

    def _lazy_hidden(self, state: SamplerState, lazy: Lazy, step: int, wanted: Tensor) -> Tensor:
        """As :meth:`hidden`, of all positions; up to date are those at ``wanted`` ``(B, k)``, and all of them in a fresh step."""
        cache, batch, everything = state.cache, len(state), slice(0, state.known.shape[1])
        assert isinstance(cache, LazyCache)
        fresh = lazy.fresh(step)
        halved = state.guided and lazy.condition and not fresh
        cache.next(fresh, wanted.repeat(state.branches, 1))
        part = cache.rows(slice(0, batch)) if halved else cache
        hidden = self._forward(state, everything, part, True, 1 if halved else state.branches)
        if not state.guided:
            return hidden
        if halved and state.difference is not None:
            return torch.cat([hidden, hidden + state.difference])
        state.difference = hidden[batch:] - hidden[:batch]
        return hidden

    # --- the loop -----------------------------------------------------------------------------------------------------------------

    def steps(self, state: SamplerState, on_step: StepCallback | None = None) -> Iterator[None]:
        """Draw block by block, and inside a block step by step; ``on_step`` is called after each."""
        order, plan, total = self.model.order, self.plan, self.plan.layout.positions
        coords = [plan.coords[a:b] for a, b in plan.spans]
        planned = [plan_steps(order, self.config, at, ~state.known[:, a:b]) for at, (a, b) in zip(coords, plan.spans, strict=True)]
        done, last = 0, sum(map(len, planned)) - 1  # of the longest possible item, so that no item depends on the lengths of others
        first = next((start for (start, _), steps in zip(plan.spans, planned, strict=True) if steps), 0)
        if bool((state.lengths < plan.tokens.positions).any()):
            state.exclude(plan.present(state.lengths, len(state)), plan.pad)
        events = None if on_step is None else EventEmitter(self, state, on_step)
        for (start, stop), steps, at in zip(plan.spans, planned, coords, strict=True):
            span = slice(start, stop)
            if steps and bool(state.known[:, span].all()):
                continue  # every item has ended
            if state.attention_mask is not None and stop > start + 1:
                # Items that ended beside longer ones have drawn more numbers than they would have alone: reseed all in the same way.
                state.rng = PerSampleRNG(self.seed + (start << 32), self.rows, state.rng.device)
            queue = reveal_queue(order, self.config, at, ~state.known[:, span], state.rng) if steps else None
            for step in steps:
                progress, known = done / last if last else 1.0, (stop - step.hidden_before) / total
                after = min(total - 1, stop - step.hidden_after) / total  # MAR's code counts a hidden token after the last step too
                scale = self._guidance(state, known, progress, after)
                config = order.sampling_at(plan.layout, start, step, self.config, first)
                current = BlockStep(span, at, step, done, progress, known, config, scale)
                if queue is None:
                    self._draw_block(state, current, ignore_state if events is None else partial(events.state, span, scale))
                else:
                    self._draw_at(state, current, queue[:, queue.shape[1] - step.hidden_before : queue.shape[1] - step.hidden_after])
                done += 1
                if events is not None:
                    events.step(scale)
                yield
            if state.cache is not None and stop < total and (not steps or not order.shifted):
                # Later blocks must see this one clean (or, when it was given whole, at all).
                self.hidden(state, start, stop, commit=True)

    def _guidance(self, state: SamplerState, known: float, progress: float, after: float) -> float:
        """The scale at a step; the unconditional half is dropped once no later step needs it."""
        if state.guided and not self._needed_from(known):
            state.drop_unconditional()
        return self.config.guidance.at(known, progress, after) if state.guided or state.weaker is not None else 1.0

    def _needed_from(self, known: float) -> bool:
        """Whether guidance is needed now or later, when a share ``known`` of the tokens is known."""
        return self.config.guidance.needed_from(known) or self.config.image_guidance != 1.0

    def _guidance_inside(self, at: BlockStep, share: float) -> float:
        """The scale while a joint head draws a block, whose tokens are known to a ``share``."""
        drawn = (at.step.hidden_before - at.step.hidden_after) / self.plan.layout.positions
        return self.config.guidance.at(at.known + share * drawn, at.progress)

    def _draw_block(self, state: SamplerState, at: BlockStep, on_state: StateCallback) -> None:
        """Draw at every position of a block, and keep what the order reveals."""
        order, span, step = self.model.order, at.span, at.step
        hidden = self.hidden(state, span.start, span.stop, commit=order.shifted)
        self._end(state, span, hidden)
        given = None
        if self.model.head.sequential_codebooks and state.fixed is not None:
            given = state.values[:, span].masked_fill(~state.fixed[:, span], -1)
        drawn = self._sample(state, hidden, state.rng, at, given, on_state)
        if step.hidden_before == span.stop - span.start and step.hidden_after == 0:  # all at once, as one token after the other is
            state.write(span, drawn.values)
        else:
            state.write(span, drawn.values, order.reveal(step, ~state.known[:, span], drawn.confidence, state.rng))

    def _draw_at(self, state: SamplerState, at: BlockStep, chosen: Tensor) -> None:
        """Draw at ``chosen`` positions ``(B, k)`` of a block; the naive reference draws at all, with the same random numbers there."""
        span, rng, cached = at.span, state.rng, self.config.cache
        if self.config.lazy is not None:
            hidden = self._lazy_hidden(state, self.config.lazy, at.index, chosen)
        else:
            hidden = self.hidden(state, span.start, span.stop, commit=self.model.order.shifted)
        if cached:
            hidden = _at(hidden, chosen.repeat(state.branches, 1))
        else:
            rng = rng.laid_out(chosen, span.stop - span.start)
        values = self._sample(state, hidden, rng, at).values
        values, positions = values if cached else _at(values, chosen), chosen + span.start
        state.values.scatter_(1, positions[..., None].expand_as(values), values.to(state.values.dtype))
        state.known.scatter_(1, positions, True)

    def _sample(
        self,
        state: SamplerState,
        hidden: Tensor,
        rng: PerSampleRNG,
        at: BlockStep,
        given: Tensor | None = None,
        on_state: StateCallback = ignore_state,
    ) -> SampleOutput:
        """Tokens at hidden vectors, of which the second half may be the unconditional ones."""
        head, size = self.model.head, len(state)
        null, blank = hidden[size : 2 * size] if state.branches > 1 else None, hidden[2 * size :] if state.branches > 2 else None
        coords = at.coords if hidden.shape[1] == len(at.coords) else None  # of a whole block, as joint heads draw it
        condition, other, neither = state.conditions
        strength = self.model.order.head_strength(self.strength)
        source = None if state.source is None else Source(state.source[:, at.span], state.known[:, at.span], strength)
        context = HeadContext(null, at.guidance, at.known, at.progress, coords, None, condition, other, given, source, on_state)
        if blank is not None:
            context = replace(context, blank=blank, blank_condition=neither, image_guidance=self.config.image_guidance)
        if state.weaker is not None and self.weaker is not None:
            other_hidden = replace(self, model=self.weaker, weaker=None).hidden(state.weaker, at.span.start, at.span.stop, commit=False)
            context = replace(context, null=other_hidden, null_condition=state.weaker.conditioning, weaker=self.weaker.head)
        if head.joint and context.null is not None:
            context = replace(context, guidance_at=partial(self._guidance_inside, at), rescale=self.config.guidance_rescale)
        if self.soft is None:
            return head.sample(hidden[: len(state)], rng, at.config, context)
        return SampleOutput(self.soft.mix(head.soft_codes(hidden[: len(state)], rng, at.config, context)))

    def _end(self, state: SamplerState, span: slice, hidden: Tensor) -> None:
        """End the items that are finished before a token of the block ``span`` is drawn."""
        if not state.open_ended or (token := int(self.plan.times[span.start, 0])) < 1:
            return
        given = state.known[:, span.start] if state.fixed is None else state.fixed[:, span.start, 0]
        over = (self.model.durations.finished(hidden[: len(state), 0]) & ~given).cpu() & (state.lengths > token)
        if bool(over.any()):
            state.lengths[over] = token
            if state.attention_mask is not None and state.cache is not None:
                self.model.backbone.mask_last(state.cache, over.repeat(state.branches))
            state.exclude(self.plan.present(state.lengths, len(state)), self.plan.pad)

    def unended(self, state: SamplerState) -> int:
        """How many items could have ended by themselves and are as long as can be."""
        return int((state.lengths >= self.plan.tokens.positions).sum()) if state.open_ended else 0

    # --- tokens in the tokenizer's layout -----------------------------------------------------------------------------------------

    def tokens(self, state: SamplerState) -> tuple[Tensor, Tensor]:
        """Tokens so far and which of them are known, ``(B, N, C)`` and ``(B, N)``, at all of the tokenizer's positions."""
        return self._of_tokenizer(state.values, state.known)

    def tokens_with(self, state: SamplerState, span: slice, block: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`tokens`, with an intermediate state ``(B, n, C)`` of the block ``span``, as if that were known."""
        values, known = state.values.clone(), state.known.clone()
        values[:, span], known[:, span] = state.merged(span, block), True
        return self._of_tokenizer(values, known)

    def _of_tokenizer(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        plan, count = self.plan, (self.model.layout if self.config.frames is None else self.plan.tokens).positions
        if plan.pattern is not None:
            values, known = plan.undo(values), plan.undo(known[..., None].expand_as(values)).all(-1)
            values = values.masked_fill(values == plan.pad, 0)
        missing = count - values.shape[1] if self.soft is None else 0
        return F.pad(values, (0, 0, 0, missing)), F.pad(known, (0, missing), value=True)

    def complete(self, state: SamplerState) -> int:
        """How many tokens, from the first on, are known of all items, up to the end of the longest."""
        known = self.tokens(state)[1].all(0)
        return min(int(known.int().cumprod(0).sum()), int(state.lengths.max()))


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, k)`` of ``(B, n, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
