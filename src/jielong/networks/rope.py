"""Rotary position embedding over 1-D, 2-D and 3-D grids (Su et al., arXiv 2104.09864).

Channel pair ``i`` of a head (channels ``i`` and ``i + D/2``, the Llama convention) is rotated by the angle ``c_a(i) * f_i``, where ``a(i)``
is the axis of the pair and ``c_a`` the position's coordinate on it, so that the product of a query and a key depends on the difference of
their coordinates only. The pairs are divided among the axes in contiguous runs of nearly equal length; in a run of ``p`` pairs the
frequencies are ``base^(-j/p)``. With one axis this is Llama's table.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function

from jielong.networks.autograd import GradContext

RotaryAt = Literal["position", "token"]
"""Whose coordinates rotate queries and keys: the position's, where a token is predicted, or those of the token that stands there."""

CACHED_POSITIONS = 1 << 16  # rows of tables kept by a Rotary: 16 MB at 64 channels in float32
_LOCK = threading.Lock()
"""Guards the tables of all :class:`Rotary`; the lock of a module would not be copied or pickled with it."""


@dataclass(frozen=True)
class Rotation:
    """Rotations of ``n`` positions, at full head width so that applying them takes no slicing."""

    cosine: Tensor  # (n, D): the cosines, twice; (B, 1, n, D) where items differ in their positions
    sine: Tensor  # likewise the sines, negated in the first half

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate ``(..., n, D)``: ``x cos + swap(x) sin``, where ``swap`` exchanges the halves of the channels."""
        swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
        return torch.addcmul(x * self.cosine, swapped, self.sine)

    def of_projection(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, ``(B, heads, n, D)``, from ``(B, n, 3, heads, D)``; the dtype stays."""
        if torch.compiler.is_compiling():
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            return self(q), self(k), v
        rotated: tuple[Tensor, Tensor, Tensor] = _Rotate.apply(qkv, self.cosine, self.sine)
        return rotated

    @functools.cached_property
    def pairs(self) -> Tensor:
        """``(n, D/2)`` complex: ``cos + i sin``, which rotates a pair written as one complex number."""
        half = self.cosine.shape[1] // 2
        with torch.inference_mode(False):
            return torch.complex(self.cosine[:, :half], self.sine[:, half:])

    @functools.cached_property
    def pairs_of_keys_values(self) -> Tensor:
        """``(2, 1, 1, n, D/2)`` complex: :attr:`pairs` for keys, and 1 for values."""
        with torch.inference_mode(False):
            return torch.stack((self.pairs, torch.ones_like(self.pairs)))[:, None, None]

    def at(self, index: Tensor) -> Rotation:
        """The rotations of some positions of each item, ``(B, r)`` indices."""
        return Rotation(self.cosine[index][:, None], self.sine[index][:, None])

    def last(self, count: int) -> Rotation:
        """The rotations of the last ``count`` positions."""
        return self if count == len(self.cosine) else Rotation(self.cosine[-count:], self.sine[-count:])

    def behind(self, count: int, zeros: bool = False) -> Rotation:
        """The rotations preceded by ``count`` identities (for a prefix, which has no coordinates), or by zeros."""
        if count == 0:
            return self
        none = self.cosine.new_zeros(count, self.cosine.shape[1])
        return Rotation(torch.cat((none if zeros else none + 1, self.cosine)), torch.cat((none, self.sine)))


