from __future__ import annotations

import torch
import torch.nn.functional as F

from jielong.networks.layers import FeedForward


def test_the_gated_activation_and_its_gradient() -> None:
    torch.manual_seed(0)
    part = FeedForward(6, 5, "swiglu", bias=True).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    gate, value = F.linear(x, part.up.weight, part.up.bias).chunk(2, -1)
    torch.testing.assert_close(part(x), F.silu(gate) * value)
    assert torch.autograd.gradcheck(part, x)
