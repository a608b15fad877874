"""Rotary position embedding over 1-D, 2-D and 3-D grids (Su et al., arXiv 2104.09864).

Channel pair ``i`` of a head (channels ``i`` and ``i + D/2``, the Llama convention) is turned by the angle ``c_a(i) * f_i``, where ``a(i)``
is the axis the pair belongs to and ``c_a`` the position's coordinate on it. A query and a key turned so have a product that depends
on the difference of their coordinates only. The pairs are dealt to the axes in runs, as evenly as they go, and inside a run of
``p`` pairs the frequencies fall from 1 as ``base^(-j/p)``; with one axis this is Llama's table exactly.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

REMEMBERED_POSITIONS = 1 << 16  # rows of tables kept by a Rotary: 16 MB at 64 channels in float32


@dataclass(frozen=True)
class Rotation:
    """A rotation for each of ``n`` positions, full head width so that applying it takes no slicing.

    Attributes:
        cosine: ``(n, D)``: the cosines, twice; ``(B, 1, n, D)`` where items have positions of their own.
        sine: The same of the sines, negative in the first half.
    """

    cosine: Tensor
    sine: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn ``(..., n, D)``: ``x cos + swap(x) sin``, where ``swap`` exchanges the halves of the channels."""
        swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
        return torch.addcmul(x * self.cosine, swapped, self.sine)

    def of_projection(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``(B, heads, n, D)`` out of ``(B, n, 3, heads, D)``; the first two turned; the dtype stays."""
        turned: tuple[Tensor, Tensor, Tensor] = _Turn.apply(qkv, self.cosine, self.sine)
        return turned

    @functools.cached_property
    def pairs(self) -> Tensor:
        """``(n, D/2)`` complex: ``cos + i sin``, which turns a pair written as one complex number."""
        half = self.cosine.shape[1] // 2
        with torch.inference_mode(False):
            return torch.complex(self.cosine[:, :half], self.sine[:, half:])

    @functools.cached_property
    def pairs_of_keys_values(self) -> Tensor:
        """``(2, 1, 1, n, D/2)`` complex: the same for keys, and 1 for values, which are not turned."""
        with torch.inference_mode(False):
            return torch.stack((self.pairs, torch.ones_like(self.pairs)))[:, None, None]

    def at(self, index: Tensor) -> Rotation:
        """The rotations of some positions of each item, ``(B, r)`` long."""
        return Rotation(self.cosine[index][:, None], self.sine[index][:, None])

    def behind(self, count: int) -> Rotation:
        """The same after ``count`` positions that are left as they are (a prefix, which stands nowhere on the grid)."""
        if count == 0:
            return self
        identity = self.cosine.new_ones(count, self.cosine.shape[1])
        return Rotation(torch.cat((identity, self.cosine)), torch.cat((torch.zeros_like(identity), self.sine)))


class _Turn(Function):
    """Turning queries and keys, and laying them out head by head, in half the passes over memory that autograd takes for the steps."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        new_q, new_k = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
        return _turn(q, cosine, sine, new_q), _turn(k, cosine, sine, new_k), v.contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _TurnBack.apply(*gradients, cosine, -sine), None, None


class _TurnBack(Function):
    """The transpose of :class:`_Turn`, which turns the other way (``sine`` comes negated)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        batch, heads, n, width = q.shape
        made = torch.empty(batch, n, 3, heads, width, dtype=q.dtype, device=q.device)
        places = made.permute(2, 0, 3, 1, 4)
        _turn(q, cosine, sine, places[0])
        _turn(k, cosine, sine, places[1])
        places[2].copy_(v)
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return *_Turn.apply(gradient, cosine, -sine), None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor) -> Tensor:
    """``x cos + swap(x) sin`` without a copy of swapped halves."""
    half = x.shape[-1] // 2
    torch.mul(x, cosine, out=out)
    out[..., :half].addcmul_(x[..., half:], sine[..., :half])
    out[..., half:].addcmul_(x[..., :half], sine[..., half:])
    return out


_LOCK = threading.Lock()
"""Guards the tables of all modules, which threads may share; of the module itself it could not be copied."""


class Rotary(nn.Module):
    """Tables of rotations, remembered by coordinates, so that decoding the same grid again computes no trigonometry.

    Args:
        head_width: Channels of a head; even.
        axes: Coordinates a position has.
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
        self._remembered: OrderedDict[tuple[object, ...], Rotation] = OrderedDict()
        self._rows = 0

    def forward(self, coordinates: Tensor, device: torch.device, dtype: torch.dtype, prefix: int = 0) -> Rotation:
        """The rotations of ``(n, axes)`` coordinates, behind ``prefix`` unturned positions.

        Coordinates are read by Python to look them up: keep them on the CPU, whatever the device of the model.
        """
        key = (tuple(coordinates.flatten().tolist()), device, dtype, prefix)
        with _LOCK:
            found = self._remembered.get(key)
            if found is not None:
                self._remembered.move_to_end(key)
                return found
        # Tables outlive this call: made outside inference mode, they may serve a training step later.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            angle = coordinates.to(device, torch.float32)[:, self.axis] * self.frequency  # (n, D/2)
            cosine, sine = angle.cos(), angle.sin()
            tables = torch.cat((cosine, cosine), -1).to(dtype), torch.cat((-sine, sine), -1).to(dtype)
            found = Rotation(*tables).behind(prefix)
        with _LOCK:
            if key not in self._remembered:
                self._rows += len(found.cosine)
            self._remembered[key] = found
            while self._rows > REMEMBERED_POSITIONS and len(self._remembered) > 1:
                _, oldest = self._remembered.popitem(last=False)
                self._rows -= len(oldest.cosine)
        return found
