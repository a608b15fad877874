"""Kernels of the CPU against PyTorch's, whatever layout a sound comes in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.networks.time_kernels import convolution, elu, join, transposed

CONVOLUTIONS = {
    # inputs, outputs, kernel, stride, dilation, groups
    "pointwise": (5, 6, 1, 1, 1, 1),
    "written out": (2, 6, 7, 1, 1, 1),
    "written out, strided": (1, 6, 7, 3, 1, 1),
    "summed": (12, 2, 7, 1, 1, 1),
    "in blocks": (128, 6, 6, 3, 1, 1),
    "two-dimensional": (12, 6, 3, 1, 1, 1),
    "strided": (12, 6, 8, 4, 1, 1),
    "dilated": (12, 6, 3, 1, 5, 1),
    "in groups": (12, 6, 4, 2, 1, 2),
}
TRANSPOSED = {"two strides": (6, 5, 8, 4, 1), "three strides": (6, 5, 6, 2, 1), "in groups": (6, 6, 4, 2, 6)}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def layouts(x: Tensor) -> list[Tensor]:
    """The same numbers, channels apart, channels side by side, and in the middle of something longer."""
    wide = torch.cat([x.mT, x.mT, x.mT], dim=1)
    return [x, x.mT.contiguous().mT, wide[:, x.shape[-1] : 2 * x.shape[-1]].mT]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions(shape: tuple[int, ...], bias: bool) -> None:
    inputs, outputs, kernel, stride, dilation, groups = shape
    weight, shift = draw(outputs, inputs // groups, kernel), draw(outputs) if bias else None
    run = convolution(weight, shift, stride, dilation, groups)
    for length in ((kernel - 1) * dilation + 1, 31, 32):
        for x in layouts(draw(3, inputs, length)):
            torch.testing.assert_close(run(x), F.conv1d(x, weight, shift, stride, 0, dilation, groups), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", TRANSPOSED.values(), ids=TRANSPOSED)
def test_transposed_convolutions(shape: tuple[int, ...], bias: bool) -> None:
    inputs, outputs, kernel, stride, groups = shape
    weight, shift = draw(inputs, outputs // groups, kernel), draw(outputs) if bias else None
    run = transposed(weight, shift, stride, groups)
    for length in (1, 2, 9):
        for x in layouts(draw(3, inputs, length)):
            torch.testing.assert_close(run(x), F.conv_transpose1d(x, weight, shift, stride, groups=groups), atol=1e-4, rtol=1e-5)


def test_elu_and_joins() -> None:
    x = torch.cat([torch.linspace(-20, 20, 999), torch.tensor([0.0, -1e-9, 1e-9])])
    torch.testing.assert_close(elu(x), F.elu(x), atol=1e-7, rtol=0)
    assert elu(torch.tensor([float("nan")])).isnan().all()
    for one in layouts(draw(2, 3, 5)):
        for other in layouts(draw(2, 3, 2)):
            assert torch.equal(join([other, one]), torch.cat([other, one], dim=-1))
