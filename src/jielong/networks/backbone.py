"""The interface of backbones: embeddings of the tokens so far in, a hidden vector per position out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from jielong.config.sampling import Lazy
from jielong.networks.chain_start import Start
from jielong.networks.conditioning import Conditioning
from jielong.networks.embedding import Positions
from jielong.networks.lazy import LazyCache


@dataclass(frozen=True)
class BackboneInputs:
    """What a backbone reads."""

    embeddings: Tensor  # (B, n, D)
    coords: Tensor  # (n, axes) coordinates of the positions, on the CPU, as Python reads them
    blocks: Tensor  # (n,) non-decreasing block indices, on the CPU
    conditioning: Conditioning | None = None  # the condition, if the network takes one; of cached calls the first alone has it
    # (B, n) bool: positions that hold a known token and no placeholder, for networks that treat them differently.
    known: Tensor | None = None
    attention_mask: Tensor | None = None  # (B, n) bool: positions that are attended to; None for all of them
    window: int | None = None  # places along the first axis that a position attends to, the last being its own; None for all
    keep_prefix: bool = False  # also return the hidden vectors of the condition's prefix, before those of the positions
    # (n, axes) coordinates of the tokens that the positions read, -1 where that is none, on the CPU; None where it is no one token.
    sources: Tensor | None = None


class BackboneCache(Protocol):
    """State of cached calls. ``started``: whether the first call, which takes the condition in, has been made."""

    started: bool

    @property
    def batch(self) -> int:
        """Items."""

    def rows(self, index: slice) -> Self:
        """The cache of some items; it may share memory with this one, which is then not to be used any more."""


C = TypeVar("C", bound=BackboneCache)


class Backbone(nn.Module, ABC, Generic[C]):
    """A block-causal network: a position attends to all earlier blocks and its own."""

    width: int  # channels D of embeddings and of hidden vectors
    conditioned: bool  # whether it takes a condition
    prefixed: bool = False  # whether the condition's states are positions before all others (BackboneInputs.keep_prefix)
    start: Start = "placeholder"  # what stands at the first position
    reads_sources: bool = False  # whether it needs BackboneInputs.sources
    mask_positions: bool = True  # whether vectors at unknown positions of a masked block have their position embedding
    positions: Positions = "axes"  # the position embeddings that are added to its inputs
    supports_window: ClassVar[bool] = False  # whether it can leave out what lies far behind (BackboneInputs.window)
    supports_attention_mask: ClassVar[bool] = False  # whether it can leave out positions (BackboneInputs.attention_mask)

    @abstractmethod
    def forward(self, inputs: BackboneInputs, cache: C | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, n, D)``; ``(B, L + n, D)`` with :attr:`BackboneInputs.keep_prefix`.

        ``commit``: whether the cache keeps these positions.

        Without a cache the positions are the first ``n`` and attend to each other, block by block: the naive reference. With a cache they
        follow those in it and attend to them too. A call with ``commit=False`` leaves the cache as it was (but for the condition). Cached
        calls keep no gradients. Raises ``ValueError`` if shapes do not fit, a condition is missing or not wanted, or the cache is full.
        """

    def check(self, inputs: BackboneInputs, cache: BackboneCache | None) -> None:
        """Raise ``ValueError`` unless shapes fit, and the condition is given where, and only where, it is wanted."""
        shape, n = inputs.embeddings.shape, len(inputs.blocks)
        if len(shape) != 3 or shape[2] != self.width:
            raise ValueError(f"embeddings must be (batch, positions, {self.width}), not {tuple(shape)}")
        if shape[1] != n or inputs.coords.ndim != 2 or len(inputs.coords) != n:
            raise ValueError(f"{shape[1]} positions need as many coordinates and blocks, not {tuple(inputs.coords.shape)} and {n}")
        if inputs.attention_mask is not None and not self.supports_attention_mask:
            raise ValueError(
                f"a {type(self).__name__} cannot mask the padding of shorter items; in an order other than raster, items of different "
                "lengths need the backbone transformer or mar"
            )
        if self.reads_sources and inputs.sources is None:
            raise ValueError(
                "rotary_at: token rotates by places of the tokens that positions read, and here these are not known: leave it out"
            )
        if inputs.window is not None and not self.supports_window:
            raise ValueError(f"a {type(self).__name__} has no window of frames: choose the backbone transformer")
        started = cache is not None and cache.started
        if not self.conditioned and inputs.conditioning is not None:
            raise ValueError(f"this {type(self).__name__} takes no condition, but one was given")
        if self.conditioned and inputs.conditioning is None and not started:
            raise ValueError(f"this {type(self).__name__} takes a condition, but none was given")
        if inputs.keep_prefix and (cache is not None or not self.prefixed):
            raise ValueError("hidden vectors of a prefix are those of a transformer with condition: prefix, without a cache")
        if inputs.conditioning is not None and started:
            raise ValueError("the cache holds a condition already: give it to the first cached call only")
        if cache is not None and cache.batch != shape[0]:
            raise ValueError(f"the cache is for a batch of {cache.batch}, not {shape[0]}")

    @abstractmethod
    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> C:
        """An empty cache for ``batch`` items of ``positions`` positions and a condition of ``prefix`` states."""

    def new_lazy_cache(self, lazy: Lazy, batch: int, positions: int, prefix: int = 0) -> LazyCache:
        """A cache for lazy steps (:mod:`jielong.networks.lazy`). Raises ``ValueError`` without any, or if the order has several blocks."""
        raise ValueError(f"a {type(self).__name__} computes everything at every step; lazy steps are for the backbones transformer and mar")

    def mask_last(self, cache: C, rows: Tensor) -> None:
        """Let no later call attend to the last committed position of the items ``rows``, ``(B,)`` bool, which turned out to be padding."""
        return

    @abstractmethod
    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes that ``new_cache(batch, positions, prefix, dtype)`` takes."""

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` if the network cannot serve an order. Attention serves all; masks and recurrences do not.

        ``blocks``: the block of every position, ``(N,)``; ``shifted``: whether what stands at a position is made from earlier blocks alone.
        """
        return


def check_raster(network: nn.Module, blocks: Tensor, shifted: bool, sees: str = "what is above and to the left") -> None:
    """Raise ``ValueError`` unless every position is a block of its own and holds the token before it."""
    if not shifted or not torch.equal(blocks.cpu(), torch.arange(len(blocks))):
        raise ValueError(f"a {type(network).__name__} sees {sees}, and so needs order: raster")


AnyBackbone = Backbone[Any]
"""A backbone, whatever its cache is."""
