"""Flows that are known exactly, as networks and as maps; time runs from noise, 0, to data, 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.heads.continuous import IterativeHead
from jielong.networks.denoiser import Denoiser


def gaussian_velocity(x: Tensor, t: Tensor | float, mean: Tensor | float, deviation: float) -> Tensor:
    """``E[x_1 - x_0 | x_t = x]`` for data ``N(m, s^2)``."""
    return mean + (t * deviation**2 - (1 - t)) / ((1 - t) ** 2 + (t * deviation) ** 2) * (x - t * mean)


def gaussian_map(x: Tensor, t: Tensor | float, r: Tensor | float, mean: Tensor | float, deviation: float) -> Tensor:
    """Where the flow of :func:`gaussian_velocity` carries ``x`` from ``t`` to ``r``."""
    spread = ((1 - r) ** 2 + (r * deviation) ** 2) / ((1 - t) ** 2 + (t * deviation) ** 2)
    return r * mean + spread**0.5 * (x - t * mean)


def two_points_velocity(x: Tensor, t: Tensor | float) -> Tensor:
    """For data -1 and 1, equally often: ``(tanh(t x / (1 - t)^2) - x) / (1 - t)``."""
    return (torch.tanh(t * x / (1 - t) ** 2) - x) / (1 - t)


class Exact(Denoiser):
    """A network that is a function of noisy tokens, times and hidden vectors (``C`` numbers), and remembers the times it was asked at."""

    def __init__(self, function: Callable[..., Tensor], times: int = 1) -> None:
        super().__init__(1, 1, times)
        self.function = function
        self.asked: list[list[float]] = []

    def prepare(self, hidden: Tensor) -> Tensor:
        return hidden

    def predict(self, x: Tensor, times: Tensor | None, prepared: Tensor) -> Tensor:
        assert times is not None
        if len(times) == 1:
            self.asked.append(times[0].tolist())
        return self.function(x, *times.split(1, dim=-1), prepared)


def drawn(head: IterativeHead, steps: int | None = None, items: int = 1000, hidden: Tensor | None = None, **sampling: float) -> Tensor:
    """Tokens ``(items, C)``, one an item; hidden vectors are 0 if not given."""
    hidden = torch.zeros(items, 1, 4) if hidden is None else hidden.expand(items, 1, -1)
    with torch.no_grad():
        return head.sample(hidden, PerSampleRNG(3, range(items)), SamplingConfig(num_inference_steps=steps, **sampling)).values[:, 0]


def train_on_two_points(head: IterativeHead, steps: int, batch: int = 128, lr: float = 0.01) -> Sequence[float]:
    """Teach a head -1 and 1, equally often; the losses."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(head.parameters(), lr=lr, betas=(0.9, 0.99))
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        head.on_train_step(step * batch)
        loss = head.loss(torch.zeros(batch, 4), torch.randint(2, (batch, 1)) * 2.0 - 1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def both_points(items: int = 1000) -> Tensor:
    """What draws should be: -1 and 1, equally often, ``(items, 1)``."""
    return (torch.arange(items) % 2 * 2.0 - 1)[:, None]
