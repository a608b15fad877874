"""Convolutions over time on the CPU, without gradients, in a channels-last memory layout; equal to PyTorch's.

Tensors are ``(B, C, T)`` but stored as ``(B, T, C)``. In that layout most convolutions are a few matrix products on views: a window of two
strides is two blocks of rows, and so is the window that a transposed convolution writes. The others use the two-dimensional channels-last
kernels. Weights are rearranged once.

``benchmarks/codec_speed.py --layers`` prints the table behind the choices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FoldedKernel:
    """A layer prepared for inference, and the version of the weights it was prepared from."""

    kernel: Kernel
    version: tuple[object, ...]


_FEW = 16
"""Values of a window up to which windows are copied to rows."""
_BLOCKS = 128
"""Channels from which a window of two strides is faster as two blocks."""


def rows_of(x: Tensor) -> Tensor:
    """``(B, C, T)`` as ``(B, T, C)``, contiguous."""
    return x.mT.contiguous()


def join(parts: list[Tensor]) -> Tensor:
    """Concatenate ``(B, C, t)`` along time, in the memory layout of the longest part."""
    lengths = [part.shape[-1] for part in parts]
    longest = parts[lengths.index(max(lengths))]
    if longest.shape[1] > 1 and longest.stride(1) == 1:
        return torch.cat([part.mT for part in parts], dim=1).mT
    return torch.cat(parts, dim=-1)


def elu(x: Tensor) -> Tensor:
    """``max(x, exp(min(x, 0)) - 1)``, within 6e-8 of ELU with ``expm1`` in half its time."""
    y = x.clamp(max=0).exp_().sub_(1)
    return torch.maximum(y, x, out=y)


def convolution(weight: Tensor, bias: Tensor | None, stride: int, dilation: int, groups: int) -> Kernel:
    """:func:`torch.nn.functional.conv1d` of padded sound with this weight ``(outputs, inputs / groups, k)``."""
    outputs, inputs, taps = weight.shape
    plain = groups == 1 and dilation == 1
    if groups == 1 and taps == stride == 1:
        return lambda x: F.linear(rows_of(x), weight[..., 0], bias).mT
    if plain and inputs * taps <= _FEW:
        return _unfolded(weight, bias, stride)
    if plain and stride == 1 and outputs <= 2:
        return _summed(weight, bias)
    if plain and taps == 2 * stride and inputs >= _BLOCKS:
        return _in_blocks(weight, bias, stride)
    flat = weight[:, :, None].contiguous(memory_format=torch.channels_last)

    def run(x: Tensor) -> Tensor:
        wide = rows_of(x).mT[:, :, None]  # (B, C, 1, T), channels-last
        return F.conv2d(wide, flat, bias, (1, stride), 0, (1, dilation), groups)[:, :, 0]

    return run


def _unfolded(weight: Tensor, bias: Tensor | None, stride: int) -> Kernel:
    """Every window is a row of one matrix product."""
    _, inputs, taps = weight.shape
    matrix = weight.permute(0, 2, 1).flatten(1).contiguous()

    def run(x: Tensor) -> Tensor:
        rows = rows_of(x)
        count = (rows.shape[1] - taps) // stride + 1
        windows = rows.as_strided((len(rows), count, taps * inputs), (rows.shape[1] * inputs, stride * inputs, 1))
        return F.linear(windows, matrix, bias).mT

    return run


def _summed(weight: Tensor, bias: Tensor | None) -> Kernel:
    """The product of every sample with every tap, then sums along the windows."""
    outputs, inputs, taps = weight.shape
    matrix = weight.permute(2, 0, 1).reshape(taps * outputs, inputs).contiguous()

    def run(x: Tensor) -> Tensor:
        products = F.linear(rows_of(x), matrix)  # (B, T, taps outputs)
        batch, length, width = products.shape
        windows = products.as_strided((batch, length - taps + 1, taps, outputs), (length * width, width, width + outputs, 1))
        y = windows.sum(2)
        return (y if bias is None else y.add_(bias)).mT

    return run


def _in_blocks(weight: Tensor, bias: Tensor | None, stride: int) -> Kernel:
    """A window is two blocks of ``stride`` samples."""
    outputs, inputs, _ = weight.shape
    first, second = (part.permute(2, 1, 0).reshape(stride * inputs, outputs).contiguous() for part in weight.split(stride, dim=2))

    def run(x: Tensor) -> Tensor:
        rows = rows_of(x)
        count = rows.shape[1] // stride - 1
        y = rows.new_empty(len(rows), count, outputs)
        for item, out in zip(rows, y, strict=True):
            blocks = item[: (count + 1) * stride].view(count + 1, stride * inputs)
            _product(bias, blocks[:-1], first, out)
            out.addmm_(blocks[1:], second)
        return y.mT

    return run


def transposed(weight: Tensor, bias: Tensor | None, stride: int, groups: int) -> Kernel:
    """:func:`torch.nn.functional.conv_transpose1d` with this weight ``(inputs, outputs / groups, k)``."""
    inputs, outputs, taps = weight.shape
    if groups > 1 or taps != 2 * stride:
        return lambda x: F.conv_transpose1d(x, weight, bias, stride, groups=groups)
    first, second = (part.permute(0, 2, 1).reshape(inputs, stride * outputs).contiguous() for part in weight.split(stride, dim=2))
    biases = None if bias is None else bias.repeat(stride)

    def run(x: Tensor) -> Tensor:
        rows = rows_of(x)
        count = rows.shape[1]
        y = rows.new_empty(len(rows), count + 1, stride * outputs)
        for item, out in zip(rows, y, strict=True):
            _product(biases, item, first, out[:-1])
            out[-1] = 0 if biases is None else biases
            out[1:].addmm_(item, second)
        return y.view(len(rows), (count + 1) * stride, outputs).mT

    return run


def _product(bias: Tensor | None, rows: Tensor, matrix: Tensor, out: Tensor) -> None:
    if bias is None:
        torch.mm(rows, matrix, out=out)
    else:
        torch.addmm(bias, rows, matrix, out=out)
