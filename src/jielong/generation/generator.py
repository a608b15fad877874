"""The generator: one loss and one sampling loop for every order, backbone, head and condition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from jielong.conditions.base import Condition
from jielong.config.ending import StopHeadSettings
from jielong.config.sampling import SamplingConfig
from jielong.core.phases import MAIN
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepCallback, TokenChunk
from jielong.generation.durations import build_durations
from jielong.generation.inpainting import check_seen
from jielong.generation.plan import SequencePlan, check_inputs
from jielong.generation.request import SamplingRequest
from jielong.generation.state import PreparedMismatch, TrainingStates
from jielong.generation.streaming import stream_tokens
from jielong.heads.base import FigureCallback, Head, HeadContext, ignore_figure
from jielong.networks.backbone import AnyBackbone
from jielong.networks.conditioning import Conditioning
from jielong.networks.embedding import SoftCodeEmbedding, embedding_of, positions_of
from jielong.orders.base import Order


class Generator(nn.Module):
    """A distribution over tokens: an order, a backbone, a head and an optional condition.

    Args:
        layout: The tokens to generate.
        order: Which tokens come next.
        backbone: Embeddings to hidden vectors.
        head: Hidden vectors to distributions of tokens.
        condition: What the tokens are conditioned on.
        embedding: Token values to vectors, where the order brings an embedding (:meth:`Order.embedding`); a vector per code by default.
        stop_head: Settings of the stop head, if items end by themselves.

    Raises:
        ValueError: if the parts do not fit each other.
    """

    coordinates: Tensor
    placeholder: Tensor

    def __init__(
        self,
        layout: Layout,
        order: Order,
        backbone: AnyBackbone,
        head: Head,
        condition: Condition | None = None,
        embedding: nn.Module | None = None,
        stop_head: StopHeadSettings | None = None,
    ) -> None:
        super().__init__()
        if head.discrete != layout.discrete:
            kind = "codes" if layout.discrete else "continuous tokens"
            raise ValueError(f"the {type(head).__name__} cannot predict this tokenizer's {kind}")
        self.layout, self.order = layout, order
        self.condition, self.backbone, self.head = condition, backbone, head
        # The backbone reads the plan's coordinates and blocks with Python, so they stay on the CPU wherever the weights go.
        self.plan = SequencePlan.of(order, layout)
        if self.plan.pattern is not None and not head.missing_codes_allowed:
            raise ValueError(
                f"the {type(head).__name__} predicts all codebooks of a position, and the order's pattern has steps without some of them: "
                "take the head softmax or depth, or the pattern parallel"
            )
        width, arranged = backbone.width, self.plan.layout
        self.embedding = embedding_of(arranged, width, self.plan.pattern is not None) if embedding is None else embedding
        check_inputs(order, backbone, self.plan, condition)
        if backbone.start == "condition":
            self.register_buffer("placeholder", torch.zeros(width), persistent=False)  # the condition stands in its place
        else:
            self.placeholder = nn.Parameter(torch.randn(width) * 0.02)
        # Attention's rotary positions are relative, so equal placeholders at all positions would look the same to them.
        self.position_embeddings = positions_of(backbone.positions, arranged, width, order.relative_axes)
        self.register_buffer("coordinates", arranged.coordinates(), persistent=False)
        backbone.check_order(self.plan.blocks, order.shifted)
        if head.joint and not order.shifted:
            raise ValueError("a joint head draws a block as one, and here it is revealed in steps: choose order: at_once or next_scale")
        if order.reads_known and head.joint and not head.edits:
            raise ValueError(
                f"tasks give a part of an item and the rest is drawn, and the {type(head).__name__} draws all tokens as one: choose a head "
                "such as flow_matching or diffusion, or leave the tasks out"
            )
        if head.whole and len(self.plan.spans) > 1:
            raise ValueError(f"the {type(head).__name__} draws all tokens together, and here are several blocks: choose order: at_once")
        if condition is not None and condition.loss_weight:
            if not backbone.prefixed:
                raise ValueError(f"a {type(condition).__name__} needs backbone: {{transformer: {{condition: prefix}}}}")
            condition.add_output(width)
        if condition is not None and condition.begins:
            check_seen(layout, order, head)
        self.durations = build_durations(layout, self.plan, order.shifted, width, condition, stop_head)
        self.placed: nn.Linear | None = None
        if condition is not None and condition.positioned:
            if self.plan.pattern is not None:
                raise ValueError("vectors along positions need codes as they are: choose the pattern parallel, or picture: {into: states}")
            self.placed = nn.Linear(condition.width, width, bias=False)
            nn.init.zeros_(self.placed.weight)  # an untrained condition changes nothing (InstructPix2Pix, section 3.2)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.placeholder.device

    @property
    def soft_embedding(self) -> SoftCodeEmbedding | None:
        """The embedding, if it takes soft codes."""
        return self.embedding if isinstance(self.embedding, SoftCodeEmbedding) else None

    def shortened_plan(self, length: int) -> SequencePlan:
        """The plan of items of ``length`` tokens along the first axis."""
        return SequencePlan.of(self.order, replace(self.layout, grid=(length, *self.layout.grid[1:])))

    # --- embeddings ---------------------------------------------------------------------------------------------------------------

    def embed(self, values: Tensor) -> Tensor:
        """Token values ``(B, n, C)`` to vectors ``(B, n, D)``."""
        embedded: Tensor = self.embedding(values)
        return embedded

    def position_vectors(self, plan: SequencePlan) -> Tensor:
        """Position embeddings of a plan, ``(N, D)``."""
        vectors: Tensor = self.position_embeddings(self.coordinates if plan is self.plan else plan.coords)
        return vectors

    def embeddings(self, values: Tensor, known: Tensor, span: slice, positions: Tensor) -> Tensor:
        """What the backbone reads at the positions ``span``, ``(B, n, D)``; ``positions`` are the position embeddings, ``(N, D)``."""
        vectors, places = self.order.inputs(self.embed, values, known, self.placeholder, span.start, span.stop), positions[span]
        if not self.backbone.mask_positions:
            places = places.masked_fill(~known[:, span, None], 0)
        return vectors + places

    def added(self, conditioning: Conditioning | None, lengths: Tensor, plan: SequencePlan, prompt: Tensor | None = None) -> Tensor | None:
        """What conditions and durations add to the embeddings in sampling, ``(B, N, D)``; arguments as of :meth:`Durations.inputs`."""
        return _sum(self.durations.inputs(conditioning, lengths, plan, prompt), self._placed(conditioning))

    def _placed(self, conditioning: Conditioning | None) -> Tensor | None:
        if self.placed is None or conditioning is None or conditioning.positions is None:
            return None
        vectors: Tensor = self.placed(conditioning.positions)
        return vectors

    # --- training -----------------------------------------------------------------------------------------------------------------

    def loss(
        self,
        tokens: Tokens,
        prepared: object = None,
        rng: PerSampleRNG | None = None,
        phase: str = MAIN,
        mismatch: PreparedMismatch | None = None,
        on_figure: FigureCallback = ignore_figure,
    ) -> Tensor:
        """Mean over the batch of the head's mean loss at the predicted positions, in the head's unit (softmax: nats per token).

        In training mode, a condition with a :attr:`Condition.loss_weight` has that share of the loss: ``(1 - w) head + w condition``.

        Args:
            tokens: ``(B, N, C)``.
            prepared: Output of the condition's ``prepare``, if the generator has a condition.
            rng: Random numbers of each item (masks, dropped conditions, noise); a fixed stream by default.
            phase: The phase of the training step (:attr:`Head.phases`); in all but the main one the head's loss alone counts.
            mismatch: Conditions of other items, for heads that read them (:attr:`Head.mismatches`).
            on_figure: Called with the figures of a joint head's loss, and of a condition's own.

        Raises:
            ValueError: if a condition is missing, or given to a generator that has none.
        """
        rng = rng or PerSampleRNG(0, range(len(tokens)))
        states = self.training_states(tokens, prepared, rng)
        hidden, targets, mask, plan = states.hidden, states.targets, states.loss_mask, states.plan
        draws = rng.draws("head", hidden.device)
        if self.head.joint:
            spans, share = [slice(*span) for span in plan.spans], 1.0 / states.counts.sum(1)
            draws, parts = draws.each(len(spans)), []
            other = None if mismatch is None or self.condition is None else mismatch.of(self.condition)
            for block, s in enumerate(spans):
                if not bool(mask[:, s].any()):
                    continue  # a block that is always given
                context = plan.head_context(s, states.present, phase, states.conditioning, mask)
                context = replace(context, draws=draws[:, block], mismatch=other, on_figure=on_figure)
                parts.append(states.counts[:, s].sum(1) * share * self.head.loss(hidden[:, s], targets[:, s], context))
            loss = torch.stack(parts).sum() / len(tokens)
        else:
            context = HeadContext(phase=phase, draws=draws.each(hidden.shape[1])[mask])
            loss = (self.head.loss(hidden[mask], targets[mask], context) * states.weights[mask]).sum() / len(tokens)
        if phase != MAIN:
            return loss
        if self.condition is not None and states.prefix is not None and states.conditioning is not None:
            own = self.condition.loss(states.prefix, prepared, states.conditioning)
            on_figure("condition_loss", own.detach())
            if self.training:  # as of a head, what a trained model is measured by is the loss of its tokens
                on_figure("token_loss", loss.detach().expand(len(tokens)))
                loss = (1 - self.condition.loss_weight) * loss + self.condition.loss_weight * own.mean()
        for added in (states.duration_loss, self.durations.loss(hidden, states.lengths, plan)):
            loss = loss if added is None else loss + added
        return loss

    def training_states(self, tokens: Tokens, prepared: object = None, rng: PerSampleRNG | None = None) -> TrainingStates:
        """Hidden vectors under the order's training masks; the arguments and errors of :meth:`loss`."""
        batch, device = len(tokens), tokens.values.device
        rng = rng or PerSampleRNG(0, range(batch))
        conditioning = self._training_condition(prepared, rng)
        plan, lengths = self.plan, tokens.lengths
        if lengths is not None and self.order.shifted and int(lengths.max()) + 1 < self.layout.positions:
            # One position behind the longest item is where a stop head learns that it is over.
            plan = self.shortened_plan(int(lengths.max()) + 1)
        raw = tokens.values[:, : plan.tokens.positions]
        padded = lengths is not None and bool((lengths != plan.tokens.positions).any())
        values, present = plan.build(raw), plan.present(lengths if padded else None, batch)
        if present is not None:
            present = present.to(device)
            values = values.masked_fill(~present, plan.pad)  # padding may hold anything, NaN too
        real = present.any(-1) if padded and present is not None else None
        view = self.order.view(plan.layout, rng, None if real is None else real.cpu())
        known, mask = view.known.to(device), view.loss_mask.to(device)
        attended = None if plan.padding_last else real
        if view.attention_mask is not None:
            attended = view.attention_mask.to(device) if real is None else view.attention_mask.to(device) & real
        if view.extent is not None and view.extent < plan.layout.grid[0]:
            plan = self.shortened_plan(view.extent)
            values, known, mask = (each[:, : plan.layout.positions] for each in (values, known, mask))
        real = torch.ones_like(mask) if real is None else real
        given = self.order.training_values(values, rng) if self.training else values
        embeddings = self.embeddings(given, known, slice(0, plan.layout.positions), self.position_vectors(plan))
        lengths = torch.full((batch,), plan.tokens.positions) if lengths is None else lengths
        added, duration_loss = self.durations.training_inputs(conditioning, raw, lengths, plan)
        added = _sum(added, self._placed(conditioning))
        embeddings = embeddings if added is None else embeddings + added[:, : embeddings.shape[1]]
        own, prefix = self.condition is not None and self.condition.loss_weight > 0, None
        inputs = replace(plan.inputs(embeddings), conditioning=conditioning, known=known, attention_mask=attended, keep_prefix=own)
        hidden = self.backbone(inputs)
        if own:
            prefix, hidden = hidden.split([hidden.shape[1] - plan.layout.positions, plan.layout.positions], dim=1)
        # Every item weighs the same, however many positions it predicts (as MaskGIT's public loss), and in it every code.
        counts = mask.float() if plan.pattern is None or present is None else (mask[..., None] & present).sum(-1)
        if view.loss_weights is not None:
            counts = counts * view.loss_weights.to(device)
        return TrainingStates(hidden, values, mask, real, counts, lengths, plan, duration_loss, conditioning, prefix)

    def _training_condition(self, prepared: object, rng: PerSampleRNG) -> Conditioning | None:
        if self.condition is None:
            if prepared is not None:
                raise ValueError("this generator was trained without a condition: give tokens alone")
            return None
        if prepared is None:
            raise ValueError("this generator needs its condition: give the output of `condition.prepare`")
        prepared = self.condition.noised(prepared, rng.draws("condition", torch.device("cpu")))
        conditioning: Conditioning = self.condition(prepared, self.condition.draw_dropped(rng) if self.training else None)
        return conditioning

    # --- sampling -----------------------------------------------------------------------------------------------------------------

    def generate(
        self,
        conditions: Sequence[object] | None = None,
        count: int | None = None,
        *,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        batch: int = 64,
        lengths: Sequence[int] | None = None,
        start: Tokens | None = None,
        known: Tensor | None = None,
        indices: Sequence[int] | None = None,
        negatives: Sequence[object | None] | None = None,
        weaker: Generator | None = None,
        strength: float = 1.0,
        on_step: StepCallback | None = None,
        **overrides: object,
    ) -> Tokens:
        """Draw tokens, one item per condition.

        Args:
            conditions: One raw condition per item (texts, classes); ``None`` generates ``count`` items without condition.
            count: Items, where there are no conditions.
            sampling: Sampling parameters.
            seed: Item ``i`` draws the random numbers of ``(seed, i)``, whatever the batch; rounding may flip a token in another batch.
            batch: Items computed at once.
            lengths: Tokens of each item, in layouts of one axis. By default they are predicted by durations or ended by a stop head,
                where the generator has them, and otherwise as many as can be.
            start: Tokens of which some are to be kept, ``(count, N, C)``, or ``(1, N, C)`` for all items.
            known: ``(N,)`` bool: the positions to keep from ``start``.
            indices: Numbers ``i`` of the items, instead of 0, 1, ...
            negatives: A raw condition per item that takes the place of the null one in guidance; ``None`` is the null.
            weaker: A generator of the same tokens that takes the place of the null condition (autoguidance, arXiv 2406.02507).
            strength: How much of ``start`` is drawn anew where it is not ``known``, in (0, 1]: a share of the positions of a masked order,
                of the scales of ``next_scale``, or of the way from noise of a joint head (:attr:`Head.edits`).
            on_step: Called with a :class:`StepEvent` after every step, and with every state of a joint head that draws in several steps.
            overrides: Single sampling parameters, by name.

        Returns:
            Tokens ``(count, N, C)``, zeros behind an item's end, with lengths where these were given, predicted or ended. Soft codes are
            continuous tokens: a codebook vector per position, for the tokenizer's decoder alone.

        Raises:
            ValueError: if arguments do not fit the generator or each other, or it is in training mode.
        """
        config = (sampling or SamplingConfig()).override(**overrides)
        request = SamplingRequest.of(
            self,
            conditions,
            count,
            config,
            seed=seed,
            batch=batch,
            lengths=lengths,
            start=start,
            known=known,
            indices=indices,
            negatives=negatives,
            weaker=weaker,
            strength=strength,
        )
        return request.run(batch, on_step)

    def stream(
        self,
        conditions: Sequence[object] | None = None,
        count: int | None = None,
        *,
        every: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        lengths: Sequence[int] | None = None,
        start: Tokens | None = None,
        known: Tensor | None = None,
        negatives: Sequence[object | None] | None = None,
        weaker: Generator | None = None,
        **overrides: object,
    ) -> Iterator[TokenChunk]:
        """Yield tokens once all their codes are drawn, ``every`` or more at a time: together what :meth:`generate` gives.

        Arguments and errors are those of :meth:`generate`; and a ``ValueError`` where items are not drawn side by side.
        """
        config = (sampling or SamplingConfig()).override(**overrides)
        request = SamplingRequest.of(
            self, conditions, count, config, seed=seed, lengths=lengths, start=start, known=known, negatives=negatives, weaker=weaker
        )
        return stream_tokens(request, every)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other
