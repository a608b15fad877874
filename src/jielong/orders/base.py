"""The interface of orders: an order divides the positions of a layout into blocks and defines the steps inside a block.

Attention is block-causal: a position attends to all earlier blocks and its own. In a *shifted* block the inputs depend on earlier blocks
alone (raster: the previous token), so the block's keys and values are cached at once. In a *masked* block the inputs are the block's known
tokens, and a placeholder elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jielong.config.registry import Part
from jielong.config.sampling import SamplingConfig, Schedule
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout

if TYPE_CHECKING:
    from jielong.heads.base import HeadSettings
    from jielong.orders.patterns import Pattern
    from jielong.tokenizers.base import Tokenizer

Embed = Callable[[Tensor], Tensor]
"""Token values ``(B, n, C)`` to vectors ``(B, n, D)``."""


@dataclass(frozen=True)
class TrainingView:
    """The masks of a training step, ``(B, N)`` bool each."""

    known: Tensor  # positions that hold their own token (masked blocks only)
    loss_mask: Tensor  # positions whose token the loss predicts
    attention_mask: Tensor | None = None  # positions that others attend to; all that an item has by default
    loss_weights: Tensor | None = None  # relative weight of each predicted position, (B, N) float; equal by default
    extent: int | None = None  # places along the first axis that are computed: what lies behind them is not read; all by default


@dataclass(frozen=True)
class Step:
    """One step inside a block."""

    index: int  # index of the step in the block, from 0
    count: int  # number of steps of the block
    hidden_before: int  # unknown positions of the block before the step
    hidden_after: int  # unknown positions after it

    @property
    def progress(self) -> float:
        """Fraction of the steps done after this one, in (0, 1]."""
        return (self.index + 1) / self.count


class Order(ABC):
    """Which tokens are drawn next, and which of them together."""

    shifted: bool
    """Whether inputs depend on earlier blocks alone."""
    begins_once: bool = False
    """Whether the placeholder stands at the first position alone: the chain has a start."""
    reads_known: bool = False
    """Whether, although :attr:`shifted`, the inputs hold tokens of the own block that are given."""
    predicts_all: bool = True
    """Whether what a training view predicts, of a :attr:`shifted` order, is all that items have."""
    usual_strength: float | None = None
    """Of edits of a whole picture; ``None`` where an edit draws all of a region (:meth:`redrawn`)."""
    any_extent: bool = False
    """Whether it goes along the first axis, so that items may have other numbers of places on it (:attr:`SamplingConfig.frames`)."""
    relative_axes: tuple[int, ...] = ()
    """Axes without learned position embeddings, whose places the backbone alone knows, relative to each other."""

    @abstractmethod
    def blocks(self, layout: Layout) -> Tensor:
        """The block index of every position, ``(N,)`` long, non-decreasing."""

    def embedding(self, tokenizer: Tokenizer, width: int) -> nn.Module | None:
        """A special map from token values to vectors of ``width`` channels, used as ``embed`` of :meth:`inputs`; ``None`` for the default.

        A :class:`jielong.networks.embedding.SoftCodeEmbedding` allows soft codes. Raises ``ValueError`` if the tokenizer lacks what the
        order needs.
        """
        return None

    def sources(self, layout: Layout) -> Tensor | None:
        """Coordinates of the token that each position reads, ``(N, axes)``, -1 at the first, which reads none; ``None``: no one token."""
        return None

    @abstractmethod
    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """Inputs of positions ``start`` to ``stop`` (exclusive), before position embeddings: ``(B, stop - start, D)``.

        Args:
            embed: Maps token values to vectors.
            values: Token values, ``(B, N, C)``.
            known: Known positions, ``(B, N)`` bool.
            placeholder: The learned vector of unknown tokens, ``(D,)``.
            stop: One past the last position.
        """

    def view(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> TrainingView:
        """The masks of a training step; by default one pass predicts all positions that items have (``present``, ``(B, N)`` bool)."""
        everything = torch.ones(len(rng), layout.positions, dtype=torch.bool)
        return TrainingView(everything, everything if present is None else present)

    def training_values(self, values: Tensor, rng: PerSampleRNG) -> Tensor:
        """Token values ``(B, N, C)`` as inputs are made of them in training, such as with noise; targets stay as they are."""
        return values

    def pattern(self, layout: Layout) -> Pattern | None:
        """The codebooks' arrangement; its layout replaces ``layout`` elsewhere. Raises ``ValueError`` if tokens cannot be arranged so."""
        return None

    def spans(self, layout: Layout) -> list[tuple[int, int]]:
        """The blocks as ``(start, stop)`` ranges of positions, in order."""
        _, sizes = torch.unique_consecutive(self.blocks(layout), return_counts=True)
        stops = sizes.cumsum(0).tolist()
        return list(zip([0, *stops[:-1]], stops, strict=True))

    def sampling_at(self, layout: Layout, start: int, step: Step, config: SamplingConfig, first: int = 0) -> SamplingConfig:
        """The sampling parameters of a step in the block that begins at ``start``; the first block that is drawn begins at ``first``."""
        return config

    def span_of_window(self, layout: Layout, window: int) -> int:
        """Positions of the last ``window`` places along the first axis up to the end of a block, at most: what a cache holds of them."""
        return layout.positions

    def given_positions(self, layout: Layout) -> Tensor | None:
        """Positions that are always given and never drawn, ``(N,)`` bool; ``None`` where all may be drawn."""
        return None

    def check_known(self, layout: Layout, known: Tensor | None) -> None:
        """Raise ``ValueError`` if the order cannot begin with these positions given, ``(N,)`` bool; ``None`` for nothing given."""
        return

    def steps(self, unknown: int, steps: int | None, schedule: Schedule | None = None) -> Iterator[Step]:
        """The steps of a block; a single one unless the order reveals gradually.

        Args:
            unknown: Number of unknown positions.
            steps: Number of steps; the order's by default.
            schedule: How the fraction of unknown positions falls; the order's by default.
        """
        yield Step(index=0, count=1, hidden_before=unknown, hidden_after=0)

    @property
    def gradual(self) -> bool:
        """Whether a block may take several steps (:meth:`steps`)."""
        return type(self).steps is not Order.steps

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Raise ``ValueError`` for parameters that the order has not.

        They are ``frames`` and ``window`` unless it goes frame by frame, and ``steps`` and ``schedule``, which are of a block's steps, if
        it draws each block in one.
        """
        for name in ("frames", "window"):
            if (number := getattr(sampling, name)) is not None and not self.any_extent:
                raise ValueError(
                    f"{name} {number}: the {type(self).__name__} does not go frame by frame, as the order frames: leave it out"
                )
        if self.gradual:
            return
        for name in ("steps", "schedule"):
            if (value := getattr(sampling, name)) is not None:
                raise ValueError(
                    f"{name} {value}: the {type(self).__name__} draws each block in one step, and {name} is for an order that reveals a "
                    "block in several, such as masked: leave it out; the evaluations of an iterative head, such as flow_matching, are "
                    "num_inference_steps"
                )

    def queue(self, unknown: Tensor, rng: PerSampleRNG) -> Tensor | None:
        """Indices of the unknown positions in the order of their reveal, ``(B, unknown)`` long, where chosen before sampling.

        The head then draws only at the positions of a step. ``None`` where :meth:`reveal` chooses. ``unknown`` is ``(B, n)`` bool, with the
        same count in every item.
        """
        return None

    def redrawn(self, layout: Layout, unknown: Tensor, strength: float, rng: PerSampleRNG) -> Tensor:
        """Of the ``unknown`` positions of an item those that an edit draws, ``(B, N)`` bool both, of which it keeps the others.

        ``strength`` is in (0, 1]; 1 draws all. Raises ``ValueError`` if the order draws all of a region.
        """
        if strength < 1:
            raise ValueError("this order draws all of a region: leave the strength out (1), or use a masked order, next_scale or at_once")
        return unknown

    def head_strength(self, strength: float) -> float:
        """Of an edit's ``strength`` that of a joint head's :class:`Source`: 1, from noise, where :meth:`redrawn` keeps what is weaker."""
        return 1.0

    def describe_redrawn(self, layout: Layout, count: int, strength: float) -> str:
        """What of a region of ``count`` positions an edit of a strength below 1 draws, in words."""
        return ""

    def reveal(self, step: Step, unknown: Tensor, confidence: Tensor | None, rng: PerSampleRNG) -> Tensor:
        """The drawn tokens to keep: ``(B, n)`` bool, a subset of ``unknown``; all by default."""
        return unknown


class OrderSettings(Part):
    """Settings of an order."""

    @property
    def random_positions(self) -> bool:
        """Whether the positions of a step are chosen before sampling (:meth:`Order.queue`)."""
        return False

    def check_head(self, head: HeadSettings) -> None:
        """Raise ``ValueError`` if the order needs what the draws of ``head`` do not have; nothing is needed by default."""

    def scales_of(self, layout: Layout) -> tuple[tuple[int, int], ...]:
        """Scales that a tokenizer's tokens are divided into, coarse to fine; none by default, which leaves them as they are.

        Raises ``ValueError`` if tokens of this layout cannot be divided so.
        """
        return ()

    @abstractmethod
    def build(self) -> Order:
        """The order."""
