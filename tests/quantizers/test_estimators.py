"""The rotation trick against its formula, written out."""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.quantizers.estimators import rotate, straight_through


def matrix(vectors: Tensor, values: Tensor) -> Tensor:
    """The map whose transpose the gradient meets, read off by differentiating: ``(D, D)`` for one vector."""
    return torch.stack([torch.autograd.grad(rotate(z := vectors.clone().requires_grad_(), values)[i], z)[0] for i in range(len(vectors))])


def test_forward_is_the_code_exactly() -> None:
    z, q = torch.randn(100, 8, requires_grad=True), torch.randn(100, 8)
    assert torch.equal(rotate(z, q), q)
    assert torch.equal(straight_through(z, q), q)


def test_backward_is_a_rotation_that_takes_vector_to_code() -> None:
    for seed in range(20):
        z, q = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
        scaled = matrix(z, q)
        rotation = scaled * z.norm() / q.norm()
        torch.testing.assert_close(scaled @ z, q)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(6, dtype=torch.double))
        torch.testing.assert_close(torch.det(rotation), torch.tensor(1.0, dtype=torch.double))


def test_parallel_vectors_are_only_scaled() -> None:
    z = torch.randn(5, dtype=torch.double)
    torch.testing.assert_close(matrix(z, 3 * z), 3 * torch.eye(5, dtype=torch.double))


def test_opposite_vectors_still_meet_an_orthogonal_map() -> None:
    z = torch.tensor([1.0, 2.0, -1.0, 0.5])
    for q in (-2 * z, -2 * z * (1 + 1e-6), -2 * z + torch.tensor([1e-5, 0, 0, 0])):
        found = matrix(z, q)
        torch.testing.assert_close(found @ z, q, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found @ found.T, 4 * torch.eye(4), rtol=1e-3, atol=1e-3)


def test_a_vector_without_length_gets_the_gradient_unchanged() -> None:
    torch.testing.assert_close(matrix(torch.zeros(3), torch.randn(3)), torch.eye(3))
