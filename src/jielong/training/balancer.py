"""EnCodec's loss balancer (arXiv 2210.13438, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from jielong.core.whole_batch import at_step_end, mean_over_batch
from jielong.quantizers.parallel import sum_over_processes, world
from jielong.training.settings import Balance


class Balancer(nn.Module):
    r"""Scales every loss's gradient at the reconstruction, so that one backward pass carries their sum.

    With ``g_i = d l_i / d x^`` the network receives ``sum_i R (lambda_i / sum_j lambda_j) g_i / <|g_i|_2>``. Norms are of one item's
    gradient of its own loss, averaged over items; ``<.>`` is their bias-free moving average over steps, so weights ``lambda`` are shares
    of the gradient, whatever a loss's magnitude.

    The average that scales a step is that of the steps before it (of the whole step for a new loss), so micro-batches change nothing.
    Norms are averaged over all processes, which must call it together, and saved as buffers; norms that are not finite are not counted.
    Losses of the bottleneck are no functions of the reconstruction and are not balanced.

    Args:
        settings: Norm ``R`` and decay.
        names: All losses.
    """

    total: Tensor
    weight: Tensor
    pending: Tensor
    counted: Tensor
    at: Tensor

    def __init__(self, settings: Balance, names: Sequence[str]) -> None:
        super().__init__()
        self.settings, self.names = settings, tuple(names)
        for name in ("total", "weight", "pending", "counted"):
            self.register_buffer(name, torch.zeros(len(self.names)))
        self.register_buffer("at", torch.tensor(-1))

    def forward(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], media: Tensor, samples_seen: int) -> dict[str, Tensor]:
        """Scaled gradients at the reconstruction.

        Args:
            losses: Scalars by name, means over the items of ``media``.
            weights: ``lambda`` by name; the sum is over ``losses``.
            media: Reconstruction ``(B, ...)`` that the losses depend on, float32: a leaf that requires a gradient.
            samples_seen: Identifies the step.

        Returns:
            By name, of the shape of ``media``; their sum is the gradient of a mean over items.

        Raises:
            KeyError: if a loss is not in ``names``.
        """
        self._settle(samples_seen)
        whole = sum(weights[name] for name in losses)
        gradients: dict[str, Tensor] = {}
        norms = torch.zeros_like(self.pending)
        for place, name in enumerate(losses):
            keep = place + 1 < len(losses)
            (gradient,) = torch.autograd.grad(losses[name], media, retain_graph=keep, allow_unused=True)
            gradients[name] = torch.zeros_like(media) if gradient is None else gradient * len(media)
            norms[self.names.index(name)] = torch.linalg.vector_norm(gradients[name].flatten(1), dim=1).mean()
        norms = sum_over_processes(norms) / world()[1]
        used = torch.tensor([float(name in losses) for name in self.names], device=norms.device)
        if bool(((self.weight == 0) & (used > 0)).any()):
            norms = mean_over_batch(norms)
        finite = torch.isfinite(norms)
        norms, used = torch.where(finite, norms, 0.0), used * finite
        at_step_end(self._count, None, (norms * used)[None], used[None], used.new_tensor([len(media)]))
        average = torch.where(self.weight > 0, self.total / self.weight, norms)
        scale = self.settings.norm / (average.clamp_min(1e-12) * len(media))
        return {name: gradient * scale[self.names.index(name)] * (weights[name] / whole) for name, gradient in gradients.items()}

    def _count(self, _: Generator | None, norms: Tensor, used: Tensor, items: Tensor) -> None:
        """Add the mean of the micro-batches' norms ``(n, losses)``, weighted by their items ``(n,)``."""
        shares = (items / items.sum())[:, None]
        self.pending += (shares * norms).sum(0)
        self.counted += (shares * used).sum(0)

    def _settle(self, samples_seen: int) -> None:
        """At the start of a step, add the norms of the previous one to the averages."""
        if int(self.at) == samples_seen:
            return
        seen, decay = self.counted > 0, self.settings.decay
        self.total.copy_(torch.where(seen, decay * self.total + self.pending / torch.where(seen, self.counted, 1), self.total))
        self.weight.copy_(torch.where(seen, decay * self.weight + 1, self.weight))
        self.pending.zero_()
        self.counted.zero_()
        self.at.fill_(samples_seen)


def carrying(value: Tensor, media: Tensor, gradient: Tensor) -> Tensor:
    """A scalar equal to ``value`` whose gradient at ``media`` is ``gradient``."""
    product = (media.float() * gradient.detach()).sum()
    return value.detach() + product - product.detach()
