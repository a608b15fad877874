"""Completion (inpainting): keep a part of an item and generate the rest."""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from jielong.core.medium import Axis
from jielong.core.tokens import Layout
from jielong.generation.plan import SequencePlan
from jielong.heads.base import Head
from jielong.orders.base import Order
from jielong.orders.tasks import Task, known_region

Half = Literal["first", "last", "upper", "lower", "left", "right"]
Side = Half | Task
"""A half along an axis, or the region of a task, such as the first frame (``frame_prediction``)."""
_AXES: dict[Half, Axis] = {"first": "time", "last": "time", "upper": "rows", "lower": "rows", "left": "columns", "right": "columns"}


def kept(layout: Layout, order: Order, side: Side, head: Head | None = None) -> Tensor:
    """Mask of the positions in one half along an axis, ``(N,)`` bool; the middle one of an odd number is in the first half.

    ``first`` and ``last`` are halves along time, ``upper`` and ``lower`` along rows, ``left`` and ``right`` along columns. Other names are
    those of tasks (:func:`jielong.orders.tasks.known_region`).

    Raises:
        ValueError: if the tokens have no such axis, or the order would not see that half.
    """
    if side not in get_args(Half):
        return _of_task(layout, order, cast("Task", side), head)
    side = cast("Half", side)
    sides = [name for name, axis in _AXES.items() if axis in layout.axes and not layout.scales]
    if side not in sides:
        choices = f"keep {' or '.join(sides)}" if sides else "no half of it can be kept"
        raise ValueError(f"the tokens have {layout.describe()}, which has no {side} half: {choices}")
    check_seen(layout, order, head)
    if order.shifted and not order.reads_known and not _joint(head) and side in ("last", "lower", "right"):
        raise ValueError(
            f"this generator draws in raster order, so it would draw the rest before it sees the {side} half: keep "
            f"{' or '.join(name for name in sides if name in ('first', 'upper', 'left'))}, or use a generator with a masked order"
        )
    axis = layout.axes.index(_AXES[side])
    first = 2 * layout.coordinates()[:, axis] < layout.grid[axis]
    return first if side in ("first", "upper", "left") else ~first


def _of_task(layout: Layout, order: Order, task: Task, head: Head | None) -> Tensor:
    """The region of a task. Raises ``ValueError`` if what is drawn would not depend on all of it."""
    known = known_region(layout, task)
    check_seen(layout, order, head)
    blocks = order.blocks(layout)
    if known[: len(blocks)].shape == blocks.shape and bool(known.any()):
        late = int(blocks[known].max())
        if late > int(blocks[~known].min()) and bool(known[blocks == late].all()):
            raise ValueError(
                f"this generator draws positions of the task {task} before it sees all that is kept: keep frame_prediction, the first "
                "frame, or use a generator with the order masked or at_once"
            )
    return known


def begun(layout: Layout, order: Order, count: int) -> Tensor:
    """Mask of the first ``count`` positions along time, ``(N,)`` bool.

    Raises:
        ValueError: if none or all are kept, or the order would not see them.
    """
    if not 0 < count < layout.positions:
        raise ValueError(
            f"this recording has {count} of the {layout.positions} tokens of an item: give one of 1 to {layout.positions - 1} tokens"
        )
    check_seen(layout, order)
    return torch.arange(layout.positions) < count


def check_seen(layout: Layout, order: Order, head: Head | None = None) -> None:
    """Raise ``ValueError`` if what is drawn would not depend on what is kept; ``head``: the generator's, where it may hold tokens."""
    if order.shifted and not order.reads_known and len(SequencePlan.of(order, layout).spans) == 1 and not _joint(head):
        raise ValueError("this generator draws all tokens at once and would not see what is kept: use a generator with a masked order")


def _joint(head: Head | None) -> bool:
    return head is not None and head.joint and head.edits


def drawn_positions(layout: Layout, mask: Tensor) -> Tensor:
    """Positions whose pixels a mask ``(H, W)`` bool touches, ``(N,)`` bool.

    Of coarse scales those of which the mask covers more than half, and the only position of a scale if it covers everything (VAR, section
    4.4, where a scale's tokens outside are the picture's own).

    Raises:
        ValueError: if the tokens have no rows and columns.
    """
    if layout.axes[:2] != ("rows", "columns"):
        raise ValueError(f"the tokens have {layout.describe()}, so no token has a region of its own: leave the region out")
    pixels, parts = mask.float()[None], list[Tensor]()
    for scale in layout.scales[:-1]:
        share = adaptive_avg_pool2d(pixels, (scale[0], scale[1]))[0]
        parts.append((share > 0.5 if share.numel() > 1 else share == 1).flatten())
    finest = adaptive_max_pool2d(pixels, (layout.grid[0], layout.grid[1]))[0] > 0
    parts.append(finest.flatten().repeat_interleave(math.prod(layout.grid[2:])))
    return torch.cat(parts)
