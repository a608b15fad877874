"""One phase of one step: accumulate gradients over micro-batches, reduce them over processes, clip, and update if they are finite.

Gradients are reduced here and not by a DistributedDataParallel wrapper, whose hooks forbid ``torch.autograd.grad`` inside a loss (which the
adversarial weight needs) and which must know the weights that each phase leaves out. Every process takes its slice of the global batch and
the loss is a mean over samples, so one flat mean of all gradients is exact, whatever the objective.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jielong.core.phases import trained_parameters
from jielong.core.whole_batch import StartPending, WholeBatch
from jielong.data.sets import Batch
from jielong.networks.dropout import item_streams, number_sites
from jielong.quantizers.checks import NonFiniteVectors
from jielong.training.nonfinite import first_nonfinite
from jielong.training.objective import Losses, Objective
from jielong.training.optimizers import build_optimizer, unpack
from jielong.training.precision import mixed
from jielong.training.prefetch import BatchPrefetcher
from jielong.training.settings import TrainSettings
from jielong.training.sharding import clip_divided, is_divided
from jielong.training.state import RunState

MicroBatches = Sequence[tuple[int, Batch]]
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class PhaseResult:
    """The result of a phase.

    Attributes:
        finite: Whether loss and gradient were finite; if not, nothing was updated.
        values: Figures for the log by name.
    """

    finite: bool
    values: dict[str, float]


class Stepper(Generic[Model]):
    """Runs the phases of an objective, each with its optimizer.

    Args:
        objective: On its device already.
        settings: The recipe's ``train`` section.
        accelerator: The processes.
        prefetcher: For the size of this process's slice, and its random numbers.
    """

    def __init__(self, objective: Objective[Model], settings: TrainSettings, accelerator: Accelerator, prefetcher: BatchPrefetcher) -> None:
        self.objective, self.settings, self.accelerator, self.prefetcher = objective, settings, accelerator, prefetcher
        number_sites(objective)
        phases = objective.phases
        self.parameters = trained_parameters(phases)
        self.optimizers = {phase: build_optimizer(module, settings, self.parameters[phase]) for phase, module in phases.items()}
        self._all = list({id(p): p for p in objective.parameters() if p.requires_grad}.values())

    def run(self, phase: str, batches: MicroBatches, samples_seen: int, position: int, rate: float) -> PhaseResult:
        """Compute a phase on this process's micro-batches at ``position`` in the schedules; update its module with this learning rate."""
        parameters, optimizer = self.parameters[phase], self.optimizers[phase]
        self._train_only(parameters)
        total = torch.zeros((), device=self.accelerator.device)
        parts: dict[str, Tensor] = {}
        whole = WholeBatch(divided=len(batches) > 1)
        try:
            for batch, losses in self._all_losses(phase, batches, samples_seen, position, whole):
                share = len(batch) / self.prefetcher.local_batch
                self.accelerator.backward(losses.total.float() * share)
                total = total + losses.total.detach().float() * share
                for name, value in losses.parts.items():
                    part = value.detach().float() * share
                    parts[name] = parts[name] + part if name in parts else part
        except NonFiniteVectors:
            total = total * math.nan
        if self.accelerator.num_processes > 1:
            total = self._reduce([each for each in parameters if not is_divided(each)], total)
        clip = clip_divided if any(map(is_divided, parameters)) else self.accelerator.clip_grad_norm_
        norm = clip(parameters, self.settings.clip or math.inf)
        # One transfer from the device per phase, for all figures and the decision to update.
        loss, norm, *rest = torch.stack([value.to(total.device) for value in (total, norm, *parts.values())]).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return PhaseResult(False, {"loss": loss, "grad_norm": norm})
        whole.update()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        prefix = "" if phase == next(iter(self.parameters)) else f"{phase}_"
        return PhaseResult(True, {**dict(zip(parts, rest, strict=True)), f"{prefix}loss": loss, f"{prefix}grad_norm": norm})

    def _all_losses(
        self, phase: str, batches: MicroBatches, samples_seen: int, position: int, whole: WholeBatch
    ) -> Iterator[tuple[Batch, Losses]]:
        """Each micro-batch with its losses; first, where the losses need it, what all of them have in common."""

        def losses(first: int, batch: Batch) -> Losses | None:
            whole.begin(len(batch) / self.prefetcher.local_batch)
            with whole:
                try:
                    return self._losses(phase, first, batch, samples_seen, position)
                except StartPending:
                    return None

        collected = False
        for first, batch in batches:
            found = losses(first, batch)
            while found is None or (whole.wanting and not collected):
                whole.collect()
                for each in batches:
                    losses(*each)
                collected = whole.collected()
                found = losses(first, batch) if collected else None
            yield batch, found

    def first_nonfinite(self, phase: str, batches: MicroBatches, samples_seen: int, position: int) -> str:
        """In which module the numbers of a phase stop being finite, in words."""
        self._train_only(self.parameters[phase])
        return first_nonfinite(
            self.objective,
            [batch.media for _, batch in batches],
            lambda: torch.stack(
                [self._losses(phase, first, batch, samples_seen, position).total.float() for first, batch in batches]
            ).mean(),
        )

    def restore(self, state: RunState) -> None:
        """Give the optimizers their saved state."""
        for phase, optimizer in self.optimizers.items():
            unpack(optimizer, state.tensors[f"optimizer-{phase}"], state.optimizers[phase])

    def release(self) -> None:
        """Let every parameter require gradients again, and free the gradients."""
        self._train_only(self._all)

    def _losses(self, phase: str, first: int, batch: Batch, samples_seen: int, position: int) -> Losses:
        rng, device = self.prefetcher.rng(samples_seen, first, len(batch)), self.accelerator.device
        with mixed(device, self.settings.precision), item_streams(rng.per_sample, device):
            losses: Losses = self.objective(batch, phase, position, rng)
        return losses

    def _train_only(self, parameters: Sequence[Tensor]) -> None:
        """No gradient of one phase reaches another's weights, nor is computed for them."""
        chosen = {id(parameter) for parameter in parameters}
        for parameter in self._all:
            parameter.requires_grad_(id(parameter) in chosen)
            parameter.grad = None

    def _reduce(self, parameters: Sequence[Tensor], total: Tensor) -> Tensor:
        """Average gradients and loss over processes, in place; a weight that no process used keeps no gradient, as with one process."""
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=total.device)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(grad.reshape(-1) for grad in grads), used, total[None]])
        flat = self.accelerator.reduce(flat, "mean")
        *chunks, used, total = flat.split([*(grad.numel() for grad in grads), len(used), 1])
        for parameter, grad, chunk, count in zip(parameters, grads, chunks, used.tolist(), strict=True):
            parameter.grad = grad.copy_(chunk.view(grad.shape)) if count else None
        return total[0]


def broadcast_from_first(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's values, in place."""
    for tensor in tensors:
        plain = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.contiguous()  # not every backend sends booleans
        broadcast(plain)
        tensor.copy_(plain)


def undivided_norms(objective: nn.Module, samples: int, batch: int) -> str | None:
    """A line on trained batch norms that normalise ``samples`` of a batch at once; ``None`` if there are none, or these are the batch."""
    names = [
        name
        for name, module in objective.named_modules()
        if isinstance(module, _BatchNorm) and any(weight.requires_grad for weight in module.parameters())
    ]
    if samples == batch or not names:
        return None
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"batch norm ({names[0]}{others}) has statistics of {samples} samples, not of the batch of {batch}: "
        f"losses depend on micro_batch and on the number of processes; with group norm they do not"
    )
