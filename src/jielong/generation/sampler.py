"""The state of one batch while it is generated, and the loop that every order, backbone and head goes through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.config.guidance import Guidance
from jielong.config.speed import Lazy
from jielong.core.rng import PerSampleRNG
from jielong.generation.callbacks import EventEmitter, StepCallback
from jielong.generation.plan import SequencePlan
from jielong.heads.base import HeadContext, SampleOutput, SamplingConfig, StateCallback, ignore_state
from jielong.networks.backbone import BackboneCache, BackboneInputs
from jielong.networks.cache import Cache
from jielong.networks.conditioning import Conditioning
from jielong.networks.lazy import LazyCache
from jielong.orders.base import Step
from jielong.orders.pace import Pace

if TYPE_CHECKING:
    from jielong.generation.generator import Generator


@dataclass(frozen=True)
class Manner:
    """How a chain draws.

    Attributes:
        guidance: How strongly to follow the condition.
        sharpness: How boldly to draw.
        pace: How fast.
        cached: Whether keys and values of earlier blocks are kept.
        smooth: Whether codes are mixed.
        lazy: What lazy steps compute, if they are asked for.
    """

    guidance: Guidance = field(default_factory=Guidance)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    pace: Pace = field(default_factory=Pace)
    cached: bool = True
    smooth: bool = False
    lazy: Lazy | None = None


class Chain:
    """One batch.

    Args:
        model: The generator.
        course: What is walked along.
        conditions: A raw condition an item.
        rows: The number of each item, of which its random numbers depend.
        seed: The other thing that they depend on.
        manner: How to draw.
        lengths: Tokens of each item, where they are asked for.
    """

    def __init__(
        self,
        model: Generator,
        plan: SequencePlan,
        conditions: Sequence[Any] | None,
        rows: Sequence[int],
        seed: int,
        manner: Manner,
        lengths: Tensor | None = None,
    ) -> None:
        self.model, self.plan, self.manner = model, plan, manner
        layout, device, batch = plan.layout, model.placeholder.device, len(rows)
        self.seed, self.rows, self.rng = seed, rows, PerSampleRNG(seed, rows, device)
        mixer: Any = model.embedding
        self.mixer = mixer if manner.smooth else None
        dtype = torch.long if layout.discrete and not manner.smooth else torch.float32
        channels = mixer.dim if manner.smooth else layout.channels
        self.values = torch.full((batch, layout.positions, channels), plan.nothing, dtype=dtype, device=device)
        self.known = torch.zeros(batch, layout.positions, dtype=torch.bool, device=device)
        self.fixed: Tensor | None = None  # (B, N, C): entries that are given, or that there are not
        self.asked_lengths = lengths
        self.lengths = torch.full((batch,), plan.tokens.positions) if lengths is None else lengths.clone()
        self.ends = model.stop is not None and lengths is None
        self.real: Tensor | None = None  # (B, N): positions that each item has, where others must be told so
        if self.ends and not plan.padding_last:
            self.real = torch.ones_like(self.known)
        self._leave_out(plan.present(None, batch))
        self.places = model.places_at(plan)
        self.doubled = manner.guidance.needed_from(0.0)
        self.conditioning = self._conditioning(conditions, batch)
        halves = 2 if self.doubled else 1
        self.along = model.along(self.conditioning, self.lengths.repeat(halves), plan)  # (B or 2B, N, D)
        prefix = 0 if self.conditioning is None else self.conditioning.states.shape[1]
        height = 2 * batch if self.doubled else batch
        self.cache: BackboneCache | None = None
        if manner.lazy is not None:
            self.cache = self._new_lazy_cache(manner.lazy, height, prefix)
        elif manner.cached:
            self.cache = model.backbone.new_cache(height, layout.positions, prefix, device=device)
        self.apart: Tensor | None = None  # of lazy steps: unconditional minus conditional hidden vectors

    def _new_lazy_cache(self, lazy: Lazy, height: int, prefix: int) -> LazyCache:
        order, layout = self.model.order, self.plan.layout
        resolve = order.queue(~self.known, PerSampleRNG(0, range(len(self.known)), self.known.device))
        if resolve is None or len(self.plan.spans) > 1:
            raise ValueError(
                "lazy steps need an order that reveals inside one block and chooses before it draws: order: {masked: {choose: random}}"
            )
        return self.model.backbone.new_lazy_cache(lazy, height, layout.positions, prefix)

    def _conditioning(self, conditions: Sequence[Any] | None, batch: int) -> Conditioning | None:
        condition = self.model.condition
        if condition is None:
            return None
        if conditions is None:
            return condition.unconditional(batch)
        given = condition(condition.prepare(conditions))
        return Conditioning.cat(given, condition.unconditional(batch)) if self.doubled else given

    # --- what is known from the beginning, and what there is not ------------------------------------------------------------------

    def keep(self, values: Tensor, known: Tensor) -> None:
        """Start from known tokens: values ``(B, N, C)`` and known ``(N,)`` bool, of the tokenizer's positions or the first of them."""
        count = self.plan.tokens.positions
        values, known = values[:, :count].to(self.values.device), known[:count]
        if first := int(known.int().cumprod(0).sum()):
            halves = 2 if self.doubled else 1
            lengths, heard = self.lengths.repeat(halves), values[:, :first].repeat(halves, 1, 1)
            self.along = self.model.along(self.conditioning, lengths, self.plan, heard)
        if self.mixer is not None:
            values = self.mixer.vectors(values)
        entries = known.cpu()[self.plan.times.clamp_min(0)] & (self.plan.times >= 0)  # (N, C)
        if self.mixer is not None:
            entries = entries[:, :1]
        entries = entries.to(self.values.device).expand_as(self.values)
        self.values = torch.where(entries, self.plan.build(values).to(self.values), self.values)
        self.fixed = entries.clone() if self.fixed is None else self.fixed | entries
        self.known = self.fixed.all(-1)

    def _leave_out(self, present: Tensor | None) -> None:
        """Draw nothing where an item has nothing; ``present`` is ``(B, N, C)`` bool."""
        if present is None:
            return
        absent = ~present.to(self.values.device)
        self.values = self.values.masked_fill(absent, self.plan.nothing)
        self.fixed = absent if self.fixed is None else self.fixed | absent
        self.known = self.known | self.fixed.all(-1)
        if self.real is not None:
            self.real = present.any(-1).to(self.values.device)

    def _end(self, span: slice, hidden: Tensor) -> None:
        """End the items of which the stop head says, before a token is drawn, that they are over."""
        token = int(self.plan.times[span.start, 0])
        if self.model.stop is None or not self.ends or token < 1:
            return
        given = self.known[:, span.start] if self.fixed is None else self.fixed[:, span.start, 0]
        over = (self.model.stop.over(hidden[: len(self.values), 0]) & ~given).cpu() & (self.lengths > token)
        if bool(over.any()):
            self.lengths[over] = token
            if self.real is not None and isinstance(self.cache, Cache):
                self.cache.hide_last(torch.cat([over, over]) if self.doubled else over)
            self._leave_out(self.plan.present(self.lengths, len(self.values)))

    # --- one pass of the backbone ---------------------------------------------------------------------------------------------------

    def hidden(self, start: int, stop: int, commit: bool) -> Tensor:
        """Hidden vectors of positions ``start`` to ``stop``: ``(B, n, D)``, or ``(2B, n, D)`` with the unconditional half."""
        first = 0 if self.cache is None else start  # without a cache everything up to here is computed again
        hidden = self._passed(first, stop, self.cache, commit, self.doubled)
        return hidden[:, start - first :] if self.cache is None else hidden

    def _passed(self, first: int, stop: int, cache: BackboneCache | None, commit: bool, doubled: bool) -> Tensor:
        """What the backbone makes of positions ``first`` to ``stop``, of both halves or of the conditional one."""
        model, plan = self.model, self.plan
        inputs, known = model.inputs(self.values, self.known, first, stop, self.places), self.known[:, first:stop]
        real = None if self.real is None else self.real[:, first:stop]
        if doubled:
            inputs, known = torch.cat([inputs, inputs]), torch.cat([known, known])
            real = None if real is None else torch.cat([real, real])
        if self.along is not None:
            inputs = inputs + self.along[: len(inputs), first:stop]
        conditioning = None if cache is not None and cache.started else self.conditioning
        given = BackboneInputs(inputs, plan.coords[first:stop], plan.blocks[first:stop], conditioning, known, real)
        return model.backbone(given, cache, commit)

    def _lazy_hidden(self, lazy: Lazy, step: int, wanted: Tensor) -> Tensor:
        """As :meth:`hidden`, of all positions; up to date are those at ``wanted`` ``(B, k)``, and all of them in a fresh step."""
        cache, batch, total = self.cache, len(self.values), self.known.shape[1]
        assert isinstance(cache, LazyCache)
        fresh = lazy.fresh(step)
        halved = self.doubled and lazy.condition and not fresh
        cache.next(fresh, torch.cat([wanted, wanted]) if self.doubled else wanted)
        hidden = self._passed(0, total, cache.rows(slice(0, batch)) if halved else cache, True, self.doubled and not halved)
        if not self.doubled:
            return hidden
        if halved and self.apart is not None:
            return torch.cat([hidden, hidden + self.apart])
        self.apart = hidden[batch:] - hidden[:batch]
        return hidden

    def _draw(
        self,
        hidden: Tensor,
        rng: PerSampleRNG,
        guidance: float,
        share: float,
        progress: float,
        span: slice | None = None,
        on_state: StateCallback = ignore_state,
    ) -> SampleOutput:
        """Token values from hidden vectors, of which the second half may be the unconditional ones; of a whole block, ``span``."""
        batch, head, sampling = len(self.values), self.model.head, self.manner.sampling
        if span is not None and self.model.order.greedy_block(self.plan.layout, span.start):
            sampling = replace(sampling, temperature=0.0)
        null = hidden[batch:] if self.doubled else None
        context = HeadContext(null, guidance, share, progress, on_state=on_state)
        if span is not None:
            given = (
                self.values[:, span].masked_fill(~self.fixed[:, span], -1) if head.sequential_codebooks and self.fixed is not None else None
            )
            context = replace(context, coords=self.plan.coords[span], given=given)
        if self.mixer is None:
            return head.sample(hidden[:batch], rng, sampling, context)
        return SampleOutput(self.mixer.mix(head.mixture(hidden[:batch], rng, sampling, context)))

    def _scale(self, share: float, progress: float) -> float:
        """Guidance when so much is known and done; the unconditional half is dropped once no later step needs it."""
        guidance = self.manner.guidance
        if self.doubled and not guidance.needed_from(share):
            self.doubled = False
            kept = slice(0, len(self.values))
            self.conditioning = self.conditioning and self.conditioning.rows(kept)
            self.cache = self.cache and self.cache.rows(kept)
        return guidance.at(share, progress) if self.doubled else 1.0

    # --- the loop -------------------------------------------------------------------------------------------------------------------

    def run(self, on_step: StepCallback | None = None) -> Tensor:
        """Walk to the end; token values ``(B, N, C)`` at all of the tokenizer's positions."""
        for _ in self.walk(on_step):
            pass
        return self.tokens()[0]

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Token values so far and which of them are known, ``(B, N, C)`` and ``(B, N)``, at all of the tokenizer's positions."""
        return self._of_tokenizer(self.values, self.known)

    def tokens_with(self, span: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`tokens`, with what the block ``span`` is on the way, ``(B, n, C)``, and as if that were known."""
        values, known = self.values.clone(), self.known.clone()
        values[:, span], known[:, span] = self._kept(span, state), True
        return self._of_tokenizer(values, known)

    def _of_tokenizer(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        count = self.model.layout.positions
        if self.plan.pattern is not None:
            values, known = self.plan.undo(values), self.plan.undo(known[..., None].expand_as(values)).all(-1)
            values = values.masked_fill(values == self.plan.nothing, 0)
        missing = count - values.shape[1] if self.mixer is None else 0
        return F.pad(values, (0, 0, 0, missing)), F.pad(known, (0, missing), value=True)

    def complete(self) -> int:
        """How many tokens, from the first on, are known of all items, up to the end of the longest."""
        known = self.tokens()[1].all(0)
        return min(int(known.int().cumprod(0).sum()), int(self.lengths.max()))

    def walk(self, on_step: StepCallback | None = None) -> Iterator[None]:
        """Block by block, and inside a block step by step; ``watch`` is called on the way."""
        order, plan, pace = self.model.order, self.plan, self.manner.pace
        done, total = 0, plan.layout.positions
        step_lists = [pace.plan(order, plan.coords[start:stop], ~self.known[:, start:stop]) for start, stop in plan.spans]
        last = sum(map(len, step_lists)) - 1  # of an item as long as can be, so that no item feels how long those beside it are
        if self.asked_lengths is not None:
            self._leave_out(plan.present(self.lengths, len(self.lengths)))
        telling = None if on_step is None else EventEmitter(self, on_step)
        for (start, stop), steps in zip(plan.spans, step_lists, strict=True):
            span = slice(start, stop)
            if steps and bool(self.known[:, span].all()):
                continue  # no item goes on so far
            if self.real is not None and stop > start + 1:
                # Items that ended beside longer ones have drawn more numbers than they would have alone: begin anew, alike for all.
                self.rng = PerSampleRNG(self.seed + (start << 32), self.rows, self.rng.device)
            queue = pace.queue(order, plan.coords[span], ~self.known[:, span], self.rng) if steps else None
            for step in steps:
                progress = done / last if last else 1.0
                share = (stop - step.hidden_before) / total
                scale = self._scale(share, progress)
                if queue is not None:
                    chosen = queue[:, queue.shape[1] - step.hidden_before : queue.shape[1] - step.hidden_after]
                    self._draw_at(span, chosen, done, scale, share, progress)
                else:
                    on_state = ignore_state if telling is None else partial(telling.state, span, scale)
                    self._draw_all(span, step, scale, share, progress, on_state)
                done += 1
                if telling is not None:
                    telling.step(scale)
                yield
            if self.cache is not None and stop < total and (not steps or not order.shifted):
                # Later blocks must see this one clean (or, when it was given whole, at all).
                self.hidden(start, stop, commit=True)

    def _kept(self, span: slice, drawn: Tensor) -> Tensor:
        """What is drawn of a block, ``(B, n, C)``, but for its fixed entries."""
        return drawn if self.fixed is None else torch.where(self.fixed[:, span], self.values[:, span], drawn)

    def _draw_all(self, span: slice, step: Step, scale: float, share: float, progress: float, on_state: StateCallback) -> None:
        """Draw at every position of a block, and keep what the order says."""
        order = self.model.order
        hidden = self.hidden(span.start, span.stop, commit=order.shifted)
        self._end(span, hidden)
        draw = self._draw(hidden, self.rng, scale, share, progress, span, on_state)
        drawn = self._kept(span, draw.values)
        if step.hidden_before == span.stop - span.start and step.hidden_after == 0:  # all at once, as one token after the other is
            self.values[:, span], self.known[:, span] = drawn, True
        else:
            new = order.reveal(step, ~self.known[:, span], draw.confidence, self.rng)
            self.values[:, span] = torch.where(new[..., None], drawn, self.values[:, span])
            self.known[:, span] |= new

    def _draw_at(self, span: slice, chosen: Tensor, done: int, scale: float, share: float, progress: float) -> None:
        """Draw at ``chosen`` places ``(B, k)`` of a block alone; the naive reference draws at all of them, with the same numbers there."""
        if self.manner.lazy is not None:
            hidden = self._lazy_hidden(self.manner.lazy, done, chosen)
        else:
            hidden = self.hidden(span.start, span.stop, commit=self.model.order.shifted)
        if self.manner.cached:
            index = torch.cat([chosen, chosen]) if self.doubled else chosen
            values = self._draw(_at(hidden, index), self.rng, scale, share, progress).values
        else:
            noise = self.rng.laid_out(chosen, span.stop - span.start)
            values = _at(self._draw(hidden, noise, scale, share, progress).values, chosen)
        places = chosen + span.start
        self.values.scatter_(1, places[..., None].expand_as(values), values.to(self.values.dtype))
        self.known.scatter_(1, places, True)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, k)`` of ``(B, n, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
