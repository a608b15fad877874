from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from jielong.networks.norm import Norm, rms_norm


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(32,), (5, 32), (2, 3, 32)])
def test_rms_norm_equals_pytorch(shape: tuple[int, ...], scale: float) -> None:
    torch.manual_seed(0)
    x, g = (scale * torch.randn(shape)).requires_grad_(), torch.randn(shape)
    weight = torch.rand(32).add(0.5).requires_grad_()
    expected = F.rms_norm(x, (32,), weight, 1e-5)
    got = rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(got, (x, weight), g), torch.autograd.grad(expected, (x, weight), g), rtol=1e-4, atol=1e-4 / scale
    )
    with torch.no_grad():
        torch.testing.assert_close(rms_norm(x, weight, 1e-5), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("grad", [False, True])
def test_a_norm_is_a_float32_island(kind: str, grad: bool) -> None:
    norm = Norm(64, kind, 1e-5)
    x = torch.randn(4, 64).mul(100).bfloat16()
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        low = norm(x)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, norm(x.float()).bfloat16())
