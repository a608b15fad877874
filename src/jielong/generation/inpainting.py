"""Completion: keep a part of a picture, and let the generator draw the rest."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jielong.core.tokens import Layout
from jielong.generation.plan import SequencePlan
from jielong.orders.base import Order

Side = Literal["upper", "lower", "left", "right"]


def kept(layout: Layout, order: Order, side: Side) -> Tensor:
    """Which positions stand in one half of a picture, ``(N,)`` bool; of an odd number of rows or columns the middle one is upper or left.

    Raises:
        ValueError: if tokens do not stand in rows and columns, or the order draws from top left and would not see that half.
    """
    if layout.scales or len(layout.grid) not in (2, 3):
        places = "several scales" if layout.scales else f"a grid of {layout.grid}"
        raise ValueError(f"half of a picture is kept where tokens stand in rows and columns, and these stand in {places}")
    _check_seen(layout, order)
    if order.shifted and side in ("lower", "right"):
        raise ValueError(
            f"this generator draws from the top left, so it would draw the rest without having seen the {side} half: keep upper or left, "
            "or take a generator of masked order, which sees all that is kept"
        )
    axis = 0 if side in ("upper", "lower") else 1
    first = 2 * layout.coordinates()[:, axis] < layout.grid[axis]
    return first if side in ("upper", "left") else ~first


def begun(layout: Layout, order: Order, count: int) -> Tensor:
    """The first ``count`` positions of sound, ``(N,)`` bool.

    Raises:
        ValueError: if there is none of them, or no other, or the order would not see them.
    """
    if not 0 < count < layout.positions:
        raise ValueError(
            f"this recording comes to {count} tokens, and sound here to {layout.positions} at most: give one of 1 to {layout.positions - 1}"
        )
    _check_seen(layout, order)
    return torch.arange(layout.positions) < count


def _check_seen(layout: Layout, order: Order) -> None:
    if order.shifted and len(SequencePlan.of(order, layout).spans) == 1:
        raise ValueError(
            "this generator draws everything at once, so it would not see what is kept: take a generator of masked order, which does"
        )
