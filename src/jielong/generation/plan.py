"""The positions that an order walks through: their coordinates, blocks, and the tokens that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jielong.conditions.base import Condition
from jielong.core.phases import MAIN
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.networks.backbone import AnyBackbone, BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.orders.base import Order
from jielong.orders.patterns import Pattern


@dataclass(frozen=True, eq=False)
class SequencePlan:
    """An order applied to a layout.

    Attributes:
        tokens: The tokenizer's layout.
        layout: The layout that the order sees; the same unless the order has a pattern.
        pattern: How the order re-arranges codes, if it does.
        coords: Coordinates of the order's positions, ``(N, axes)``, on the CPU.
        blocks: Their blocks, ``(N,)``, on the CPU.
        spans: The blocks as ranges of positions.
        sources: Coordinates of the tokens that positions read (:meth:`Order.sources`), on the CPU.
    """

    tokens: Layout
    layout: Layout
    pattern: Pattern | None
    coords: Tensor
    blocks: Tensor
    spans: list[tuple[int, int]]
    sources: Tensor | None

    @staticmethod
    def of(order: Order, tokens: Layout) -> SequencePlan:
        """The plan of an order over a layout.

        Raises:
            ValueError: if the order cannot serve them.
        """
        pattern = order.pattern(tokens)
        layout = tokens if pattern is None else pattern.layout
        return SequencePlan(tokens, layout, pattern, layout.coordinates(), order.blocks(layout), order.spans(layout), order.sources(layout))

    def inputs(self, embeddings: Tensor, span: slice = slice(None)) -> BackboneInputs:
        """What a backbone reads at the positions ``span`` of embeddings ``(B, n, D)``, without what depends on the items."""
        sources = None if self.sources is None else self.sources[span]
        return BackboneInputs(embeddings, self.coords[span], self.blocks[span], sources=sources)

    @cached_property
    def times(self) -> Tensor:
        """``(N, C)`` long: the tokenizer's position that each entry belongs to; -1 where there is none."""
        if self.pattern is not None:
            return self.pattern.table
        return torch.arange(self.layout.positions)[:, None].expand(-1, self.layout.channels)

    @cached_property
    def last_times(self) -> Tensor:
        """``(N,)`` long: the latest token that has a code at each position."""
        return self.times.amax(1).clamp_min(0)

    @cached_property
    def single(self) -> bool:
        """Whether every position is a block of its own."""
        return len(self.spans) == self.layout.positions

    @cached_property
    def single_first(self) -> bool:
        """Whether each code of the first codebook stands in a block of its own."""
        alone = {start for start, stop in self.spans if stop == start + 1}
        return alone.issuperset((self.times[:, 0] >= 0).nonzero()[:, 0].tolist())

    @cached_property
    def padding_last(self) -> bool:
        """Whether padding comes last, where block-causal attention never sees it: in raster order along time."""
        return self.single and bool((self.times.amax(1).diff() >= 0).all())

    def build(self, values: Tensor) -> Tensor:
        """Token values in the order's layout: ``(B, tokens, C)`` to ``(B, N, C)``."""
        return values if self.pattern is None else self.pattern.build(values)

    def undo(self, values: Tensor) -> Tensor:
        """The inverse of :meth:`build`, of numbers or bools."""
        return values if self.pattern is None else self.pattern.undo(values)

    def present(self, lengths: Tensor | None, batch: int) -> Tensor | None:
        """Which entries each item has, ``(B, N, C)`` bool on the CPU; ``None`` where that is all of them.

        Args:
            lengths: ``(B,)`` tokens an item has; all by default.
            batch: Items.
        """
        if lengths is not None:
            return (self.times >= 0) & (self.times < lengths.cpu()[:, None, None])
        return None if self.pattern is None else self.pattern.present.expand(batch, -1, -1)

    def head_context(
        self,
        span: slice,
        present: Tensor,
        phase: str = MAIN,
        condition: Conditioning | None = None,
        predicted: Tensor | None = None,
    ) -> HeadContext:
        """What a joint head is given of the block ``span`` in a phase of training.

        Args:
            span: The block's positions.
            present: ``(B, N)`` bool: positions that items have.
            phase: The phase.
            condition: The condition of the items.
            predicted: ``(B, N)`` bool: positions with a loss; ``None`` for all that are present.
        """
        real, asked = present[:, span], None if predicted is None else predicted[:, span]
        return HeadContext(
            coords=self.coords[span],
            mask=None if bool(real.all()) else real,
            predicted=None if asked is None or torch.equal(asked, real) else asked,
            condition=condition,
            phase=phase,
        )

    @property
    def pad(self) -> int:
        """The value where an item has no entry: the pattern's, or 0 where nothing reads it."""
        return 0 if self.pattern is None else self.pattern.pad


def check_inputs(order: Order, backbone: AnyBackbone, plan: SequencePlan, condition: Condition | None) -> None:
    """Raise ``ValueError`` if the backbone needs of the chain's inputs what the order has not.

    That is a start for a condition to stand at, whose states the condition must not predict, tokens with a place each, and without position
    embeddings inputs that differ.
    """
    if backbone.positions == "none" and not order.begins_once:
        raise ValueError(
            f"positions: none gives all positions without a token the same input, and with the {type(order).__name__} there are several: "
            "take order: raster or next_scale, or positions: axes"
        )
    if backbone.reads_sources and plan.sources is None:
        raise ValueError(
            f"rotary_at: token rotates by the place of the token that a position reads, and with the {type(order).__name__} that is no "
            "one token: take order: raster, or leave rotary_at out"
        )
    if backbone.start == "placeholder":
        return
    if not order.begins_once or plan.spans[0] != (0, 1):
        raise ValueError(
            f"start: {backbone.start} puts the condition at the first position, and the {type(order).__name__} begins with no single one: "
            "take order: raster, or next_scale over scales that begin with 1 x 1, or leave start out"
        )
    if condition is not None and condition.loss_weight:
        raise ValueError(
            f"the states of a {type(condition).__name__} are predicted, the last of them too, so that it cannot be the chain's start: "
            "leave start out, or set loss_weight: 0"
        )
