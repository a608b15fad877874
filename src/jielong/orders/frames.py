"""Frame by frame: a block of frames after the other, each revealed in steps, token by token or at once (VideoMAR, arXiv 2506.14168).

With ``inside: masked`` the inputs of a frame are its own known tokens, and earlier frames are seen clean. So a training step draws one
block of frames: those before it are known, a share of its tokens is masked and predicted, and what follows is cut off, as at sampling. With
``inside: raster`` or ``at_once`` the inputs are made of earlier tokens alone, and one pass trains all frames. In sampling, the keys and
values of a finished block are computed from its complete tokens and kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, SerializeAsAny, field_validator
from torch import Tensor, nn

from jielong.config.registry import OfFamily
from jielong.config.sampling import SamplingConfig, Schedule
from jielong.core.medium import ALONG_FRAMES, Axes
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.networks.embedding import embedding_of
from jielong.orders.at_once import AtOnce
from jielong.orders.base import Embed, Order, OrderSettings, Step, TrainingView
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster
from jielong.orders.ratio import Ratio

if TYPE_CHECKING:
    from jielong.heads.base import HeadSettings
    from jielong.tokenizers.base import Tokenizer


class Frames(OrderSettings, family="order", name="frames"):
    """Settings of the order of frames, of tokens with the axes time, rows and columns.

    Attributes:
        group: Frames of tokens in a block; the last block has what is left.
        inside: The order inside a block: ``masked``, by default with mask ratios of VideoMAR, ``raster``, or ``at_once``, where a block is
            one draw of a joint head (or independent draws) given those before it.
        given: First blocks that are always given, such as a first frame: they are not trained, and a call without them is refused.
        drawn: Whether a training step draws one block for the whole ``batch``, as published, so that what follows is not computed, or one
            for each ``item``; with ``all`` every block is masked at one ratio, so that a block sees earlier ones masked in part, as MAR
            would train on clips and VideoMAR's ablation starts from. Only ``inside: masked`` draws.
        learned_time: Whether frames have learned position embeddings; by default only the rotary positions of a transformer tell them
            apart, which are relative, so that clips may be longer than in training.
        progressive_temperature: Multiply the temperature of the ``t``-th drawn block by ``0.9 + 10^-(t + 1)``, from ``t = 0`` on
            (VideoMAR): 1, 0.91, 0.901, ... It is for heads whose temperature multiplies the noise of the steps, such as diffusion.
    """

    axes: ClassVar[Axes | None] = ALONG_FRAMES
    group: int = Field(default=1, ge=1)
    inside: Annotated[SerializeAsAny[OrderSettings], OfFamily("order")] = Masked(ratio=Ratio(kind="truncated_normal"))
    given: int = Field(default=0, ge=0)
    drawn: Literal["batch", "item", "all"] = "batch"
    learned_time: bool = False
    progressive_temperature: bool = False

    @field_validator("inside")
    @classmethod
    def _known_inside(cls, value: OrderSettings) -> OrderSettings:
        if not isinstance(value, Masked | Raster | AtOnce):
            raise ValueError(f"the tokens of a block are drawn in the order masked, raster or at_once, not {value.name}")
        if isinstance(value, Raster) and value.pattern != "parallel":
            raise ValueError(f"the pattern {value.pattern} mixes codes of several frames: take order: raster, or the pattern parallel here")
        if isinstance(value, Masked | AtOnce) and value.tasks is not None:
            raise ValueError("tasks give parts of a whole clip: they are of order: masked or at_once; here the earlier frames are known")
        return value

    @property
    def random_positions(self) -> bool:
        """See :attr:`OrderSettings.random_positions`."""
        return self.inside.random_positions

    def check_head(self, head: HeadSettings) -> None:
        """See :meth:`OrderSettings.check_head`: as the order inside."""
        self.inside.check_head(head)

    def build(self) -> FramesOrder:
        """The order."""
        if isinstance(self.inside, AtOnce):
            return WholeFramesOrder(self)
        return RasterFramesOrder(self) if isinstance(self.inside, Raster) else FramesOrder(self)


class FramesOrder(Order):
    """One block per group of frames, whose steps are those of the order inside."""

    any_extent = True

    def __init__(self, settings: Frames = Frames()) -> None:
        self.settings, self.inside, self.group, self.given = settings, settings.inside.build(), settings.group, settings.given
        self.shifted, self.usual_strength = self.inside.shifted, self.inside.usual_strength
        self.predicts_all = not self.given
        self.relative_axes = () if settings.learned_time else (0,)

    @property
    def gradual(self) -> bool:
        """See :attr:`Order.gradual`."""
        return self.inside.gradual

    def groups(self, layout: Layout) -> Tensor:
        """The group of frames of every position, ``(N,)``. Raises ``ValueError`` for other axes, and if nothing is left to draw."""
        if layout.axes != ALONG_FRAMES or layout.scales:
            raise ValueError(f"the order frames is of tokens on a grid of time, rows and columns, and these have {layout.describe()}")
        groups = layout.coordinates()[:, 0] // self.group
        if self.given > int(groups[-1]):
            raise ValueError(
                f"order.frames.given: {self.given} blocks of {self.group} frames are given, and the tokens have {layout.grid[0]} frames: "
                "nothing would be drawn"
            )
        return groups

    def blocks(self, layout: Layout) -> Tensor:
        """The group of frames of every position."""
        return self.groups(layout)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See :meth:`Order.check_sampling`; a window holds a block at least."""
        super().check_sampling(sampling)
        if sampling.window is not None and sampling.window < self.group:
            raise ValueError(f"window {sampling.window}: a block of this order is {self.group} frames of tokens, which a window must hold")
        if sampling.lazy is not None:
            raise ValueError("lazy: lazy steps are of one block, and the order frames draws one after the other: leave it out")

    def span_of_window(self, layout: Layout, window: int) -> int:
        """See :meth:`Order.span_of_window`: a block is passed at once, and its first frame looks furthest back."""
        return min(layout.grid[0], window + self.group - 1) * (layout.positions // layout.grid[0])

    def given_positions(self, layout: Layout) -> Tensor | None:
        """Those of the first blocks."""
        return self.groups(layout) < self.given if self.given else None

    def check_known(self, layout: Layout, known: Tensor | None) -> None:
        """Raise ``ValueError`` unless the first blocks are known that always are; see :meth:`Order.check_known`."""
        given = self.given_positions(layout)
        if given is not None and (known is None or not bool(known[given].all())):
            frames = "frame" if self.given * self.group == 1 else f"{self.given * self.group} frames"
            raise ValueError(
                f"this generator continues given frames, and is not given the first {frames} of tokens: give a picture as first_frame "
                "where its condition takes one, a clip of which `complete` keeps frame_prediction, or `start` and `known`"
            )

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """Those of the order inside."""
        return self.inside.inputs(embed, values, known, placeholder, start, stop)

    def view(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> TrainingView:
        """One block is drawn and masked in part, with all before it known and what follows cut off; see :attr:`Frames.drawn`."""
        if self.settings.drawn == "all":
            return self._all_masked(layout, rng)
        groups, count = self.groups(layout), -(-layout.grid[0] // self.group)
        uniform = rng.shared("frame").uniform().expand(len(rng)) if self.settings.drawn == "batch" else rng.uniform().cpu()
        chosen = (self.given + uniform * (count - self.given)).long().clamp_max(count - 1)
        masked = self._masked(layout, rng, chosen, groups)
        return TrainingView(known=(groups <= chosen[:, None]) & ~masked, loss_mask=masked, extent=self._frames(layout, int(chosen.max())))

    def _all_masked(self, layout: Layout, rng: PerSampleRNG) -> TrainingView:
        """All blocks but the given ones are masked, as one block of the order inside."""
        groups, place = self.groups(layout), layout.positions // layout.grid[0]
        trained = groups >= self.given
        inner = self.inside.view(replace(layout, grid=(int(trained.sum()) // place, *layout.grid[1:])), rng)
        masked = torch.zeros(len(rng), layout.positions, dtype=torch.bool)
        masked[:, trained] = inner.loss_mask
        return TrainingView(known=~masked, loss_mask=masked)

    def _frames(self, layout: Layout, group: int) -> int:
        """Frames up to the end of a group."""
        return min(layout.grid[0], (group + 1) * self.group)

    def _masked(self, layout: Layout, rng: PerSampleRNG, chosen: Tensor, groups: Tensor) -> Tensor:
        """Which positions of each item's group are masked, ``(B, N)`` bool."""
        masked, place = torch.zeros(len(rng), len(groups), dtype=torch.bool), len(groups) // layout.grid[0]
        frames = groups.bincount() // place  # of each group
        for count in frames.unique().tolist():
            # All items draw the numbers of every size, so that none depends on the others.
            inner = self.inside.view(replace(layout, grid=(count, *layout.grid[1:])), rng).loss_mask
            for row in (frames[chosen] == count).nonzero()[:, 0].tolist():
                masked[row, groups == chosen[row]] = inner[row]
        return masked

    def sampling_at(self, layout: Layout, start: int, step: Step, config: SamplingConfig, first: int = 0) -> SamplingConfig:
        """With the temperature of :class:`Frames`; ``t`` counts blocks of frames from the first that is drawn."""
        config = self.inside.sampling_at(layout, start, step, config, first)
        if not self.settings.progressive_temperature:
            return config
        size = self.group * (layout.positions // layout.grid[0])
        return config.model_copy(update={"temperature": config.temperature * progressive(start // size - first // size)})

    def steps(self, unknown: int, steps: int | None, schedule: Schedule | None = None) -> Iterator[Step]:
        """Those of the order inside."""
        return self.inside.steps(unknown, steps, schedule)

    def queue(self, unknown: Tensor, rng: PerSampleRNG) -> Tensor | None:
        """That of the order inside."""
        return self.inside.queue(unknown, rng)

    def reveal(self, step: Step, unknown: Tensor, confidence: Tensor | None, rng: PerSampleRNG) -> Tensor:
        """That of the order inside."""
        return self.inside.reveal(step, unknown, confidence, rng)

    def redrawn(self, layout: Layout, unknown: Tensor, strength: float, rng: PerSampleRNG) -> Tensor:
        """Those of the order inside."""
        return self.inside.redrawn(layout, unknown, strength, rng)

    def head_strength(self, strength: float) -> float:
        """That of the order inside."""
        return self.inside.head_strength(strength)

    def describe_redrawn(self, layout: Layout, count: int, strength: float) -> str:
        """That of the order inside."""
        return self.inside.describe_redrawn(layout, count, strength)


class _ShiftedFramesOrder(FramesOrder):
    """Of inputs made of earlier blocks alone: one pass trains all blocks that are not given."""

    def view(self, layout: Layout, rng: PerSampleRNG, present: Tensor | None = None) -> TrainingView:
        """One pass predicts all blocks but the given ones."""
        everything = torch.ones(len(rng), layout.positions, dtype=torch.bool)
        return TrainingView(everything, (self.groups(layout) >= self.given).expand(len(rng), -1))


class RasterFramesOrder(_ShiftedFramesOrder):
    """Token by token: a block is a position, and frames are those of the temperature and of what is given."""

    def blocks(self, layout: Layout) -> Tensor:
        """``0 .. N - 1``."""
        self.groups(layout)
        return torch.arange(layout.positions)


class WholeFramesOrder(_ShiftedFramesOrder):
    """A block at once; the input at a place is the token of the block before at the same place, and the placeholder in the first block."""

    def embedding(self, tokenizer: Tokenizer, width: int) -> nn.Module:
        """See :class:`EarlierFrames`."""
        return EarlierFrames(tokenizer.layout, self.group, width)

    def inputs(self, embed: Embed, values: Tensor, known: Tensor, placeholder: Tensor, start: int, stop: int) -> Tensor:
        """The embedded block before; the placeholder in the first. ``start`` and ``stop`` are boundaries of blocks."""
        later = embed(values[:, :stop])
        first = stop - later.shape[1]
        if first <= 0:
            raise ValueError("frames that are drawn at once read those before them: give the generator order.embedding(tokenizer, width)")
        if start >= first:
            return later[:, start - first :]
        return torch.cat([placeholder.to(later.dtype).expand(len(values), first - start, -1), later], dim=1)


class EarlierFrames(nn.Module):
    """Inputs of all blocks of frames but the first: the tokens one block earlier, embedded.

    Args:
        layout: The tokens, with time first.
        group: Frames in a block.
        width: Channels of the inputs.
    """

    def __init__(self, layout: Layout, group: int, width: int) -> None:
        super().__init__()
        self.size = min(group, layout.grid[0]) * (layout.positions // layout.grid[0])
        self.tokens = embedding_of(layout, width)

    def forward(self, values: Tensor) -> Tensor:
        """``(B, n, C)`` to ``(B, max(n - positions of a block, 0), width)``; the tokens of the last block are not read."""
        vectors: Tensor = self.tokens(values[:, : max(values.shape[1] - self.size, 0)])
        return vectors


def progressive(block: int) -> float:
    """``0.9 + 10^-(t + 1)`` of the ``t``-th drawn block, from 0 on (VideoMAR).

    >>> [round(progressive(block), 6) for block in range(3)]
    [1.0, 0.91, 0.901]
    """
    return 0.9 + 10.0 ** -(block + 1)
