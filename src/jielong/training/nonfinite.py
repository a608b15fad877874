"""Locate the first NaN or Inf."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from jielong.quantizers.checks import NonFiniteVectors


class NonFiniteError(RuntimeError):
    """Training met NaN or Inf several times in a row; the text names the first module and what to try."""


def finite(value: object) -> bool:
    """Whether every floating-point tensor in a nest of tuples, lists, mappings and dataclasses is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _tensors(inner)
    elif dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            yield from _tensors(getattr(value, item.name))


def first_nonfinite(objective: nn.Module, inputs: object, loss: Callable[[], Tensor]) -> str:
    """Where the first NaN or Inf appears, in words.

    The computation is repeated with a hook on every module; inner modules finish first.

    Args:
        objective: All modules.
        inputs: Inputs of the computation.
        loss: Computes the loss again.
    """
    if not finite(inputs):
        return "the data themselves hold numbers that are not finite"
    for name, parameter in objective.named_parameters():
        if not finite(parameter):
            return f"the weights {name!r} are not finite"
    found: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, _: object, output: object) -> None:
            if not found and not finite(output):
                found.append(f"the output of {name!r} ({type(module).__name__}) is the first that is not finite")

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in objective.named_modules() if name]
    try:
        total = loss()
    except NonFiniteVectors as error:
        return found[0] if found else str(error)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    if not finite(total):
        return "every module's output is finite, but the loss is not"
    for parameter in objective.parameters():
        parameter.grad = None
    total.backward()
    # The backward pass meets the last layer first.
    for name, parameter in reversed(list(objective.named_parameters())):
        if parameter.grad is not None and not finite(parameter.grad):
            return f"the loss is finite, but the gradient of {name!r} is not"
    return "the numbers were finite when the step was repeated: it happens now and then only"


def range_advice(media: Tensor) -> str | None:
    """A warning when a batch of media does not look as if it were in [-1, 1]; ``None`` when it does."""
    if not media.numel():
        return None
    if not media.is_floating_point():
        return f"media are {media.dtype}, not floating point in [-1, 1]: divide 8-bit values by 127.5 and subtract 1"
    low, high = float(media.min()), float(media.max())
    if high > 2 or low < -2:
        return f"media lie in [{low:.3g}, {high:.3g}], not in [-1, 1]: divide 8-bit values by 127.5 and subtract 1"
    if low >= 0 and high > 0.5:
        return f"media lie in [{low:.3g}, {high:.3g}] and look like [0, 1], not [-1, 1]: multiply by 2 and subtract 1"
    return None
