"""Low-rank updates of linear maps and convolutions (LoRA, arXiv 2106.09685), by ``peft``: which maps, and the update as a weight.

Of a convolution ``A`` has its kernel and ``r`` outputs, and ``B`` has kernel 1: the update is the matrix product of both.

In training ``peft`` wraps each map, and code around it that would read its weight calls it instead (:mod:`jielong.networks.eligibility`).
For sampling the update is added to the weight, so that every fast path has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from jielong.core.module_paths import expanded, is_below, path_of
from jielong.networks.repeated import blocks_of

A, B = ".lora_A.weight", ".lora_B.weight"
"""Ends of the names of the two factors, as ``peft`` stores them."""
_ATTENTION = frozenset({"qkv", "q", "kv", "out", "project"})
_MODULATION = "modulation"
KINDS = ("attention", "mlp", _MODULATION)
_ADAPTER = "default"
Map = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def projections(model: nn.Module, parts: Sequence[str]) -> dict[str, str]:
    """The linear maps in repeated blocks of some parts of a model by name, each with its kind (:data:`KINDS`).

    Maps of a subclass, such as those with masked weights, are none: a full update would fill what the mask leaves empty.
    """
    found = dict[str, str]()
    for block_name, block in blocks_of(model):
        if block_name.split(".")[0] not in parts:
            continue
        for name, module in block.named_modules():
            if type(module) is nn.Linear:
                last = name.rpartition(".")[2]
                kind = _MODULATION if last == _MODULATION else "attention" if last in _ATTENTION else "mlp"
                found[f"{block_name}.{name}"] = kind
    return found


def maps(model: nn.Module) -> list[str]:
    """Names of all linear maps and convolutions without groups of a model, in blocks or not; of no subclass, as :func:`projections`."""
    return [name for name, module in model.named_modules() if type(module) in _MAPS and getattr(module, "groups", 1) == 1]


def chosen(available: Mapping[str, str], targets: Sequence[str], everywhere: Sequence[str] = ()) -> list[str]:
    """The maps of some kinds or names among :func:`projections`, and those of paths with dots among :func:`maps`.

    Raises:
        ValueError: if a target fits none.
    """
    names, paths = list[str](), {path_of(name): name for name in everywhere}
    for target in targets:
        if "." in target and everywhere:
            patterns = expanded(target, [*paths])
            names += [name for path, name in paths.items() if any(is_below(path, pattern) for pattern in patterns)]
            continue
        fitting = [name for name, kind in available.items() if target in (kind, name.rpartition(".")[2])]
        if not fitting:
            there = sorted({*available.values(), *(name.rpartition(".")[2] for name in available)})
            right = f"this model has {', '.join(there)}" if there else "this model has no linear maps in repeated blocks"
            raise ValueError(f"there is no map {target!r} to update: {right}")
        names += fitting
    return sorted(set(names))


def check_installed() -> None:
    """Raise ``ValueError`` if ``peft`` is missing."""
    _peft()


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ValueError("low-rank updates are trained by the package peft: pip install 'jielong[adapters]'") from None
    return peft


def inject(model: nn.Module, names: Sequence[str], rank: int, alpha: float) -> None:
    """Wrap maps by ``peft``; their factors are all that require gradients then. ``A`` is drawn from torch's global generator."""
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(names), lora_dropout=0.0, bias="none")
    peft.inject_adapter_in_model(config, model, adapter_name=_ADAPTER)


def factors(model: nn.Module) -> dict[str, Tensor]:
    """The factors of all wrapped maps: ``NAME.lora_A.weight`` ``(r, in, *kernel)`` and ``NAME.lora_B.weight`` ``(out, r, 1...)``."""
    found = dict[str, Tensor]()
    for name, module in model.named_modules():
        for end, each in ((A, getattr(module, "lora_A", None)), (B, getattr(module, "lora_B", None))):
            if isinstance(each, nn.ModuleDict) and _ADAPTER in each:
                found[name + end] = cast("Map", each[_ADAPTER]).weight.detach()
    return found


def check_factors(model: nn.Module, tensors: Mapping[str, Tensor], rank: int) -> None:
    """Raise ``ValueError`` if tensors are not the factors of maps of a model."""
    modules = dict(model.named_modules())
    for name, a, b in pairs(tensors):
        layer = modules.get(name)
        if type(layer) not in _MAPS:
            raise ValueError(f"it updates {name}, and the model has no such linear map or convolution")
        weight = cast("Map", layer).weight
        expected = (rank, *weight.shape[1:]), (weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
        if (tuple(a.shape), tuple(b.shape)) != expected:
            raise ValueError(f"its factors of {name} are {tuple(a.shape)} and {tuple(b.shape)}, not {expected[0]} and {expected[1]}")


def pairs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The two factors of each map, with its name. Raises ``ValueError`` if one is missing."""
    ends = {name.removesuffix(end) for name in tensors for end in (A, B) if name.endswith(end)}
    for name in sorted(ends):
        if name + A not in tensors or name + B not in tensors:
            raise ValueError(f"one of the two factors of {name} is missing")
        yield name, tensors[name + A], tensors[name + B]


@torch.no_grad()
def updates(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """``scale B A`` of each map in the shape of its weight, ``(out, in, *kernel)``, float32."""
    return {name: (b.float().flatten(1) @ a.float().flatten(1)).view(len(b), *a.shape[1:]) * scale for name, a, b in pairs(tensors)}


@torch.no_grad()
def add_updates(model: nn.Module, total: Mapping[str, Tensor]) -> None:
    """Add updates to the weights of maps."""
    for name, update in total.items():
        weight = cast("Map", model.get_submodule(name)).weight
        weight += update.to(weight)


class Calls:
    """Which wrapped maps of a model are called: code that reads a map's weight without a call leaves its update out."""

    def __init__(self, model: nn.Module) -> None:
        self._waiting = {name for name, module in model.named_modules() if isinstance(getattr(module, "lora_A", None), nn.ModuleDict)}
        for name in self._waiting:
            cast("nn.ModuleDict", model.get_submodule(name).lora_A)[_ADAPTER].register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def called(module: nn.Module, inputs: object, output: object) -> None:
            self._waiting.discard(name)

        return called

    @property
    def missing(self) -> list[str]:
        """Maps that were not called yet."""
        return sorted(self._waiting)
