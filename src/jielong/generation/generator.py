"""The one generator: one loss and one loop for every order, backbone, head and condition."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jielong.conditions.base import Condition
from jielong.config.ending import StopHeadSettings
from jielong.config.guidance import Guidance
from jielong.config.speed import Lazy, Schedule, TwoStage
from jielong.core.phases import MAIN
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepCallback, TokenChunk
from jielong.generation.plan import SequencePlan
from jielong.generation.sampler import Chain, Manner
from jielong.heads.base import Head, HeadContext, SamplingConfig
from jielong.networks.backbone import AnyBackbone, BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.embedding import PositionEmbedding, embedding_of
from jielong.networks.length_regulator import LengthRegulator
from jielong.networks.monotonic_alignment import MonotonicAlignment
from jielong.networks.stop import StopHead
from jielong.orders.base import Order
from jielong.orders.pace import Pace

__all__ = ["Generator"]


@dataclass(frozen=True)
class TrainingTargets:
    """What a backbone made of a batch, at the ``M`` positions whose tokens the order asks for.

    Attributes:
        hidden: Hidden vectors, ``(M, D)``.
        targets: The tokens there, ``(M, C)``.
        shares: What each counts in its item, ``(M,)``: the reciprocal of how many the item was asked.
    """

    hidden: Tensor
    targets: Tensor
    shares: Tensor


@dataclass(frozen=True)
class _Read:
    """What the backbone made of a batch: all positions.

    Attributes:
        hidden: Hidden vectors, ``(B, N, D)``.
        targets: The tokens as the order sees them, ``(B, N, C)``.
        asked: At which positions the order asks for them, ``(B, N)`` bool.
        shares: What each of these counts in its item, ``(B, N)``.
        ends: Tokens an item has, ``(B,)``.
        course: What they stand along; a shorter one than the generator's where no item is as long as can be.
        beside: A loss that the condition's alignment adds, if it does.
    """

    hidden: Tensor
    targets: Tensor
    asked: Tensor
    shares: Tensor
    ends: Tensor
    plan: SequencePlan
    beside: Tensor | None


class Generator(nn.Module):
    """A chain over tokens: an order, a backbone, a head, and maybe a condition.

    Args:
        layout: The tokens to generate.
        order: Which tokens come next.
        backbone: Turns what is known into a hidden vector a position.
        head: Draws the token that stands there.
        condition: What it is about.
        embedding: Token values to vectors, where the order has one of its own (:meth:`Order.embedding`); one vector a code if not given.
        ending: How items end by themselves, if they do.

    Raises:
        ValueError: if the parts do not fit each other.
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
        ending: StopHeadSettings | None = None,
    ) -> None:
        super().__init__()
        if head.discrete != layout.discrete:
            kind = "codes" if layout.discrete else "continuous tokens"
            raise ValueError(f"the {type(head).__name__} cannot predict this tokenizer's {kind}")
        self.layout, self.order = layout, order
        self.condition, self.backbone, self.head = condition, backbone, head
        # The backbone reads the course's coordinates and blocks with Python, so they stay on the CPU wherever the weights go.
        self.plan = SequencePlan.of(order, layout)
        if self.plan.pattern is not None and not head.missing_codes_allowed:
            raise ValueError(
                f"the {type(head).__name__} predicts all codebooks of a position, and the order's pattern has steps without some of them: "
                "take the head softmax or depth, or the pattern parallel"
            )
        width, arranged = backbone.width, self.plan.layout
        self.embedding = embedding_of(arranged, width, self.plan.pattern is not None) if embedding is None else embedding
        self.placeholder = nn.Parameter(torch.randn(width) * 0.02)
        # One table an axis: attention's rotary positions are relative, and a grid of equal placeholders would be one blur to them.
        self.places = PositionEmbedding(arranged.extents, width)
        self.register_buffer("coordinates", arranged.coordinates(), persistent=False)
        backbone.check_order(self.plan.blocks, order.shifted)
        if head.joint and not order.shifted:
            raise ValueError("a joint head draws a block as one, and here it is revealed in steps: choose order: at_once or next_scale")
        self.stop = None
        if ending is not None:
            layout.check_lengths([layout.positions])
            if not (order.shifted and self.plan.single_first):
                raise ValueError("an ending needs an order that draws the first codebook one token after the other: raster or levels")
            self.stop = StopHead(width, ending)
        self.stretch = None
        if condition is not None and condition.alignment is not None:
            layout.check_lengths([layout.positions])
            searched = condition.alignment == "search"
            self.stretch = MonotonicAlignment(condition.width, width, layout) if searched else LengthRegulator(condition.width, width)

    def embed(self, values: Tensor) -> Tensor:
        """Token values ``(B, n, C)`` to vectors ``(B, n, D)``; the codebooks of a position are summed."""
        embedded: Tensor = self.embedding(values)
        return embedded

    def places_at(self, plan: SequencePlan) -> Tensor:
        """Position embeddings of a plan, ``(N, D)``."""
        return self.places(self.coordinates if plan is self.plan else plan.coords)

    def inputs(self, values: Tensor, known: Tensor, start: int, stop: int, places: Tensor) -> Tensor:
        """What the backbone reads at positions ``start`` to ``stop``, ``(B, stop - start, D)``."""
        return self.order.inputs(self.embed, values, known, self.placeholder, start, stop) + places[start:stop]

    def loss(self, tokens: Tokens, prepared: Any = None, rng: PerSampleRNG | None = None, phase: str = MAIN) -> Tensor:
        """Mean over the batch of the head's mean loss at the positions asked, in the head's unit (softmax: nats a token).

        Args:
            tokens: What to learn, ``(B, N, C)``.
            prepared: The condition's ``prepare``-d values, if the generator has one.
            rng: Random numbers of each item (mask, dropped conditions); a fixed stream if not given.
            phase: The phase of the training step (:attr:`Head.phases`); the head's loss alone counts in all but the main one.

        Raises:
            ValueError: if a condition is missing, or given to a generator that has none.
        """
        read, batch = self._read(tokens, prepared, rng), len(tokens)
        hidden, targets, asked = read.hidden, read.targets, read.asked
        if self.head.joint:
            spans, share = (slice(*span) for span in read.plan.spans), 1.0 / asked.sum(1)
            parts = []
            for s in spans:
                context = read.plan.head_context(s, asked, phase)
                parts.append(asked[:, s].sum(1) * share * self.head.loss(hidden[:, s], targets[:, s], context))
            loss = torch.stack(parts).sum() / batch
        else:
            loss = (self.head.loss(hidden[asked], targets[asked], HeadContext(phase=phase)) * read.shares[asked]).sum() / batch
        if phase != MAIN:
            return loss
        if read.beside is not None:
            loss = loss + read.beside
        if self.stop is None:
            return loss
        return loss + self.stop.settings.weight * self.stop.loss(hidden, read.plan.times[:, 0], read.ends)

    def ask(self, tokens: Tokens, prepared: Any = None, rng: PerSampleRNG | None = None) -> TrainingTargets:
        """What a head that is not joint is asked in a step of training; the arguments and errors of :meth:`loss`."""
        read = self._read(tokens, prepared, rng)
        return TrainingTargets(read.hidden[read.asked], read.targets[read.asked], read.shares[read.asked])

    def _read(self, tokens: Tokens, prepared: Any, rng: PerSampleRNG | None) -> _Read:
        """What the backbone makes of a batch under the order's masks."""
        batch, device = len(tokens), tokens.values.device
        rng = rng or PerSampleRNG(0, range(batch))
        conditioning = None
        if self.condition is None and prepared is not None:
            raise ValueError("this generator was trained without a condition: give tokens alone")
        if self.condition is not None:
            if prepared is None:
                raise ValueError("this generator needs its condition: give what `condition.prepare` made of the captions or classes")
            dropped = self.condition.draw_dropped(rng) if self.training else None
            conditioning = self.condition(prepared, dropped)
        plan, ends = self.plan, tokens.lengths
        if ends is not None and self.order.shifted and int(ends.max()) + 1 < self.layout.positions:
            # One position behind the longest item is where a stop head learns that it is over.
            plan = self._shortened(int(ends.max()) + 1)
            tokens = Tokens(tokens.values[:, : plan.tokens.positions], plan.tokens, ends)
        lengths = None if ends is None or bool((ends == plan.tokens.positions).all()) else ends
        values, present = plan.build(tokens.values), plan.present(lengths, batch)
        if present is not None:
            present = present.to(device)
            values = values.masked_fill(~present, plan.nothing)  # there may be anything, NaN too
        if lengths is None or present is None:
            view, real = self.order.view(plan.layout, rng), None
        else:
            real = present.any(-1)
            view = self.order.view_of(plan.layout, rng, real.cpu())
        known, asked = view.known.to(device), view.asked.to(device)
        there = None if plan.padding_last else real
        if view.seen is not None:
            there = view.seen.to(device) if real is None else view.seen.to(device) & real
        inputs, beside = self.inputs(values, known, 0, plan.layout.positions, self.places_at(plan)), None
        if self.stretch is not None and conditioning is not None and conditioning.aligned_states is not None:
            own = torch.full((batch,), plan.tokens.positions) if ends is None else ends
            behind = torch.arange(plan.tokens.positions) >= own[:, None]
            plain = tokens.values.masked_fill(behind.to(device)[..., None], 0)
            durations, beside = self.stretch.learn(conditioning.aligned_states, plain, own.to(device))
            inputs = inputs + self.stretch(conditioning.aligned_states, durations, self._times(plan))
        hidden = self.backbone(BackboneInputs(inputs, plan.coords, plan.blocks, conditioning, known, there))
        # Every item weighs the same, however many of its positions were asked (MaskGIT's public loss), and in it every code.
        counts = asked.float() if plan.pattern is None or present is None else (asked[..., None] & present).sum(-1)
        shares = 1.0 / counts.sum(1, keepdim=True) * counts
        ends = torch.full((batch,), plan.tokens.positions) if ends is None else ends
        return _Read(hidden, values, asked, shares, ends, plan, beside)

    @torch.inference_mode()
    def generate(
        self,
        conditions: Sequence[Any] | None = None,
        count: int | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: Guidance | float = 1.0,
        sampling: SamplingConfig | None = None,
        start: Tokens | None = None,
        known: Tensor | None = None,
        batch: int = 64,
        cache: bool = True,
        smooth: bool = False,
        schedule: Schedule | None = None,
        two_stage: TwoStage | None = None,
        lazy: Lazy | None = None,
        lengths: Sequence[int] | None = None,
        on_step: StepCallback | None = None,
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
            lengths: Tokens of each item, of sound: exactly as many are drawn. By default they are as many as a text takes that is aligned
                with them; or items end by themselves where the generator learned when to (its ending); or they are as long as can be.
            watch: Called with a :class:`StepEvent` after every step of every batch, and, where a head takes a whole block from noise to
                tokens in several, with the state it has reached after each of them.

        Returns:
            Tokens ``(count, N, C)``, with their lengths where these were asked for or drawn; zeros behind the end.

        Raises:
            ValueError: if guidance or conditions are asked of a generator that has none, ``start`` does not fit, a number is below 1, or
                smooth sampling is asked of an order that reads codes one by one.
        """
        parts: list[Tensor] = []
        order: list[int] = []
        with self._drawing():
            chains = self._chains(
                conditions,
                count,
                seed=seed,
                steps=steps,
                guidance=guidance,
                sampling=sampling,
                start=start,
                known=known,
                batch=batch,
                cache=cache,
                smooth=smooth,
                schedule=schedule,
                two_stage=two_stage,
                lazy=lazy,
                lengths=lengths,
            )
            ends: list[Tensor] = []
            timed = self.stop is not None
            for chain in chains:
                parts.append(chain.run(on_step))
                order += chain.rows
                ends.append(chain.lengths)
                timed |= chain.asked_lengths is not None
        places = torch.tensor(order).argsort()
        values = torch.cat(parts)[places.to(parts[0].device)]
        layout = replace(self.layout, channels=values.shape[2], vocabulary=None) if smooth else self.layout
        return Tokens(values, layout, torch.cat(ends)[places] if timed else None)

    def stream(
        self, conditions: Sequence[Any] | None = None, count: int | None = None, *, every: int = 1, **options: Any
    ) -> Iterator[TokenChunk]:
        """Draw tokens and hand them out as soon as they are complete: what :meth:`generate` gives with the same seed, from the first on.

        A token is complete when all its codes are drawn: at every step in raster order, with a delay some steps later, and at the last
        step where the order needs that long.

        Args:
            conditions: As of :meth:`generate`.
            count: As of :meth:`generate`.
            every: Tokens to wait for between two pieces; the last may be shorter.
            options: More for :meth:`generate`, but for ``batch``, ``smooth`` and ``watch``.

        Raises:
            ValueError: as :meth:`generate`; and where the items are not drawn side by side.
        """
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        if refused := {"batch", "smooth", "on_step"} & options.keys():
            raise ValueError(f"a stream has no {min(refused)}: its items are drawn side by side, and it is watched as it comes")
        if self.layout.scales or len(self.layout.grid) != 1:
            raise ValueError(
                f"a stream hands out tokens in one line, as those of sound, and these stand in {self.layout.grid}: use generate"
            )
        items = count or 1 if conditions is None else max(len(conditions), 1)
        with self._drawing(), torch.inference_mode():
            chains = list(self._chains(conditions, count, **{**options, "batch": items}))
        if len(chains) > 1:
            raise ValueError("this order draws items of one length side by side: stream those of other lengths by themselves")
        return self._pieces(chains[0], every)

    @torch.inference_mode()
    def _pieces(self, chain: Chain, every: int) -> Iterator[TokenChunk]:
        done = 0
        with self._drawing():
            for _ in chain.walk():
                complete = chain.complete()
                if complete >= done + every:
                    yield TokenChunk(done, chain.tokens()[0][:, done:complete].clone(), chain.lengths.clone())
                    done = complete
        if (last := int(chain.lengths.max())) > done:
            yield TokenChunk(done, chain.tokens()[0][:, done:last].clone(), chain.lengths.clone())

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Evaluation mode, and afterwards the mode that it was."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def _chains(
        self,
        conditions: Sequence[Any] | None,
        count: int | None,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: Guidance | float = 1.0,
        sampling: SamplingConfig | None = None,
        start: Tokens | None = None,
        known: Tensor | None = None,
        batch: int = 64,
        cache: bool = True,
        smooth: bool = False,
        schedule: Schedule | None = None,
        two_stage: TwoStage | None = None,
        lazy: Lazy | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Iterator[Chain]:
        """The chains of all batches, ready to be walked, one after the other; arguments and errors of :meth:`generate`."""
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
        sampling = sampling or SamplingConfig()
        self.head.check_sampling(sampling)
        if self.condition is not None and conditions is not None:
            conditions = [self.condition.resolve(value) for value in conditions]  # they are prepared twice: for lengths, and to draw
        manner = Manner(strength, sampling, Pace(steps, schedule, two_stage), cache, smooth, lazy)
        if lengths is None and conditions is not None and known is None:
            lengths = self._own_lengths(conditions, batch)
        asked = None if lengths is None else self._asked(lengths, count, known)
        for rows in self._batches(count, batch, asked):
            given = None if conditions is None else [conditions[i] for i in rows]
            own = None if asked is None else asked[rows]
            chain = Chain(self, self._course(own), given, rows, seed, manner, own)
            if start is not None and known is not None:
                chain.keep(start.values[rows], known)
            yield chain

    def _asked(self, lengths: Sequence[int], count: int, known: Tensor | None) -> Tensor:
        if len(lengths) != count:
            raise ValueError(f"each of {count} items needs its length, not {len(lengths)} of them")
        self.layout.check_lengths(lengths)
        if known is not None and bool(known[min(lengths) :].any()):
            raise ValueError(f"an item of {min(lengths)} tokens cannot keep what stands behind them: shorten `known`, or ask for more")
        return torch.tensor(list(lengths), dtype=torch.long)

    def _batches(self, count: int, size: int, lengths: Tensor | None) -> list[list[int]]:
        """Which items are computed together: those of one length, unless what an item does not have comes last anyway."""
        rows: list[list[int]] = [list(range(count))]
        if lengths is not None and not self.plan.padding_last:
            rows = [(lengths == length).nonzero()[:, 0].tolist() for length in lengths.unique().tolist()]
        return [part[first : first + size] for part in rows for first in range(0, len(part), size)]

    def _course(self, lengths: Tensor | None) -> SequencePlan:
        """The course of a batch: a shorter one where all its items are of one length that the order must not see behind."""
        if lengths is None or self.plan.padding_last:
            return self.plan
        return self._shortened(int(lengths[0]))

    def _shortened(self, length: int) -> SequencePlan:
        return SequencePlan.of(self.order, replace(self.layout, grid=(length,)))

    def _times(self, plan: SequencePlan) -> Tensor:
        """The token whose aligned state stands at each of the order's positions, ``(N,)``: the latest of those with a code there."""
        return plan.times.amax(1).clamp_min(0).to(self.placeholder.device)

    def along(self, conditioning: Conditioning | None, lengths: Tensor, plan: SequencePlan, heard: Tensor | None = None) -> Tensor | None:
        """What an aligned condition adds to the inputs of items of these lengths, ``(B, N, D)``; ``None`` where there is none.

        Args:
            conditioning: The condition.
            lengths: Tokens of each item, ``(B,)``.
            course: What they stand along.
            heard: The first tokens of each item, ``(B, P, C)``, where these are given.
        """
        if self.stretch is None or conditioning is None or conditioning.aligned_states is None:
            return None
        durations = self.stretch.durations(conditioning.aligned_states, lengths.to(self.placeholder.device), heard)
        made: Tensor = self.stretch(conditioning.aligned_states, durations, self._times(plan))
        return made

    def _own_lengths(self, conditions: Sequence[Any], batch: int) -> list[int] | None:
        """Tokens that what is told of each item takes by itself; ``None`` where nothing says so."""
        if self.stretch is None or self.condition is None:
            return None
        found: list[int] = []
        for first in range(0, len(conditions), batch):
            told: Conditioning = self.condition(self.condition.prepare(conditions[first : first + batch]))
            if told.aligned_states is None:
                return None
            found += self.stretch.predict_lengths(told.aligned_states).round().clamp(1, self.layout.positions).long().tolist()
        return found

    def _check_kept(self, values: Tensor, known: Tensor) -> None:
        if known.dtype != torch.bool or known.shape != (self.layout.positions,):
            raise ValueError(f"`known` must be bool ({self.layout.positions},), not {known.dtype} {tuple(known.shape)}")
        kept, size = values[:, known.to(values.device)], self.layout.vocabulary
        if size is not None and kept.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < size:
            raise ValueError(f"`start` must hold code indices in [0, {size}), but these span {int(kept.min())} to {int(kept.max())}")
