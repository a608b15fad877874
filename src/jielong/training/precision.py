"""Which number format is the faster one on a device."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import cache
from typing import Literal

import torch

_TRIALS = 8


def bf16_is_faster(device: torch.device) -> bool:
    """Whether products in bfloat16 take less time than in float32.

    Emulated ones take far more. On CPUs that have an instruction for them and no matrix unit it goes either way, from twice as fast to half
    as fast, so there it is measured, once, in a few hundredths of a second.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # These probes are not public yet; a torch without them is answered "no", which is always safe.
        if _probe("_is_amx_tile_supported"):
            return True
        return _probe("_is_avx512_bf16_supported") and _measured_on_cpu()
    return False


def _probe(name: str) -> bool:
    probe = getattr(torch.cpu, name, None)
    return probe is not None and bool(probe())


@cache
def _measured_on_cpu() -> bool:
    """The fastest of several products in each format, in turns: other work on the machine only ever makes one slower."""
    kinds = (torch.bfloat16, torch.float32)
    pairs = {kind: (torch.ones(1024, 256, dtype=kind), torch.ones(256, 512, dtype=kind)) for kind in kinds}
    best = dict.fromkeys(kinds, float("inf"))
    for trial in range(_TRIALS + 1):
        for kind, (left, right) in pairs.items():
            begun = time.perf_counter()
            left @ right
            if trial:  # the first one also chooses a kernel
                best[kind] = min(best[kind], time.perf_counter() - begun)
    return best[torch.bfloat16] < best[torch.float32]


def mixed(device: torch.device, precision: Literal["auto", "bf16", "fp32"]) -> AbstractContextManager[None]:
    """The autocast context of forward passes; weights, gradients and optimizers stay float32."""
    enabled = precision == "bf16" or (precision == "auto" and bf16_is_faster(device))
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
    return context
