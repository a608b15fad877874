"""Repeated blocks: the unit in which training recomputes activations, compiles, and divides weights among processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class RepeatedBlock(nn.Module):
    """Base of the blocks that a network repeats; nothing but its call, and those of :meth:`called_alone`, reads its weights.

    Attributes:
        recomputed: Whether a call keeps its inputs alone for the backward pass, which computes the block again (arXiv 1604.06174). The
            second call reads the same context variables and the same state of torch's generators, so it draws the same numbers.

    A block that was compiled (:meth:`torch.nn.Module.compile`) is compiled in training alone; sampling and evaluation run it as it is.
    """

    recomputed: bool = False

    def called_alone(self) -> list[nn.Module]:
        """Parts that are called outside of the block's forward pass."""
        return []

    def __call__(self, *args: object) -> Any:
        """The block's forward pass."""
        call = super().__call__ if self.training else self._call_impl
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(copy_context().run, call, *args, use_reentrant=False)
        return call(*args)


def blocks_of(model: nn.Module) -> Iterator[tuple[str, RepeatedBlock]]:
    """The outermost repeated blocks of a model with their names."""
    for name, child in model.named_children():
        if isinstance(child, RepeatedBlock):
            yield name, child
        else:
            yield from ((f"{name}.{inner}", block) for inner, block in blocks_of(child))
