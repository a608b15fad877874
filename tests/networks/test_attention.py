from __future__ import annotations

import math

import pytest
import torch

from jielong.networks import attention as module
from jielong.networks.attention import additive, attention, structure

CPU = torch.device("cpu")


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    scores = (q.double() @ k.double().mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -math.inf)
    return (scores.softmax(-1) @ v.double()).to(q.dtype)


@pytest.mark.parametrize("case", ["full", "longer keys", "causal", "mask", "mask a row"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("n", [1, 6])
def test_kernels_are_equal_forward_and_backward(case: str, grad: bool, n: int) -> None:
    torch.manual_seed(0)
    length = n + 3 if case == "longer keys" else n
    shape = (2, 3, n, 8), (2, 3, length, 8), (2, 3, length, 8)
    allowed = torch.ones(n, length, dtype=torch.bool)
    if case == "causal":
        allowed = allowed.tril()
    if case.startswith("mask"):
        allowed = (torch.rand(n, length) < 0.5) | torch.eye(n, dtype=torch.bool)
    if case == "mask a row":
        allowed = torch.stack((allowed, torch.ones_like(allowed)))[:, None]
    mask = additive(allowed, torch.float32) if case.startswith("mask") else None
    drawn = [torch.randn(s) for s in shape]
    weight = torch.randn(shape[0])

    def run(compute: object) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_(grad) for x in drawn]
        out = compute(*leaves)
        return [out.detach(), *(torch.autograd.grad((out * weight).sum(), leaves) if grad else ())]

    expected = run(lambda q, k, v: naive(q, k, v, allowed))
    for kernel in ("fused", "plain", "auto"):
        got = run(lambda q, k, v, kernel=kernel: attention(q, k, v, mask, case == "causal", kernel))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_softmax_kernel_needs_no_cast() -> None:
    scores = 8 * torch.randn(64, 80, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(scores.softmax(-1), scores.float().softmax(-1).bfloat16())


def test_structure_reads_blocks() -> None:
    kinds = {"full": [4, 4, 4], "causal": [0, 2, 3], "blocks": [0, 1, 1]}
    for kind, blocks in kinds.items():
        found = structure(torch.tensor(blocks), CPU)
        assert found.kind == kind
        assert found.allowed.tolist() == [[b <= a for b in blocks] for a in blocks]
    assert structure(torch.tensor([5]), CPU).kind == "full"


def test_errors() -> None:
    q = torch.randn(1, 1, 2, 4)
    with pytest.raises(ValueError, match="choose auto, fused or plain"):
        attention(q, q, q, kernel="flash")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no mask"):
        attention(q, q, q, torch.zeros(2, 2), causal=True)
    assert module.choose(q, q) in ("fused", "plain")
