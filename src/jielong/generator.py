"""The one generator: one loss and one loop for every order, backbone, head and condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jielong.conditions.base import Condition
from jielong.guidance import Guidance
from jielong.heads.base import Draw, Head, Sharpness
from jielong.networks.backbone import AnyBackbone, BackboneCache
from jielong.networks.conditioning import Conditioning
from jielong.networks.embedding import embedding_of
from jielong.networks.lazy import LazyCache
from jielong.noise import Noise
from jielong.orders.base import Order, Step
from jielong.orders.pace import Pace
from jielong.speed import Lazy, Schedule, TwoStage
from jielong.tokens import Layout, Places, Tokens


@dataclass(frozen=True)
class Moment:
    """What ``watch`` sees after every step.

    Attributes:
        step: Steps done, from 1, over all blocks.
        values: Tokens so far, ``(B, N, C)``.
        known: Which of them are known, ``(B, N)``.
        new: Which became known in this step, ``(B, N)``.
        guidance: Guidance scale used.
    """

    step: int
    values: Tensor
    known: Tensor
    new: Tensor
    guidance: float


Watch = Callable[[Moment], None]


@dataclass(frozen=True)
class Asked:
    """What a backbone made of a batch, at the ``M`` positions whose tokens the order asks for.

    Attributes:
        hidden: Hidden vectors, ``(M, D)``.
        targets: The tokens there, ``(M, C)``.
        shares: What each counts in its item, ``(M,)``: the reciprocal of how many the item was asked.
    """

    hidden: Tensor
    targets: Tensor
    shares: Tensor


class Generator(nn.Module):
    """A chain over tokens: an order, a backbone, a head, and maybe a condition.

    Args:
        layout: The tokens to generate.
        order: Which tokens come next.
        backbone: Turns what is known into a hidden vector a position.
        head: Draws the token that stands there.
        condition: What it is about.
        embedding: Token values to vectors, where the order has one of its own (:meth:`Order.embedding`); one vector a code if not given.
    """

    coordinates: Tensor

    def __init__(
        self,
        layout: Layout,
        order: Order,
        backbone: AnyBackbone,
        head: Head,
        condition: Condition | None = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if head.discrete != layout.discrete:
            kind = "codes" if layout.discrete else "continuous tokens"
            raise ValueError(f"the {type(head).__name__} cannot predict this tokenizer's {kind}")
        self.layout, self.order = layout, order
        self.condition, self.backbone, self.head = condition, backbone, head
        width = backbone.width
        self.embedding = embedding_of(layout, width) if embedding is None else embedding
        self.placeholder = nn.Parameter(torch.randn(width) * 0.02)
        # One table an axis: attention's rotary positions are relative, and a grid of equal placeholders would be one blur to them.
        tables = [nn.Embedding(size, width) for size in layout.extents]
        for table in tables:
            nn.init.normal_(table.weight, std=0.02)
        self.places = nn.ModuleList(tables)
        self.register_buffer("coordinates", layout.coordinates(), persistent=False)
        # The backbone reads these with Python, so they stay on the CPU wherever the weights go.
        self.where, self.blocks = layout.coordinates(), order.blocks(layout)
        backbone.check_order(self.blocks, order.shifted)
        if head.joint and not order.shifted:
            raise ValueError("a joint head draws a block as one, and here it is revealed in steps: choose order: at_once or next_scale")

    def embed(self, values: Tensor) -> Tensor:
        """Token values ``(B, n, C)`` to vectors ``(B, n, D)``; the codebooks of a position are summed."""
        embedded: Tensor = self.embedding(values)
        return embedded

    def _all_places(self) -> Tensor:
        """The vector of every position, ``(N, D)``."""
        first, *others = (table(self.coordinates[:, axis]) for axis, table in enumerate(self.places))
        return sum(others, start=first)

    def _inputs(self, values: Tensor, known: Tensor, start: int, stop: int, places: Tensor) -> Tensor:
        """What the backbone reads at positions ``start`` to ``stop``, ``(B, stop - start, D)``."""
        return self.order.inputs(self.embed, values, known, self.placeholder, start, stop) + places[start:stop]

    def reading(self, known: Tensor) -> dict[str, Tensor]:
        """What the backbone is told beside its inputs: which positions are known, ``(B, n)`` bool, if it says that it reads that."""
        return {"known": known} if self.backbone.reads_known else {}

    def places_of(self, span: slice, real: Tensor) -> dict[str, Places]:
        """What a joint head is told of a block, ``real`` being of all positions, ``(B, N)`` bool; others are told nothing."""
        return {"places": Places(self.where[span], None if bool(real[:, span].all()) else real[:, span])} if self.head.joint else {}

    def loss(self, tokens: Tokens, prepared: Any = None, noise: Noise | None = None) -> Tensor:
        """Mean over the batch of the head's mean loss at the positions asked, in the head's unit (softmax: nats a token).

        Args:
            tokens: What to learn, ``(B, N, C)``.
            prepared: The condition's ``prepare``-d values, if the generator has one.
            noise: Random numbers of each item (mask, dropped conditions); a fixed stream if not given.

        Raises:
            ValueError: if a condition is missing, or given to a generator that has none.
        """
        hidden, asked = self._read(tokens, prepared, noise)
        batch = len(tokens)
        # Every item weighs the same, however many of its positions were asked (MaskGIT's public loss).
        weights = 1.0 / asked.sum(1, keepdim=True)
        if self.head.joint:
            spans = (slice(*span) for span in self.order.spans(self.layout))
            parts = [(asked[:, s].sum(1), self.head.loss(hidden[:, s], tokens.values[:, s], **self.places_of(s, asked))) for s in spans]
            return torch.stack([count * weights[:, 0] * each for count, each in parts]).sum() / batch
        each = self.head.loss(hidden[asked], tokens.values[asked])
        return (each * weights.expand_as(asked)[asked]).sum() / batch

    def ask(self, tokens: Tokens, prepared: Any = None, noise: Noise | None = None) -> Asked:
        """What a head that is not joint is asked in a step of training; the arguments and errors of :meth:`loss`."""
        hidden, asked = self._read(tokens, prepared, noise)
        return Asked(hidden[asked], tokens.values[asked], (1.0 / asked.sum(1, keepdim=True)).expand_as(asked)[asked])

    def _read(self, tokens: Tokens, prepared: Any, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Hidden vectors ``(B, N, D)`` under the order's masks, and at which positions it asks for tokens, ``(B, N)`` bool."""
        batch, device = len(tokens), tokens.values.device
        noise = noise or Noise(0, range(batch))
        conditioning = None
        if self.condition is None and prepared is not None:
            raise ValueError("this generator was trained without a condition: give tokens alone")
        if self.condition is not None:
            if prepared is None:
                raise ValueError("this generator needs its condition: give what `condition.prepare` made of the captions or classes")
            dropped = self.condition.drops(noise) if self.training else None
            conditioning = self.condition(prepared, dropped)
        view = self.order.view(self.layout, noise)
        known, asked = view.known.to(device), view.asked.to(device)
        inputs = self._inputs(tokens.values, known, 0, self.layout.positions, self._all_places())
        hidden = self.backbone(inputs, self.where, self.blocks, conditioning, **self.reading(known))
        return hidden, asked

    @torch.inference_mode()
    def generate(
        self,
        conditions: Sequence[Any] | None = None,
        count: int | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: Guidance | float = 1.0,
        sharpness: Sharpness | None = None,
        start: Tokens | None = None,
        known: Tensor | None = None,
        batch: int = 64,
        cache: bool = True,
        smooth: bool = False,
        schedule: Schedule | None = None,
        two_stage: TwoStage | None = None,
        lazy: Lazy | None = None,
        watch: Watch | None = None,
    ) -> Tokens:
        """Draw tokens, one item a condition.

        Args:
            conditions: One raw condition an item (texts, classes); ``None`` generates ``count`` items without condition.
            count: How many items, where there are no conditions.
            seed: Item ``i`` draws the random numbers of ``(seed, i)``, whatever the batch.
            steps: Steps a block, for orders that reveal gradually; the order's own number if not given.
            guidance: How strongly to follow the condition: a scale or a schedule.
            sharpness: Temperature, top-k and top-p, and evaluations of an iterative head.
            start: Tokens of which some are to be kept, ``(count, N, C)``.
            known: ``(N,)`` bool: the positions to keep from ``start``.
            batch: Items computed at once.
            cache: Keep keys and values of earlier blocks, and draw no token that is thrown away where the order chooses before it draws;
                ``False`` is the naive reference that computes everything at every step.
            smooth: Mix codes instead of drawing one, for calmer pictures of less variety (VAR's "more smooth"). The tokens are then
                continuous: a vector a position, which the tokenizer decodes but no file of codes holds and no metric should see.
            schedule: How the share of unknown tokens falls, for orders that reveal gradually; the order's own if not given.
            two_stage: Structure first and details fast, for orders that choose before they draw (GtR).
            lazy: Between steps that compute everything, compute what changed most, for the same orders in one block (LazyMAR).
            watch: Called with a :class:`Moment` after every step of every batch.

        Returns:
            Tokens ``(count, N, C)``.

        Raises:
            ValueError: if guidance or conditions are asked of a generator that has none, ``start`` does not fit, a number is below 1, or
                smooth sampling is asked of an order that reads codes one by one.
        """
        if isinstance(conditions, str):
            raise ValueError(f"conditions are a list with one condition an item: write [{conditions!r}]")
        if conditions is not None:
            if len(conditions) == 0:
                raise ValueError("no conditions are given: give one an item, or None to generate without a condition")
            count = len(conditions)
        count = 1 if count is None else count
        for name, number in (("count", count), ("steps", steps), ("batch", batch)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be 1 or more, not {number}")
        strength = Guidance(scale=guidance) if isinstance(guidance, int | float) else guidance
        if self.condition is None and conditions is not None:
            raise ValueError("this generator was trained without a condition: ask for a count, not for texts or classes")
        if strength.scale != 1.0 and conditions is None:
            raise ValueError("guidance needs a condition to follow: give texts or classes, or leave guidance at 1")
        if (start is None) != (known is None):
            raise ValueError("to complete tokens, give both `start` and the mask `known` of positions to keep")
        if start is not None and (start.layout != self.layout or len(start) != count):
            raise ValueError(f"`start` must hold {count} items of layout {self.layout}, not {len(start)} of {start.layout}")
        if start is not None and known is not None:
            self._check_kept(start.values, known)
        if smooth and not hasattr(self.embedding, "mix"):
            raise ValueError("smooth sampling feeds mixtures of codes to the next scale: it is for the order next_scale")
        if lazy is not None and not cache:
            raise ValueError("lazy steps keep what they computed, and cache=False computes everything at every step: give one of them")
        pace = Pace(steps, schedule, two_stage)
        sharpness = sharpness or Sharpness()
        self.head.check_sharpness(sharpness)
        was_training = self.training
        self.eval()
        try:
            parts = []
            for first in range(0, count, batch):
                rows = range(first, min(first + batch, count))
                given = None if conditions is None else [conditions[i] for i in rows]
                chain = _Chain(self, given, rows, seed, strength, sharpness, cache, smooth, lazy)
                if start is not None and known is not None:
                    chain.keep(start.values[rows.start : rows.stop], known)
                parts.append(chain.run(pace, watch))
        finally:
            self.train(was_training)
        values = torch.cat(parts)
        return Tokens(values, replace(self.layout, channels=values.shape[2], vocabulary=None) if smooth else self.layout)

    def _check_kept(self, values: Tensor, known: Tensor) -> None:
        if known.dtype != torch.bool or known.shape != (self.layout.positions,):
            raise ValueError(f"`known` must be bool ({self.layout.positions},), not {known.dtype} {tuple(known.shape)}")
        kept, size = values[:, known.to(values.device)], self.layout.vocabulary
        if size is not None and kept.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < size:
            raise ValueError(f"`start` must hold code indices in [0, {size}), but these span {int(kept.min())} to {int(kept.max())}")


class _Chain:
    """The state of one batch while it is generated."""

    def __init__(
        self,
        model: Generator,
        conditions: Sequence[Any] | None,
        rows: range,
        seed: int,
        guidance: Guidance,
        sharpness: Sharpness,
        cached: bool,
        smooth: bool,
        lazy: Lazy | None,
    ) -> None:
        self.model, self.guidance, self.sharpness, self.lazy = model, guidance, sharpness, lazy
        layout, device = model.layout, model.placeholder.device
        self.noise = Noise(seed, rows, device)
        mixer: Any = model.embedding
        self.mixer = mixer if smooth else None
        dtype = torch.long if layout.discrete and not smooth else torch.float32
        channels = mixer.dim if smooth else layout.channels
        self.values = torch.zeros(len(rows), layout.positions, channels, dtype=dtype, device=device)
        self.known = torch.zeros(len(rows), layout.positions, dtype=torch.bool, device=device)
        self.places = model._all_places()
        self.doubled = guidance.needed_from(0.0)
        self.conditioning = self._conditioning(conditions, len(rows))
        prefix = 0 if self.conditioning is None else self.conditioning.states.shape[1]
        height = 2 * len(rows) if self.doubled else len(rows)
        self.cached = cached
        self.cache: BackboneCache | None = None
        if lazy is not None:
            self.cache = self._new_lazy_cache(lazy, height, prefix)
        elif cached:
            self.cache = model.backbone.new_cache(height, layout.positions, prefix, device=device)
        self.apart: Tensor | None = None  # of lazy steps: unconditional minus conditional hidden vectors

    def _new_lazy_cache(self, lazy: Lazy, height: int, prefix: int) -> LazyCache:
        order, layout = self.model.order, self.model.layout
        settled = order.queue(~self.known, Noise(0, range(len(self.known)), self.known.device))
        if settled is None or len(order.spans(layout)) > 1:
            raise ValueError(
                "lazy steps need an order that reveals inside one block and chooses before it draws: order: {masked: {choose: random}}"
            )
        return self.model.backbone.new_lazy_cache(lazy, height, layout.positions, prefix)

    def _conditioning(self, conditions: Sequence[Any] | None, batch: int) -> Conditioning | None:
        condition = self.model.condition
        if condition is None:
            return None
        if conditions is None:
            return condition.nothing(batch)
        given = condition(condition.prepare(conditions))
        return Conditioning.cat(given, condition.nothing(batch)) if self.doubled else given

    def keep(self, values: Tensor, known: Tensor) -> None:
        """Start from known tokens."""
        values = values if self.mixer is None else self.mixer.vectors(values.to(self.values.device))
        self.values = torch.where(known[:, None].to(self.values.device), values.to(self.values), self.values)
        self.known = known.to(self.known.device).expand_as(self.known).clone()

    def hidden(self, start: int, stop: int, commit: bool) -> Tensor:
        """Hidden vectors of positions ``start`` to ``stop``: ``(B, n, D)``, or ``(2B, n, D)`` with the unconditional half."""
        first = 0 if self.cache is None else start  # without a cache everything up to here is computed again
        hidden = self._passed(first, stop, self.cache, commit, self.doubled)
        return hidden[:, start - first :] if self.cache is None else hidden

    def _passed(self, first: int, stop: int, cache: BackboneCache | None, commit: bool, doubled: bool) -> Tensor:
        """What the backbone makes of positions ``first`` to ``stop``, of both halves or of the conditional one."""
        model = self.model
        inputs, known = model._inputs(self.values, self.known, first, stop, self.places), self.known[:, first:stop]
        if doubled:
            inputs, known = torch.cat([inputs, inputs]), torch.cat([known, known])
        where, blocks, told = model.where[first:stop], model.blocks[first:stop], model.reading(known)
        if cache is None:
            return model.backbone(inputs, where, blocks, self.conditioning, **told)
        given = None if cache.started else self.conditioning
        return model.backbone(inputs, where, blocks, given, cache=cache, commit=commit, **told)

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

    def _draw(self, hidden: Tensor, noise: Noise, guidance: float, share: float, progress: float, span: slice | None = None) -> Draw:
        """Token values from hidden vectors, of which the second half may be the unconditional ones; of a whole block, ``span``."""
        batch = len(self.values)
        null = hidden[batch:] if self.doubled else None
        if self.mixer is None:
            told = self.model.places_of(span, torch.ones_like(self.known)) if span is not None else {}
            return self.model.head.sample(hidden[:batch], noise, self.sharpness, null, guidance, share, **told)
        return Draw(self.mixer.mix(self.model.head.mixture(hidden[:batch], noise, self.sharpness, null, guidance, progress)))

    def _scale(self, share: float, progress: float) -> float:
        """Guidance when so much is known and done; the unconditional half is dropped once no later step needs it."""
        if self.doubled and not self.guidance.needed_from(share):
            self.doubled = False
            kept = slice(0, len(self.values))
            self.conditioning = self.conditioning and self.conditioning.rows(kept)
            self.cache = self.cache and self.cache.rows(kept)
        return self.guidance.at(share, progress) if self.doubled else 1.0

    def run(self, pace: Pace, watch: Watch | None) -> Tensor:
        """The loop: block by block, and inside a block step by step."""
        model, order, total = self.model, self.model.order, self.model.layout.positions
        spans, done = order.spans(model.layout), 0
        plans = [pace.plan(order, model.where[start:stop], ~self.known[:, start:stop]) for start, stop in spans]
        last = sum(map(len, plans)) - 1
        for (start, stop), plan in zip(spans, plans, strict=True):
            span = slice(start, stop)
            queue = pace.queue(order, model.where[span], ~self.known[:, span], self.noise) if plan else None
            for step in plan:
                progress = done / last if last else 1.0
                share = (stop - step.hidden_before) / total
                scale = self._scale(share, progress)
                before = self.known[:, span].clone() if watch is not None else None
                if queue is not None:
                    chosen = queue[:, queue.shape[1] - step.hidden_before : queue.shape[1] - step.hidden_after]
                    self._draw_at(span, chosen, done, scale, share, progress)
                else:
                    self._draw_all(span, step, scale, share, progress)
                done += 1
                if watch is not None and before is not None:
                    fresh = torch.zeros_like(self.known)
                    fresh[:, span] = self.known[:, span] & ~before
                    watch(Moment(done, self.values.clone(), self.known.clone(), fresh, scale))
            if self.cache is not None and stop < total and (not plan or not order.shifted):
                # Later blocks must see this one clean (or, when it was given whole, at all).
                self.hidden(start, stop, commit=True)
        return self.values

    def _draw_all(self, span: slice, step: Step, scale: float, share: float, progress: float) -> None:
        """Draw at every position of a block, and keep what the order says."""
        order = self.model.order
        draw = self._draw(self.hidden(span.start, span.stop, commit=order.shifted), self.noise, scale, share, progress, span)
        if step.hidden_before == span.stop - span.start and step.hidden_after == 0:  # all at once, as one token after the other is
            self.values[:, span], self.known[:, span] = draw.values, True
        else:
            new = order.reveal(step, ~self.known[:, span], draw.confidence, self.noise)
            self.values[:, span] = torch.where(new[..., None], draw.values, self.values[:, span])
            self.known[:, span] |= new

    def _draw_at(self, span: slice, chosen: Tensor, done: int, scale: float, share: float, progress: float) -> None:
        """Draw at ``chosen`` places ``(B, k)`` of a block alone; the naive reference draws at all of them, with the same numbers there."""
        if self.lazy is not None:
            hidden = self._lazy_hidden(self.lazy, done, chosen)
        else:
            hidden = self.hidden(span.start, span.stop, commit=self.model.order.shifted)
        if self.cached:
            index = torch.cat([chosen, chosen]) if self.doubled else chosen
            values = self._draw(_at(hidden, index), self.noise, scale, share, progress).values
        else:
            noise = self.noise.laid_out(chosen, span.stop - span.start)
            values = _at(self._draw(hidden, noise, scale, share, progress).values, chosen)
        places = chosen + span.start
        self.values.scatter_(1, places[..., None].expand_as(values), values.to(self.values.dtype))
        self.known.scatter_(1, places, True)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, k)`` of ``(B, n, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
