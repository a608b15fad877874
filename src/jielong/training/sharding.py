"""FSDP2: the weights of repeated blocks, their gradients, moments and averages, divided among processes (arXiv 2304.11277).

A block gathers its weights for its forward and its backward pass, and the mean of its gradients is scattered. What is outside of blocks
(embeddings, first and last layers, discriminators) is held by every process, and reduced as without FSDP. So losses may read weights and
call :func:`torch.autograd.grad` as they like. States and checkpoints hold whole tensors, the same as those of any number of processes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, distributed, nn

from jielong.core.device import DeviceError
from jielong.networks.repeated import blocks_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def requested_sharding() -> FullyShardedDataParallelPlugin | None:
    """The FSDP settings of ``accelerate launch``; ``None`` without any.

    Raises:
        DeviceError: for settings that are not supported.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    refused = {
        "FSDP_VERSION": (("2",), "fsdp_version: 2"),
        "FSDP_OFFLOAD_PARAMS": (("", "false"), "fsdp_offload_params: false"),
        "FSDP_ACTIVATION_CHECKPOINTING": (("", "false"), "fsdp_activation_checkpointing: false, and train.gradient_checkpointing: true"),
    }
    for variable, (accepted, right) in refused.items():
        found = os.environ.get(variable, "").lower()
        if found not in accepted:
            raise DeviceError(f"accelerate's configuration asks for FSDP with {variable}={found or 'nothing'}; write {right} in it")
    return FullyShardedDataParallelPlugin()


def shard_blocks(objective: nn.Module, model: nn.Module, accelerator: Accelerator) -> str | None:
    """Divide the weights of a model's blocks, as accelerate's configuration asks for; what was done, in words, or ``None``.

    The objective must call the model in its own forward pass. Optimizers are built afterwards.
    """
    plugin, processes = requested_sharding(), accelerator.num_processes
    if plugin is None:
        return None
    if processes == 1:
        return "FSDP is configured, and one process has nothing to divide: all weights are on it"
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    blocks = [block for _, block in blocks_of(model)]
    mesh, reshard = init_device_mesh(accelerator.device.type, (processes,)), bool(plugin.reshard_after_forward)
    inside = {id(weight) for block in blocks for weight in block.parameters()}
    # A view is harmful only to operations in place, and no network applies any to the output of a block.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in blocks:
        for weight in block.parameters():
            weight.data = weight.data.contiguous()  # other layouts, as channels-last, cannot be divided
        for part in block.called_alone():
            fully_shard(part, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    elsewhere = {weight for weight in objective.parameters() if id(weight) not in inside}
    fully_shard(objective, mesh=mesh, reshard_after_forward=reshard, ignored_params=elsewhere)
    count = sum(weight.numel() for block in blocks for weight in block.parameters())
    return f"FSDP2: {count:,} weights of {len(blocks)} repeated blocks are divided among {processes} processes"


def _divided(tensor: Tensor) -> DTensor | None:
    """A tensor of FSDP; its module, slow to import, is not imported for tensors of other types."""
    if type(tensor) in (Tensor, nn.Parameter):
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None


def is_divided(tensor: Tensor) -> bool:
    """Whether a process holds a part of it."""
    return _divided(tensor) is not None


def local(tensor: Tensor) -> Tensor:
    """This process's part, which shares memory; a whole tensor itself."""
    return tensor if (divided := _divided(tensor)) is None else divided.to_local()


def whole(tensor: Tensor) -> Tensor:
    """All of it; every process must call this."""
    return tensor if (divided := _divided(tensor)) is None else divided.full_tensor()


def divided_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that is whole in every process, divided as another of its shape is."""
    if (divided := _divided(like)) is None:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = divided.device_mesh
    return DTensor.from_local(tensor.to(like.device), mesh, [Replicate()], run_check=False).redistribute(mesh, divided.placements)


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors; divided ones on the CPU, and none of them unless ``keep``. Every process must call this."""
    result = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if keep:
            result[name] = value.cpu() if is_divided(tensor) else value
    return result


def clip_divided(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """:func:`torch.nn.utils.clip_grad_norm_` where some gradients are divided: the norm of all before clipping."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    parts = _squares(local(gradient) for gradient in gradients if is_divided(gradient))
    distributed.all_reduce(parts)
    norm = (parts + _squares(gradient for gradient in gradients if not is_divided(gradient)).to(parts)).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(factor.to(gradient.dtype))
    return norm


def _squares(tensors: Iterable[Tensor]) -> Tensor:
    total = None
    for tensor in tensors:
        square = tensor.detach().square().sum()
        total = square if total is None else total + square.to(total)
    return torch.zeros(()) if total is None else total
