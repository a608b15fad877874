"""The processes of a run, as a launcher started them."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from jielong.core.device import DeviceError, check_launch, launched_processes, resolve_device
from jielong.training.sharding import requested_sharding

_PATIENCE = timedelta(days=1)
"""How long processes wait for the one that fills a cache or measures; a launcher ends them all when one fails."""


def join_processes(device: str | torch.device = "auto") -> Accelerator:
    """Join the processes of the launcher on a device: each on its own GPU, or all on the CPU (gloo).

    Raises:
        DeviceError: if the device is not available, or the launcher's request cannot be met.
    """
    chosen, processes = resolve_device(device), launched_processes()
    check_launch(chosen, processes)
    requested_sharding()  # what it refuses is refused before anything starts
    if processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run in this interpreter may have been on another device
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    accelerator = Accelerator(cpu=chosen.type == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])
    if accelerator.num_processes != processes or accelerator.device.type != chosen.type:
        got = f"{accelerator.num_processes} on {accelerator.device.type}"
        raise DeviceError(f"the launcher started {processes} processes for {chosen.type}, but {got} joined; start them with torchrun")
    return accelerator
