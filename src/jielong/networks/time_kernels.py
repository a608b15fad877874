"""Convolutions over time on a CPU, without gradients: PyTorch's numbers, from memory in which a sample's channels are neighbours.

Tensors are ``(B, C, T)`` as everywhere, but laid out as ``(B, T, C)``. There most convolutions are a few products of matrices, read
where they lie: windows of two strides are two blocks of rows, and so are the windows that a transposed convolution writes. The others
go to the two-dimensional kernels, which know this layout as channels-last. Weights are rearranged once.

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
"""Numbers in a window up to which windows are written out."""
_BLOCKS = 128
"""Channels from which on a window of two strides is better read as two blocks."""


def rows_of(x: Tensor) -> Tensor:
    """``(B, C, T)`` as ``(B, T, C)``, contiguous."""
    return x.mT.contiguous()


def join(parts: list[Tensor]) -> Tensor:
    """Stretches of sound ``(B, C, t)`` one behind the other, in the layout of the longest."""
    longest = max(parts, key=lambda part: part.shape[-1])
    if longest.shape[1] > 1 and longest.stride(1) == 1:
        return torch.cat([part.mT for part in parts], dim=1).mT
    return torch.cat(parts, dim=-1)


def elu(x: Tensor) -> Tensor:
    """``x`` where positive, ``exp(x) - 1`` elsewhere, which is never less than ``x``: to 6e-8 of what ``expm1`` gives, in half its time."""
    made = x.clamp(max=0).exp_().sub_(1)
    return torch.maximum(made, x, out=made)


def convolution(weight: Tensor, bias: Tensor | None, stride: int, dilation: int, groups: int) -> Kernel:
    """A convolution of padded sound, as :func:`torch.nn.functional.conv1d` is with this weight ``(outputs, inputs / groups, k)``."""
    outputs, inputs, taps = weight.shape
    plain = groups == 1 and dilation == 1
    if groups == 1 and taps == stride == 1:
        return lambda x: F.linear(rows_of(x), weight[..., 0], bias).mT
    if plain and inputs * taps <= _FEW:
        return _written_out(weight, bias, stride)
    if plain and stride == 1 and outputs <= 2:
        return _summed(weight, bias)
    if plain and taps == 2 * stride and inputs >= _BLOCKS:
        return _in_blocks(weight, bias, stride)
    flat = weight[:, :, None].contiguous(memory_format=torch.channels_last)

    def run(x: Tensor) -> Tensor:
        wide = rows_of(x).mT[:, :, None]  # (B, C, 1, T), channels-last
        return F.conv2d(wide, flat, bias, (1, stride), 0, (1, dilation), groups)[:, :, 0]

    return run


def _written_out(weight: Tensor, bias: Tensor | None, stride: int) -> Kernel:
    """Every window as a row."""
    _, inputs, taps = weight.shape
    matrix = weight.permute(0, 2, 1).flatten(1).contiguous()

    def run(x: Tensor) -> Tensor:
        rows = rows_of(x)
        count = (rows.shape[1] - taps) // stride + 1
        windows = rows.as_strided((len(rows), count, taps * inputs), (rows.shape[1] * inputs, stride * inputs, 1))
        return F.linear(windows, matrix, bias).mT

    return run


def _summed(weight: Tensor, bias: Tensor | None) -> Kernel:
    """What every sample gives to every tap, then the sums along the windows."""
    outputs, inputs, taps = weight.shape
    matrix = weight.permute(2, 0, 1).reshape(taps * outputs, inputs).contiguous()

    def run(x: Tensor) -> Tensor:
        given = F.linear(rows_of(x), matrix)  # (B, T, taps outputs)
        batch, length, width = given.shape
        windows = given.as_strided((batch, length - taps + 1, taps, outputs), (length * width, width, width + outputs, 1))
        made = windows.sum(2)
        return (made if bias is None else made.add_(bias)).mT

    return run


def _in_blocks(weight: Tensor, bias: Tensor | None, stride: int) -> Kernel:
    """A window is two blocks of ``stride`` samples."""
    outputs, inputs, _ = weight.shape
    first, second = (part.permute(2, 1, 0).reshape(stride * inputs, outputs).contiguous() for part in weight.split(stride, dim=2))

    def run(x: Tensor) -> Tensor:
        rows = rows_of(x)
        count = rows.shape[1] // stride - 1
        made = rows.new_empty(len(rows), count, outputs)
        for item, out in zip(rows, made, strict=True):
            blocks = item[: (count + 1) * stride].view(count + 1, stride * inputs)
            _product(bias, blocks[:-1], first, out)
            out.addmm_(blocks[1:], second)
        return made.mT

    return run


def transposed(weight: Tensor, bias: Tensor | None, stride: int, groups: int) -> Kernel:
    """A transposed convolution, as :func:`torch.nn.functional.conv_transpose1d` is with this weight ``(inputs, outputs / groups, k)``."""
    inputs, outputs, taps = weight.shape
    if groups > 1 or taps != 2 * stride:
        return lambda x: F.conv_transpose1d(x, weight, bias, stride, groups=groups)
    first, second = (part.permute(0, 2, 1).reshape(inputs, stride * outputs).contiguous() for part in weight.split(stride, dim=2))
    biases = None if bias is None else bias.repeat(stride)

    def run(x: Tensor) -> Tensor:
        rows = rows_of(x)
        count = rows.shape[1]
        made = rows.new_empty(len(rows), count + 1, stride * outputs)
        for item, out in zip(rows, made, strict=True):
            _product(biases, item, first, out[:-1])
            out[-1] = 0 if biases is None else biases
            out[1:].addmm_(item, second)
        return made.view(len(rows), (count + 1) * stride, outputs).mT

    return run


def _product(bias: Tensor | None, rows: Tensor, matrix: Tensor, out: Tensor) -> None:
    if bias is None:
        torch.mm(rows, matrix, out=out)
    else:
        torch.addmm(bias, rows, matrix, out=out)
