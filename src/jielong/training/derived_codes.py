"""Codebooks that follow averages, stored once: their codes are the quotients of the averages, which training goes on from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from jielong.quantizers.vector import VectorQuantizer

CODES, SUMS, DIVISOR = "codebook", "sums", "_divisor"


def without_codes(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which ``NAME.codebook_divisor``, ``(V,)``, stands for every codebook ``(V, D)`` that it gives exactly.

    ``codebook = sums / codebook_divisor``, one division a value, which IEEE 754 rounds alike on every machine. The divisors are stored as
    they follow from all counts, whose sum is not. A codebook that is not this quotient to the bit stays: one with normalised codes, with
    codes restarted since the last update of the averages, or trained where counts are added up in another order.
    """
    stored = dict(tensors)
    for name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        # A model may hold a quantizer that is not among its tensors, such as that of TiTok's proxy.
        if not isinstance(module, VectorQuantizer) or module.learned or prefix + CODES not in stored:
            continue
        divisor, codes = module.smoothed_counts, stored[prefix + CODES]
        if torch.equal(stored[prefix + SUMS] / divisor[:, None], codes):
            del stored[prefix + CODES]
            stored[prefix + CODES + DIVISOR] = divisor
    return stored


def with_codes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, with the codes that :func:`without_codes` left out.

    Raises:
        ValueError: naming the first divisor without sums, of another shape or type, or not finite and above 0; or with codes beside it.
    """
    end = CODES + DIVISOR
    plain = {name: value for name, value in tensors.items() if name != end and not name.endswith(f".{end}")}
    for name in tensors.keys() - plain.keys():
        prefix, divisor = name.removesuffix(end), tensors[name]
        sums = tensors.get(prefix + SUMS)
        if sums is None:
            raise ValueError(f"it holds {name!r} without {prefix + SUMS!r}, and codes are the quotient of both")
        if prefix + CODES in plain:
            raise ValueError(f"it holds {prefix + CODES!r} twice: as it is, and as a quotient by {name!r}")
        if sums.ndim != 2 or divisor.shape != sums.shape[:1] or not sums.dtype == divisor.dtype == torch.float32:
            shapes = f"{tuple(divisor.shape)} of {divisor.dtype}", f"{tuple(sums.shape)} of {sums.dtype}"
            raise ValueError(
                f"{name!r} is {shapes[0]} and the sums {shapes[1]}, but they are a number and a vector per code, in torch.float32"
            )
        if not bool(((divisor > 0) & divisor.isfinite()).all()):
            raise ValueError(f"{name!r} holds values that are not finite or not above 0")
        plain[prefix + CODES] = sums / divisor[:, None]
    return plain