class _Rotate(Function):
    """Rotates queries and keys and moves heads forward, with half of autograd's passes over memory."""

    @staticmethod
    def forward(ctx: GradContext, qkv: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        new_q, new_k = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
        return _rotate(q, cosine, sine, new_q), _rotate(k, cosine, sine, new_k), v.contiguous()

    @staticmethod
    def backward(ctx: GradContext, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _RotateBack.apply(*gradients, cosine, -sine), None, None


class _RotateBack(Function):
    """The transpose of :class:`_Rotate`: the inverse rotation (``sine`` is passed negated)."""

    @staticmethod
    def forward(ctx: GradContext, q: Tensor, k: Tensor, v: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        batch, heads, n, width = q.shape
        qkv = torch.empty(batch, n, 3, heads, width, dtype=q.dtype, device=q.device)
        parts = qkv.permute(2, 0, 3, 1, 4)
        _rotate(q, cosine, sine, parts[0])
        _rotate(k, cosine, sine, parts[1])
        parts[2].copy_(v)
        return qkv

    @staticmethod
    def backward(ctx: GradContext, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return *_Rotate.apply(gradient, cosine, -sine), None, None


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor) -> Tensor:
    """``x cos + swap(x) sin`` without a copy of swapped halves."""
    half = x.shape[-1] // 2
    torch.mul(x, cosine, out=out)
    out[..., :half].addcmul_(x[..., half:], sine[..., :half])
    out[..., half:].addcmul_(x[..., :half], sine[..., half:])
    return out


class Rotary(nn.Module):
    """Tables of rotations, cached by coordinates; threads may share it.

    Args:
        head_width: Channels of a head; even.
        axes: Coordinates of a position.
        base: Ratio between the fastest and (nearly) the slowest frequency.
    """

    frequency: Tensor
    axis: Tensor

    def __init__(self, head_width: int, axes: int, base: float = 10_000.0) -> None:
        super().__init__()
        pairs, odd = divmod(head_width, 2)
        if odd or pairs < axes or axes < 1:
            raise ValueError(
                f"a head of {head_width} channels cannot be rotated over {axes} axes: it needs an even width of at least {2 * axes}"
            )
        runs = [pairs // axes + (axis < pairs % axes) for axis in range(axes)]
        self.axes = axes
        self.register_buffer("frequency", torch.cat([1 / base ** (torch.arange(run).float() / run) for run in runs]), persistent=False)
        self.register_buffer("axis", torch.cat([torch.full((run,), axis) for axis, run in enumerate(runs)]), persistent=False)
        self._tables: OrderedDict[tuple[object, ...], Rotation] = OrderedDict()
        self._rows = 0

    def forward(self, coordinates: Tensor, device: torch.device, dtype: torch.dtype, prefix: int = 0, zeros: bool = False) -> Rotation:
        """The rotations of ``(n, axes)`` coordinates, behind ``prefix`` positions without any; Python reads them, so keep them on the CPU.

        ``zeros``: whether queries and keys of that prefix become zeros (LlamaGen's released weights) and are not left as they are.
        """
        if torch.compiler.is_exporting():  # Python cannot read what is traced
            return self._rotation(coordinates, device, dtype, prefix, zeros)
        key = (tuple(coordinates.flatten().tolist()), device, dtype, prefix, zeros)
        with _LOCK:
            rotation = self._tables.get(key)
            if rotation is not None:
                self._tables.move_to_end(key)
                return rotation
        with torch.inference_mode(False):  # tables outlive this call: created outside inference mode, they can be used in training later
            rotation = self._rotation(coordinates, device, dtype, prefix, zeros)
        with _LOCK:
            if key not in self._tables:
                self._tables[key] = rotation
                self._rows += len(rotation.cosine)
            while self._rows > CACHED_POSITIONS and len(self._tables) > 1:
                _, oldest = self._tables.popitem(last=False)
                self._rows -= len(oldest.cosine)
        return rotation

    @torch.no_grad()
    def _rotation(self, coordinates: Tensor, device: torch.device, dtype: torch.dtype, prefix: int, zeros: bool) -> Rotation:
        with torch.autocast(device.type, enabled=False):
            angle = coordinates.to(device, torch.float32)[:, self.axis] * self.frequency  # (n, D/2)
            cosine, sine = angle.cos(), angle.sin()
            tables = torch.cat((cosine, cosine), -1).to(dtype), torch.cat((-sine, sine), -1).to(dtype)
            return Rotation(*tables).behind(prefix, zeros)
