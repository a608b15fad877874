"""Sound at another rate."""

from __future__ import annotations

import torch
from torch import Tensor


def resample(waveform: Tensor, rate: int, to: int) -> Tensor:
    """A waveform ``(..., T)`` at ``rate`` Hz as float32 ``(..., round(T to / rate))`` at ``to`` Hz, by soxr at high quality (linear phase).

    Raises:
        ValueError: if a rate is not positive.
        ImportError: if soxr is not installed.
    """
    if rate < 1 or to < 1:
        raise ValueError(f"rates are positive numbers of samples a second, not {rate} and {to}")
    if rate == to or not waveform.numel():
        return waveform.float()
    try:
        import soxr
    except ImportError as error:
        raise ImportError("to change the rate of sound, install soxr: pip install 'jielong[sound]'") from error
    flat = waveform.detach().float().cpu().reshape(-1, waveform.shape[-1])
    made = torch.stack([torch.from_numpy(soxr.resample(row.numpy(), rate, to, quality="HQ")) for row in flat])
    return made.reshape(*waveform.shape[:-1], -1).to(waveform.device)
