"""Optimizers: which weights decay, which are orthogonalised, and their state as plain tensors and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from jielong.core.json import JSON
from jielong.networks.repeated import blocks_of
from jielong.training.precision import bf16_is_faster
from jielong.training.settings import TrainSettings
from jielong.training.sharding import divided_as, is_divided, whole

_WIDE = 2
"""Ratio of columns to rows from which Gram Newton-Schulz is used. Five steps on ``n x m`` take ``n^2 (4 m + 14 n)`` multiplications, and
those of plain Newton-Schulz ``n^2 (10 m + 5 n)``."""
_TABLES = ("embedding", "codebook", "places", "table")  # looked up, not multiplied with: decay would only pull them to zero


class OptimizerNumbers(TypedDict):
    """Numbers of an optimizer's state: of each parameter by ``index.name``, and of each parameter group."""

    numbers: JSON
    groups: list[JSON]


def build_optimizer(module: nn.Module, settings: TrainSettings, parameters: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
    """The optimizer of a module's trained parameters, or of some of them; the trainer sets the learning rate before every step.

    Raises:
        ValueError: if nothing is to be trained, or the package of ``muon`` is missing.
    """
    only = {id(p) for p in (module.parameters() if parameters is None else parameters)}
    hidden, decayed, plain = _sort(module, settings.optimizer == "muon", only)
    if not (hidden or decayed or plain):
        raise ValueError(f"the {type(module).__name__} has no parameters to train: they are all frozen, or there are none")
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        parameters = decayed + plain
        # Lists for one kernel hold no divided tensors beside whole ones.
        fused = all(parameter.device.type in ("cpu", "cuda") and not is_divided(parameter) for parameter in parameters)
        foreach = False if any(map(is_divided, parameters)) else None
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=fused, foreach=foreach)
    muon: list[dict[str, object]] = [{"params": hidden, "weight_decay": settings.weight_decay, "use_muon": True}] if hidden else []
    rest: list[dict[str, object]] = [{**group, "use_muon": False, "betas": settings.betas, "eps": 1e-8} for group in groups]
    return _muon(muon + rest, hidden + decayed + plain, settings.lr)


def moments_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Size of an optimizer's moments once it has made a step: two of AdamW, one of Muon."""
    return sum(
        parameter.numel() * parameter.element_size() * (1 if group.get("use_muon") else 2)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def _sort(module: nn.Module, orthogonalise: bool, only: set[int]) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trained parameters as: hidden matrices for Muon, others that decay, others that do not.

    In a head, hidden are those of its repeated blocks: the layers before and after them map from and to values of tokens.
    """
    blocks = tuple(f"{path}." for path, _ in blocks_of(module))
    hidden: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in seen or id(parameter) not in only or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            words = f"{path}.{name}".lower()
            if parameter.ndim < 2 or isinstance(owner, nn.Embedding) or any(table in words for table in _TABLES):
                plain.append(parameter)
            # The output layer's rows are classes, not directions of a hidden space: it stays with AdamW, as Muon's authors advise.
            elif (
                orthogonalise
                and isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
                and ("head" not in words.split(".") or f"{path}.".startswith(blocks))
            ):
                hidden.append(parameter)
            else:
                decayed.append(parameter)
    return hidden, decayed, plain


def _muon(groups: list[dict[str, object]], trained: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    try:
        from pytorch_optimizer import Muon
        from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_gram_newton_schulz, zero_power_via_newton_schulz_5
    except ImportError:
        raise ValueError("optimizer: muon needs pytorch_optimizer 4.1 or newer: pip install 'jielong[muon]'; or use adamw") from None

    trained = list(trained)
    in_bf16 = all(bf16_is_faster(parameter.device) for parameter in trained)

    def _in_float32(group: dict[str, Any], matrix: Tensor) -> Tensor:
        how = {"num_steps": group["ns_steps"], "weights": group["ns_coeffs"], "dtype": torch.float32}
        if max(matrix.shape) < _WIDE * min(matrix.shape):
            return zero_power_via_newton_schulz_5(matrix, **how)
        # With one restart it is as accurate in float32 as plain Newton-Schulz; with none, errors reach 3e-3 of the largest entry.
        return zero_power_via_gram_newton_schulz(matrix, reset_steps=(3,), **how)

    class WholeMatrixMuon(Muon):
        """Muon that gathers a divided matrix to orthogonalise it, in float32 where the package's bfloat16 would be slow."""

        @staticmethod
        def _orthogonalize(group: dict[str, Any], updates: list[Tensor]) -> list[Tensor]:
            matrices = [whole(update).flatten(1) for update in updates]
            if in_bf16:
                found: list[Tensor] = Muon._orthogonalize(group, matrices)
            else:
                found = [_in_float32(group, matrix) for matrix in matrices]
            return [divided_as(m.reshape(u.shape), u) if is_divided(u) else m for m, u in zip(found, updates, strict=True)]

    foreach = False if any(map(is_divided, trained)) else None
    # Adjusted rates give an update the root mean square of AdamW's (arXiv 2502.16982), so one learning rate serves all groups.
    optimizer: torch.optim.Optimizer = WholeMatrixMuon(groups, lr=lr, adamw_lr=lr, use_adjusted_lr=True, foreach=foreach)
    return optimizer


def pack(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], OptimizerNumbers]:
    """An optimizer's state as tensors by name and, beside them, the numbers that JSON can hold exactly."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: JSON = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{name}"] = value
    groups = [{key: value for key, value in group.items() if _counts(key, value)} for group in state["param_groups"]]
    return tensors, {"numbers": numbers, "groups": groups}


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], info: OptimizerNumbers) -> None:
    """Give an optimizer its state back.

    Raises:
        ValueError: if it is of other parameters; also ``LookupError``, ``TypeError``.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, object]] = {}
    for key, value in {**tensors, **info["numbers"]}.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
            raise ValueError(f"{key} is {tuple(value.shape)}, but its parameter {tuple(parameter.shape)}")
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            # Fused kernels walk parameter and moments through memory side by side: both need the same strides.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(divided_as(value, parameter))
        state.setdefault(int(index), {})[name] = value
    groups = [{**now, **then} for now, then in zip(optimizer.state_dict()["param_groups"], info["groups"], strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _counts(key: str, value: object) -> bool:
    """Whether a group's entry is progress (a step counter) and not a setting; settings come from the recipe."""
    return key == "step" and isinstance(value, int | float)
