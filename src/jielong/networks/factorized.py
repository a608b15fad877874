"""Factorised attention over clips: layers that attend within a frame and along time at one place, in turn (STDiT, arXiv 2412.20404).

A clip of ``T`` frames of ``S`` places costs ``T S (S + T)`` pairs in two layers in place of ``2 (T S)^2``. Two layers together let every
position read every other one that it may see, where positions of a frame are in one block; in raster order, where they are not, a position
reads of an earlier frame what is before its own place.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jielong.networks.attention import additive, attention

Along = Literal["places", "time"]
TURNS: tuple[Along, Along] = ("places", "time")
"""What layers attend along, one after the other."""


def along_of(layer: int) -> Along:
    """What a layer attends along."""
    return TURNS[layer % len(TURNS)]


def same(coords: Tensor, others: Tensor, along: Along) -> Tensor:
    """``(n, m)`` bool: whether positions are in one frame, or at one place; coordinates ``(n, 3)`` and ``(m, 3)``."""
    if along == "places":
        return coords[:, None, 0] == others[None, :, 0]
    return (coords[:, None, 1:] == others[None, :, 1:]).all(-1)


@dataclass(frozen=True)
class Clip:
    """The grid of whole frames."""

    frames: int  # T
    places: int  # S, of a frame

    @staticmethod
    def of(coords: Tensor) -> Clip | None:
        """That of coordinates ``(n, 3)`` in raster order; ``None`` where a frame is not whole."""
        frames = int(coords[-1, 0] - coords[0, 0]) + 1
        places, rest = divmod(len(coords), frames)
        if rest or not torch.equal(coords[:, 0] - coords[0, 0], torch.arange(len(coords)) // max(places, 1)):
            return None
        alike = bool((coords.view(frames, places, -1)[:, :, 1:] == coords[:places, 1:]).all())
        return Clip(frames, places) if alike else None

    def split(self, x: Tensor, along: Along) -> Tensor:
        """``(B, heads, T S, D)`` to ``(B T, heads, S, D)`` along places, or ``(B S, heads, T, D)`` along time."""
        parts = x.unflatten(2, (self.frames, self.places))
        return (parts.permute(0, 2, 1, 3, 4) if along == "places" else parts.permute(0, 3, 1, 2, 4)).flatten(0, 1)

    def joined(self, x: Tensor, along: Along) -> Tensor:
        """The inverse of :meth:`split`."""
        parts = x.unflatten(0, (-1, self.frames if along == "places" else self.places))
        return (parts.permute(0, 2, 1, 3, 4) if along == "places" else parts.permute(0, 2, 3, 1, 4)).flatten(2, 3)

    def count(self, along: Along) -> int:
        """How many parts an item is split into."""
        return self.frames if along == "places" else self.places


@dataclass(frozen=True)
class Factor:
    """Attention of one layer over whole frames."""

    clip: Clip
    along: Along
    mask: Tensor | None  # (S, S) or (T, T), added to the scores

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``(B, heads, T S, D)`` each to the same."""
        q, k, v = (self.clip.split(x, self.along) for x in (q, k, v))
        return self.clip.joined(attention(q, k, v, self.mask), self.along)


def factors(allowed: Tensor, coords: Tensor, dtype: torch.dtype) -> tuple[Factor, Factor] | None:
    """The two kinds of layers of whole frames under a mask ``(n, n)`` bool; ``None`` where it is not the same in all of them."""
    clip = Clip.of(coords)
    if clip is None:
        return None
    blocks = allowed.view(clip.frames, clip.places, clip.frames, clip.places)
    frames, places = torch.arange(clip.frames, device=allowed.device), torch.arange(clip.places, device=allowed.device)
    inside, through = blocks[frames, :, frames], blocks[:, places, :, places]  # (T, S, S) and (S, T, T)
    if not bool((inside == inside[:1]).all()) or not bool((through == through[:1]).all()):
        return None
    return Factor(clip, "places", _added(inside[0], dtype)), Factor(clip, "time", _added(through[0], dtype))


def _added(allowed: Tensor, dtype: torch.dtype) -> Tensor | None:
    return None if bool(allowed.all()) else additive(allowed, dtype)


@functools.lru_cache(maxsize=16)
def _clip(coords: tuple[int, ...], axes: int) -> Clip:
    clip = Clip.of(torch.tensor(coords).view(-1, axes))
    if clip is None:
        raise ValueError("factorized attention is over whole frames in raster order")
    return clip


def clip_of(coords: Tensor) -> Clip:
    """As :meth:`Clip.of`, remembered. Raises ``ValueError`` where a frame is not whole."""
    return _clip(tuple(coords.flatten().tolist()), coords.shape[1])


def check_axes(axes: int, what: str) -> None:
    """Raise ``ValueError`` unless positions have three coordinates."""
    if axes != 3:
        raise ValueError(f"{what}: factorized attention is of tokens in time, rows and columns, and these have {axes} axes: leave it out")
