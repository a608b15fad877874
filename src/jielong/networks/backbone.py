"""What a generator needs of a network: what is known so far goes in, a hidden vector a position comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from jielong.config.speed import Lazy
from jielong.networks.conditioning import Conditioning
from jielong.networks.lazy import LazyCache


class BackboneCache(Protocol):
    """What a backbone remembers of the positions it has passed; what is inside is the backbone's own business.

    Attributes:
        started: Whether the first call has been made, which takes the condition in.
    """

    started: bool

    def rows(self, index: slice) -> Self:
        """A cache of some items that goes on by itself; it may share this one's memory, which is then not to be used any more."""


C = TypeVar("C", bound=BackboneCache)


class Backbone(nn.Module, ABC, Generic[C]):
    """Block-causal by construction: a position sees all earlier blocks and its own, whatever is inside.

    Attributes:
        width: Channels ``D`` of inputs and of hidden vectors.
        reads_known: Whether it is also told which positions are known: ``forward`` then takes ``known``, ``(B, n)`` bool.
        reads_real: Whether it can leave out positions that an item does not have: ``forward`` then takes ``real``, ``(B, n)`` bool, and
            no position sees one that is not real.
    """

    width: int
    reads_known: ClassVar[bool] = False
    reads_real: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self,
        inputs: Tensor,
        coordinates: Tensor,
        blocks: Tensor,
        conditioning: Conditioning | None = None,
        cache: C | None = None,
        commit: bool = True,
    ) -> Tensor:
        """Hidden vectors ``(B, n, D)``.

        Without a cache the positions are the first ``n`` and see each other, block by block: the naive reference. With a cache they come
        behind those in it, and see them too. The condition is given to the first cached call alone. A call with ``commit=False`` leaves
        the cache as it was (but for the condition). Cached calls keep no gradients.

        Args:
            inputs: ``(B, n, D)``, what the order puts at each position.
            coordinates: ``(n, axes)`` positions on the grid, on the CPU.
            blocks: ``(n,)`` non-decreasing block indices, on the CPU.
            conditioning: The condition, if the network takes one.
            cache: From :meth:`new_cache`.
            commit: Whether the cache keeps these positions.

        Raises:
            ValueError: if shapes do not fit, a condition is missing or not wanted, or the cache is full.
        """

    @abstractmethod
    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> C:
        """An empty cache for ``batch`` items of ``positions`` positions and a condition of ``prefix`` states."""

    def new_lazy_cache(self, lazy: Lazy, batch: int, positions: int, prefix: int = 0) -> LazyCache:
        """A cache for lazy steps of a masked block (:mod:`jielong.networks.lazy`), for networks that have them.

        Raises:
            ValueError: if the network has none, or the order's blocks are several.
        """
        raise ValueError(f"a {type(self).__name__} computes everything at every step; lazy steps are for the backbones transformer and mar")

    @abstractmethod
    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes that ``new_cache(batch, positions, prefix, dtype)`` takes."""

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` if the network cannot serve an order. Attention serves all; masks and recurrences do not.

        Args:
            blocks: The block of every position, ``(N,)``.
            shifted: Whether what stands at a position is made from earlier blocks alone.
        """
        return


def check_raster(network: nn.Module, blocks: Tensor, shifted: bool, sees: str = "what is above and to the left") -> None:
    """Raise ``ValueError`` unless every position is a block of its own and holds the token before it."""
    if not shifted or not torch.equal(blocks.cpu(), torch.arange(len(blocks))):
        raise ValueError(f"a {type(network).__name__} sees {sees}, and so needs order: raster")


AnyBackbone = Backbone[Any]
"""A backbone, whatever its cache is."""
