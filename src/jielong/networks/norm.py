"""Layer norm and root-mean-square norm, in float32.

On the CPU PyTorch composes the root-mean-square norm of a dozen operations; here it takes four, and its gradient six.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jielong.networks.autograd import GradContext, transformed

NormKind = Literal["rms", "layer"]


class _RMSNorm(torch.autograd.Function):
    """``y = x r w`` with ``r = (mean(x^2) + eps)^(-1/2)``; with ``h = x r`` and the gradient ``g`` of ``y``,

    ``dL/dx = r (g w - h mean(g w h))`` and ``dL/dw = sum(g h)`` over all rows.
    """

    @staticmethod
    def forward(ctx: GradContext, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: GradContext, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, inverse, weight = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            product = (gradient * unit).reshape(-1, weight.numel())  # (rows, D)
            projection = (product @ weight).view(inverse.shape)
            grad_x = torch.addcmul(gradient * weight, unit, projection, value=-1 / weight.numel()).mul_(inverse)
        return grad_x, product.sum(0), None


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * w`` over the last axis (arXiv 1910.07467), computed in float32 or wider; the dtype stays."""
    wide, width = x.to(torch.promote_types(x.dtype, torch.float32)), x.shape[-1]
    if weight is None or x.device.type != "cpu" or transformed():
        return F.rms_norm(wide, (width,), None if weight is None else weight.to(wide.dtype), eps).to(x.dtype)
    if torch.is_grad_enabled():
        return _RMSNorm.apply(wide, weight.to(wide.dtype), eps).to(x.dtype)
    # Few operations, for sampling token by token: sqrt(sum x^2 + D eps) is the hypotenuse of the norm and a constant.
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    length = torch.hypot(length, _constant(math.sqrt(width * eps)))
    return torch.addcdiv(_constant(0.0), wide, length, value=math.sqrt(width)).mul_(weight).to(x.dtype)


@functools.lru_cache(maxsize=64)
def _constant(value: float) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([value])


class Norm(nn.Module):
    """Layer norm, or root-mean-square norm (:func:`rms_norm`), over the last axis, computed in float32."""

    def __init__(self, width: int, kind: NormKind, eps: float, affine: bool = True) -> None:
        super().__init__()
        self.kind, self.eps, self.shape = kind, eps, (width,)
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine and kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., width)``; the dtype stays."""
        if self.kind == "rms":
            return rms_norm(x, self.weight, self.eps)
        with torch.autocast(x.device.type, enabled=False):
            weight = None if self.weight is None else self.weight.float()
            bias = None if self.bias is None else self.bias.float()
            return F.layer_norm(x.float(), self.shape, weight, bias, self.eps).to(x.dtype)
