"""Gradient estimators of a lookup.

Both return the code exactly, so a training forward and ``decode(encode(...))`` give the same values bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

# Below this length a vector has no usable direction, and u + v does not define the plane of the rotation.
_SHORT = 1e-6
_ANTIPODAL = 1e-4

Estimator = Literal["straight-through", "rotation"]


class AutogradContext(Protocol):
    """The context of a :class:`torch.autograd.Function`."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for the backward pass."""

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Mark outputs without gradients."""


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, vectors: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: AutogradContext, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, vectors: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, values)
        return values.clone()

    @staticmethod
    def backward(ctx: AutogradContext, *gradients: Tensor) -> tuple[Tensor, None]:
        vectors, values = ctx.saved_tensors
        gradient = gradients[0]
        length, size = vectors.norm(dim=-1, keepdim=True), values.norm(dim=-1, keepdim=True)
        u, v = vectors / length.clamp_min(_SHORT), values / size.clamp_min(_SHORT)
        r = u + v
        bend = r.norm(dim=-1, keepdim=True)
        # Opposite directions leave the plane open; r = 0 is then the reflection I - 2 u u^T, which is orthogonal and takes u to v too.
        r = torch.where(bend > _ANTIPODAL, r / bend.clamp_min(_ANTIPODAL), 0.0)
        turned = gradient - 2 * r * (r * gradient).sum(-1, keepdim=True) + 2 * u * (v * gradient).sum(-1, keepdim=True)
        return torch.where(length > _SHORT, turned * (size / length.clamp_min(_SHORT)), gradient), None


def straight_through(vectors: Tensor, values: Tensor) -> Tensor:
    """``values``, whose gradient goes to ``vectors`` unchanged (arXiv 1711.00937, section 3.2). Shapes ``(..., D)``."""
    return _StraightThrough.apply(vectors, values.detach())


def rotate(vectors: Tensor, values: Tensor) -> Tensor:
    r"""``values``, whose gradient is rotated back as the code was from its vector (arXiv 2410.06424, section 4).

    With ``u = z / |z|``, ``v = q / |q|`` and ``r = (u + v) / |u + v|`` the forward map is ``q = |q| / |z| R z`` with
    ``R = I - 2 r r^T + 2 v u^T``, held constant; the encoder receives ``|q| / |z| R^T`` times the gradient. A vector of length 0 receives
    the gradient unchanged. Shapes ``(..., D)``.
    """
    return _Rotation.apply(vectors, values.detach())


ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {"straight-through": straight_through, "rotation": rotate}
