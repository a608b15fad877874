"""When fused inference may be used: one check, and one switch.

Fused code computes with a module's weights and never calls the module. That is right only for modules whose call is exactly the
computation that it replaces. A wrapped or subclassed layer (LoRA, quantisation), a hook or a parametrization makes the code around it take
the plain path, which calls every module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_ENABLED: ContextVar[bool] = ContextVar("fused_inference", default=True)


@contextmanager
def fused_inference(enabled: bool) -> Iterator[None]:
    """Switch fused inference on or off in this context; caches that exist already go on as they began."""
    token = _ENABLED.set(enabled)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def can_fuse(modules: Iterable[nn.Module], kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether fused inference is on and all modules, with their submodules, are exactly of these kinds and on one device."""
    if not _ENABLED.get():
        return False
    parts = [part for module in modules for part in module.modules()]
    devices = {weight.device for part in parts for weight in part._parameters.values() if weight is not None}
    return len(devices) <= 1 and all(is_exactly(part, *kinds) for part in parts)


def is_exactly(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module has one of these types, not a subclass, without hooks, parametrizations or tensor subclasses as weights."""
    return (
        type(module) in kinds
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)
        and not torch_module._has_any_global_hook()
        and all(_is_standard(parameter) for parameter in module._parameters.values() if parameter is not None)
    )


def standard_weights(module: nn.Module, names: Iterable[str]) -> list[Tensor] | None:
    """The tensors that a module stores under these names (those that it has); ``None`` where one is parametrized or a tensor subclass."""
    if not _ENABLED.get() or "parametrizations" in module._modules:
        return None
    stored = [module._parameters.get(name, module._buffers.get(name)) for name in names]
    weights = [weight for weight in stored if weight is not None]
    return weights if all(map(_is_standard, weights)) else None


def _is_standard(weight: Tensor) -> bool:
    return type(weight) in (nn.Parameter, Tensor) and weight.is_floating_point()
