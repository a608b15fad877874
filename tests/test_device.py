"""Which device a name means, and which requests are refused."""

from __future__ import annotations

import pytest
import torch

import jielong
from jielong.core.device import DeviceError, check_launch, launched_processes, resolve_device

LAUNCHER = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("gpus", "mps", "best"), [(0, False, "cpu"), (0, True, "mps"), (2, False, "cuda"), (2, True, "cuda")])
def test_auto_is_the_best_device_and_cpu_is_always_there(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, best: str) -> None:
    machine(monkeypatch, gpus, mps)
    assert resolve_device() == resolve_device("auto") == torch.device(best)
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "cuda", r"'cuda' is not available: PyTorch .*; choose auto or cpu"),
        (0, "cuda:0", "'cuda:0' is not available"),
        (2, "cuda:2", "choose one of cuda:0 to cuda:1, auto or cpu"),
        (2, "mps", "finds no Apple GPU; choose auto or cpu"),
        (2, "foo", "unknown device 'foo'; choose auto, cpu, cuda, cuda:0 or mps"),
        (2, "cuda:x", "unknown device 'cuda:x'"),
        (2, "auto:1", "unknown device 'auto:1'"),
    ],
)
def test_an_unavailable_device_is_refused_with_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, message: str
) -> None:
    machine(monkeypatch, gpus)
    with pytest.raises(DeviceError, match=message):
        resolve_device(name)


def test_a_number_of_processes_that_a_device_cannot_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 2, mps=True)
    assert launched_processes() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched_processes() == 4
    check_launch(torch.device("cpu"), 4)
    check_launch(torch.device("cuda"), 2)
    check_launch(torch.device("cuda:1"), 1)
    with pytest.raises(DeviceError, match="4 processes on this machine, which has 2 GPUs: start 2, or choose device cpu"):
        check_launch(torch.device("cuda"), 4)
    with pytest.raises(DeviceError, match="device 'cuda:1' serves one: choose cuda,"):
        check_launch(torch.device("cuda:1"), 2)
    with pytest.raises(DeviceError, match="device 'mps' serves one: choose cpu"):
        check_launch(torch.device("mps"), 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_launch(torch.device("cuda"), 4)
    machine(monkeypatch, 0, mps=True)
    assert resolve_device("auto") == torch.device("cpu")


def test_loading_refuses_before_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 0)
    with pytest.raises(DeviceError, match="'cuda' is not available"):
        jielong.load("no-such-model", device="cuda")
