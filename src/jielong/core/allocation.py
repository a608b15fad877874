"""Refuse a model that is too large before its memory is allocated; build one whose parameters take none."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

MODULES = 50_000
"""Most modules of a model; each takes some kilobytes without its parameters."""
_GROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace, torch.eye})


class TooLargeError(ValueError):
    """A model would need more memory than there is, or than its checkpoint can fill."""


def memory_limit() -> int:
    """Bytes that this process may have: the smallest of the machine's memory, its control group's limit and the process's own."""
    limits = [1 << 40]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limits += [int(text) for path in _GROUPS if path.is_file() and (text := path.read_text().strip()).isdigit()]
    try:
        import resource
    except ImportError:  # Windows
        return min(limits)
    return min(limits + [soft for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA) if (soft := resource.getrlimit(kind)[0]) > 0])


def may_have(limit: int) -> str:
    """:func:`memory_limit` as the end of a sentence."""
    return f"and this process may have {limit / 1e9:,.1f} GB"


class _Allocations(TorchFunctionMode):
    """Calls ``check`` with the bytes of every tensor that a factory function is about to allocate."""

    def __init__(self, check: Callable[[int], None]) -> None:
        super().__init__()
        self._check = check

    def __torch_function__(
        self, func: Callable[..., object], types: Sequence[type], args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        options = dict(kwargs or {})
        if func in _FACTORIES and options.get("out") is None:
            shape = func(*args, **{**{name: value for name, value in options.items() if name != "generator"}, "device": "meta"})
            self._check(shape.nbytes if isinstance(shape, Tensor) else 0)
        return func(*args, **options)


@contextmanager
def bounded(limit: int, what: str) -> Iterator[None]:
    """Refuse to build a model whose parameters, or any one tensor, take over ``limit`` bytes, or that has over :data:`MODULES` modules.

    Args:
        limit: In bytes.
        what: Completes ``the model needs at least 8.0 GB, ...``.

    Raises:
        TooLargeError: before the tensor's memory is touched.
    """
    thread, total, modules = threading.get_ident(), 0, 0

    def check(size: int) -> None:
        if size > limit:
            raise TooLargeError(f"the model needs at least {size / 1e9:,.1f} GB, {what}: choose smaller sizes in its recipe")

    def parameter(module: nn.Module, name: str, value: nn.Parameter) -> None:
        nonlocal total
        if threading.get_ident() == thread and value is not None:
            total += value.nbytes
            check(total)

    def submodule(module: nn.Module, name: str, value: nn.Module) -> None:
        nonlocal modules
        modules += threading.get_ident() == thread
        if modules > MODULES:
            raise TooLargeError(f"the model has over {MODULES:,} modules: choose fewer layers in its recipe")

    hooks = register_module_parameter_registration_hook(parameter), register_module_module_registration_hook(submodule)
    try:
        with _Allocations(check):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def without_parameters() -> Iterator[None]:
    """Parameters of the modules built inside are on ``meta``, for weights that are given to them (``load_state_dict(assign=True)``).

    Buffers, such as tables and masks, are real, as modules compute with them while they are built.
    """
    thread = threading.get_ident()

    def parameter(module: nn.Module, name: str, value: nn.Parameter | None) -> nn.Parameter | None:
        if threading.get_ident() != thread or value is None or value.is_meta:  # one on meta is tied to another module's
            return None
        return nn.Parameter(value.to("meta"), requires_grad=value.requires_grad)

    hook = register_module_parameter_registration_hook(parameter)  # type: ignore[arg-type]  # what it returns takes the place
    try:
        yield
    finally:
        hook.remove()
