"""One reading of ``auto``, ``cpu``, ``cuda[:i]`` and ``mps``, for every command and every call."""

from __future__ import annotations

import os

import torch

_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables in which torchrun, accelerate and MPI launchers give the number of processes."""
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


class DeviceError(ValueError):
    """The device is unknown or not available, or does not suit the processes that a launcher started."""


def launched_processes() -> int:
    """Number of processes that a launcher such as torchrun started; 1 without one."""
    return next((int(os.environ[name]) for name in _WORLD_SIZES if os.environ.get(name)), 1)


def is_main_process() -> bool:
    """Whether this process writes and prints: the first of those that a launcher started."""
    return int(next(filter(None, map(os.environ.get, _RANKS)), 0)) == 0


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name; ``auto`` is the first available of CUDA, MPS (one process only) and the CPU.

    Raises:
        DeviceError: if the name is unknown, or PyTorch finds no such device.
    """
    kind, colon, index = str(name).partition(":")
    if kind == "auto" and not colon:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and launched_processes() == 1 else "cpu")
    if kind not in ("cpu", "cuda", "mps") or (colon and not index.isdigit()):
        raise DeviceError(f"unknown device {str(name)!r}; choose auto, cpu, cuda, cuda:0 or mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not available: PyTorch finds no Apple GPU; choose auto or cpu")
    if kind == "cuda":
        if not torch.cuda.is_available():
            built = "finds no CUDA GPU" if torch.backends.cuda.is_built() else "is built without CUDA"
            raise DeviceError(f"device {str(name)!r} is not available: PyTorch {torch.__version__} {built}; choose auto or cpu")
        count = torch.cuda.device_count()
        if colon and int(index) >= count:
            raise DeviceError(f"device {str(name)!r} is not available; choose one of cuda:0 to cuda:{count - 1}, auto or cpu")
    return torch.device(str(name))


def check_launch(device: torch.device, processes: int) -> None:
    """Refuse a number of processes that a device cannot serve.

    Raises:
        DeviceError: if several processes would share one GPU.
    """
    if processes == 1 or device.type == "cpu":
        return
    if device.type == "mps" or device.index is not None:
        right = "cpu" if device.type == "mps" else "cuda, by which each process takes a GPU"
        raise DeviceError(f"the launcher started {processes} processes, and device {str(device)!r} serves one: choose {right}")
    here, count = int(os.environ.get("LOCAL_WORLD_SIZE") or processes), torch.cuda.device_count()
    if here > count:
        found = "1 GPU" if count == 1 else f"{count} GPUs"
        raise DeviceError(f"the launcher started {here} processes on this machine, which has {found}: start {count}, or choose device cpu")


def device_words(device: torch.device) -> str:
    """The device for a message: ``cpu``, ``cuda:0 (NVIDIA H200)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
