"""Matrices in eight bits: int8 values with one scale per output row, named as optimum-quanto names them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

DATA, SCALE = "._data", "._scale"
"""What follows a tensor's name in a file: int8 values, and scales of shape ``(rows, 1, ...)``."""
METADATA = {"quantization": f"int8: NAME = NAME{DATA} * NAME{SCALE}, symmetric, one scale per row of the first axis"}
"""Of a safetensors file with such tensors. One entry: the library writes several in any order, and the file's checksum would vary."""
SMALLEST = 4096
"""Fewest values of a tensor that is quantized."""
_LONGEST, _SHORTEST_ROW = 127, 16
_SCALES = {torch.float16, torch.bfloat16, torch.float32}


def quantizable(value: Tensor) -> bool:
    """Whether a tensor is a floating-point matrix or kernel of at least :data:`SMALLEST` values in rows of at least 16."""
    return value.is_floating_point() and value.ndim >= 2 and value.numel() >= max(SMALLEST, _SHORTEST_ROW * value.shape[0])


def quantize(value: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and scales in bfloat16, which are ``max |row| / 127``.

    A scale has 8 significant bits, so that its products with int8 values are exact in float32, and what was read back is quantized to the
    same bytes. Rounded to them, ``max |row| / scale`` is within 126.7 to 127.3: nothing is clipped, and the error is at most half a scale.

    Args:
        value: ``(rows, ...)``, finite.
    """
    value = value.detach().float()
    largest = value.abs().amax(tuple(range(1, value.ndim)), keepdim=True)
    scale = (largest / _LONGEST).clamp_min(torch.finfo(torch.bfloat16).tiny).bfloat16()
    return (value / scale.float()).round().to(torch.int8), scale


def dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file, with the quantized ones in float32 under their own names.

    Raises:
        ValueError: naming the first of a pair that is incomplete, of another shape or type, or not finite.
    """
    plain = {name: value for name, value in tensors.items() if not name.endswith((DATA, SCALE))}
    for name in dict.fromkeys(key.rpartition("._")[0] for key in tensors if key not in plain):
        data, scale = tensors.get(name + DATA), tensors.get(name + SCALE)
        if data is None or scale is None:
            present, missing = (SCALE, DATA) if data is None else (DATA, SCALE)
            raise ValueError(f"it holds {name + present!r} without {name + missing!r}, and a quantized tensor is both")
        if name in plain:
            raise ValueError(f"it holds {name!r} twice: as it is, and quantized as {name + DATA!r}")
        if data.dtype != torch.int8 or data.ndim < 2 or not data.numel():
            raise ValueError(f"{name + DATA!r} is {tuple(data.shape)} of {data.dtype}, and a quantized tensor has rows of torch.int8")
        rows = (data.shape[0], *[1] * (data.ndim - 1))
        if scale.shape != rows or scale.dtype not in _SCALES:
            stored = f"{tuple(scale.shape)} of {scale.dtype}"
            raise ValueError(f"{name + SCALE!r} is {stored}, but one scale per row of {name + DATA!r} is {rows} of torch.bfloat16")
        least, most = scale.float().aminmax()
        if not (least > 0 and math.isfinite(most)):
            raise ValueError(f"{name + SCALE!r} holds values that are not finite or not above 0")
        plain[name] = data.float().mul_(scale.float())
    return plain
