"""Which number format a device multiplies natively."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch


def native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are computed by the hardware, and not emulated (which is far slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # These probes are not public yet; a torch without them is answered "no", which is always safe.
        probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(probe() for probe in probes if probe is not None)
    return False


def mixed(device: torch.device, precision: Literal["auto", "bf16", "fp32"]) -> AbstractContextManager[None]:
    """The autocast context of forward passes; weights, gradients and optimizers stay float32."""
    enabled = precision == "bf16" or (precision == "auto" and native_bf16(device))
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
    return context
