"""Equivalent attention kernels, the rule that selects one, and block-causal masks.

Position ``i`` attends to ``j`` exactly if ``block[j] <= block[i]``: a single block is full attention, one block per position is causal
attention, anything between is a mask.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from jielong.networks.autograd import GradContext

Kernel = Literal["auto", "fused", "plain"]


@dataclass(frozen=True)
class Structure:
    """The block-causal mask of ``n`` positions."""

    kind: Literal["full", "causal", "blocks"]  # full (one block), causal (one block per position) or blocks
    allowed: Tensor  # (n, n) bool, whether the row attends to the column


def structure(blocks: Tensor, device: torch.device) -> Structure:
    """The mask of block indices ``(n,)``, on the CPU; cached by value. Raises ``ValueError`` if the blocks decrease somewhere."""
    return _structure(tuple(blocks.tolist()), device)


@functools.lru_cache(maxsize=64)
def _structure(blocks: tuple[int, ...], device: torch.device) -> Structure:
    steps = [after - before for before, after in itertools.pairwise(blocks)]
    if any(step < 0 for step in steps):
        raise ValueError("block indices must not decrease: a position may only be followed by its own block or a later one")
    with torch.inference_mode(False):
        index = torch.tensor(blocks, device=device)
        allowed = index[None, :] <= index[:, None]
    kind: Literal["full", "causal", "blocks"] = "full" if not any(steps) else "causal" if all(steps) else "blocks"
    return Structure(kind, allowed)


def within(places: Tensor, others: Tensor, window: int) -> Tensor:
    """``(n, m)`` bool: whether each of the ``others`` lies less than ``window`` places behind, or not behind at all."""
    return places[:, None] - others[None, :] < window


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products: autocast's, where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask to add to the scores: 0 where allowed, minus infinity elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -math.inf)


def behind_prefix(allowed: Tensor, real: Tensor, causal: bool = False) -> Tensor:
    """The mask of positions behind a padded prefix: ``(B, 1, P + n, P + n)`` bool.

    Everything attends to the prefix but for its padding; the prefix attends to itself alone, each of its positions to none behind it where
    it is ``causal``. A padded prefix position also attends to
    itself, so that its softmax, which is never read, is defined.

    Args:
        allowed: ``(n, n)`` or ``(B, n, n)`` bool: the mask of the positions.
        real: ``(B, P)`` bool, false at padding of the prefix.
        causal: Whether the prefix is read in order.
    """
    (batch, prefix), n = real.shape, allowed.shape[-1]
    if allowed.ndim == 3:
        batch, allowed = len(allowed), allowed[:, None]
    mask = allowed.new_zeros(batch, 1, prefix + n, prefix + n)
    mask[..., :prefix] = real[:, None, None, :]
    mask[..., :prefix, :prefix] |= torch.eye(prefix, dtype=torch.bool, device=real.device)
    if causal:
        mask[..., :prefix, :prefix] &= torch.ones(prefix, prefix, dtype=torch.bool, device=real.device).tril()
    mask[..., prefix:, prefix:] = allowed
    return mask


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """PyTorch's fused kernel; arguments as in :func:`attention`."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Two batched matrix products and a softmax; arguments as in :func:`attention`.

    The softmax kernel accumulates in float32 whatever its input, so bfloat16 scores need no cast of their own.
    """
    batch, heads, n, width = q.shape
    length = k.shape[2]
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B heads, n or length, width)
    if causal:
        mask = _causal(n, q.device, q.dtype)
    if mask is not None and mask.ndim > 2:
        mask = mask.expand(batch, heads, n, length).reshape(-1, n, length)
    out: Tensor = _Plain.apply(q, k, v, mask, 1 / math.sqrt(width))
    return out.unflatten(0, (batch, heads))


class _Plain(Function):
    """``softmax(s q k' + mask) v`` on ``(B heads, n, width)``; the gradient scales inside the products; none for the mask."""

    @staticmethod
    def forward(ctx: GradContext, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        empty = q.new_empty(1, 1, 1)
        scores = torch.baddbmm(empty if mask is None else mask, q, k.mT, beta=0 if mask is None else 1, alpha=scale)
        weights = scores.softmax(-1).to(v.dtype)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v)

    @staticmethod
    def backward(ctx: GradContext, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights = ctx.saved_tensors
        grad_weights = torch.bmm(gradient, v.mT)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        empty = q.new_empty(1, 1, 1)
        grad_q = torch.baddbmm(empty, grad_scores, k, beta=0, alpha=ctx.scale)
        grad_k = torch.baddbmm(empty, grad_scores.mT, q, beta=0, alpha=ctx.scale)
        return grad_q, grad_k, torch.bmm(weights.mT, gradient), None, None


@functools.lru_cache(maxsize=16)
def _causal(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return additive(torch.ones(n, n, dtype=torch.bool, device=device).tril(), dtype)


def choose(q: Tensor, k: Tensor) -> Literal["fused", "plain"]:
    """The kernel of ``auto``: a fixed rule, so that runs are reproducible.

    On the CPU the backward pass of the fused kernel is slow at short lengths (``benchmarks/backbone.py --attention`` prints the table).
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and k.shape[2] <= 512:
        return "plain"
    return "fused"


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, kernel: Kernel = "auto") -> Tensor:
    """``softmax(q k' / sqrt(D) + mask) v``. Returns ``(B, heads, n, D)``.

    Args:
        q, k, v: Queries ``(B, heads, n, D)``, keys and values ``(B, heads, length, D)``.
        mask: Added to the scores, of their dtype: ``(n, length)`` or broadcastable to ``(B, heads, n, length)``; no row may be all
            minus infinity.
        causal: Query ``i`` sees keys up to ``i``; needs ``n == length`` and no mask.
        kernel: ``fused``, ``plain``, or ``auto`` for the faster (:func:`choose`).

    Raises ``ValueError`` for an unknown kernel, or ``causal`` together with a mask or other lengths.
    """
    if causal and (mask is not None or q.shape[2] != k.shape[2]):
        raise ValueError(f"causal attention takes no mask and as many keys as queries, not {q.shape[2]} queries and {k.shape[2]} keys")
    name = choose(q, k) if kernel == "auto" else kernel
    if name == "plain":
        return plain(q, k, v, mask, causal)
    if name == "fused":
        return fused(q, k, v, mask, causal)
    raise ValueError(f"there is no attention kernel {kernel!r}; choose auto, fused or plain")
