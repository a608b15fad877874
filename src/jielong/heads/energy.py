"""The energy head: a network maps noise to a token in one evaluation, trained with a proper scoring rule (SLED, arXiv 2505.13181).

For a true token ``y`` and samples ``x, x'``, the energy score ``E|x - y|^a - E|x - x'|^a / 2`` with ``0 < a < 2`` is minimal only if the
samples have the distribution of ``y`` (Gneiting and Raftery 2007). Without the second term the samples would collapse to one point.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput
from jielong.heads.continuous import check_continuous
from jielong.networks.noise_driven import NoiseDriven


def distance(difference: Tensor, alpha: float) -> Tensor:
    """``|u|^alpha`` of vectors ``(..., C)``, ``(...)``; its gradient at 0, where an untrained head starts, is 0."""
    square = difference.square().sum(-1)
    nonzero = square > 0
    return torch.where(nonzero, torch.where(nonzero, square, 1.0).pow(alpha / 2), 0.0)


def energy_loss(draws: Tensor, target: Tensor, alpha: float = 1.0) -> Tensor:
    """Unbiased estimate of twice the energy score from ``n`` independent samples per target:

    ``2/n sum_i |x_i - y|^a - 1/(n (n - 1)) sum_{i != j} |x_i - x_j|^a``; with two samples, ``|x - y|^a + |x' - y|^a - |x - x'|^a``. Raises
    ``ValueError`` if there are fewer than two draws.

    Its minimum is not 0 but ``E|y - y'|^a``.

    ``draws``: ``(n, ..., C)``; ``target``: ``(..., C)``; ``alpha``: exponent in (0, 2).
    """
    count = len(draws)
    if count < 2:
        raise ValueError(f"an energy score needs two draws or more per target, not {count}")
    to_target = distance(draws - target, alpha).mean(0)
    # Each pair once; the sum over i != j has it twice.
    first, second = torch.triu_indices(count, count, 1, device=draws.device)
    between = distance(draws[first] - draws[second], alpha).mean(0)
    return 2 * to_target - between


class Energy(HeadSettings, family="head", name="energy"):
    """Settings of the energy head, for continuous tokens of unit standard deviation.

    Attributes:
        layers: Layers of the network.
        width: Channels of the network.
        noise: Numbers of noise per token.
        draws: Samples per token in training; more reduce the gradient's variance at proportional cost.
        alpha: Exponent of the score. Towards 2 the score depends on the mean of the draws alone.
    """

    gives_confidence: ClassVar[bool] = False
    layers: int = Field(default=3, ge=1)
    width: int = Field(default=256, ge=1)
    noise: int = Field(default=32, ge=1)
    draws: int = Field(default=2, ge=2)
    alpha: float = Field(default=1.0, gt=0, lt=2)

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> EnergyHead:
        """See :meth:`HeadSettings.build`."""
        return EnergyHead(width, layout, self)


class EnergyHead(Head):
    """Samples a token in one evaluation, without likelihood.

    *Temperature* multiplies the input noise (the paper has none): 1 is the model's distribution, 0 is deterministic. *Guidance* acts on the
    hidden vectors, as in the paper.
    """

    discrete = False
    guides_twice = True

    def __init__(self, width: int, layout: Layout, settings: Energy = Energy()) -> None:
        super().__init__()
        check_continuous("energy", layout)
        self.network = NoiseDriven(width, settings.noise, layout.channels, settings.layers, settings.width)
        self.noise, self.draws, self.alpha = settings.noise, settings.draws, settings.alpha

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Twice the energy score of each position, ``(M,)``: see :func:`energy_loss`."""
        noise = context.streams(hidden).normal(self.draws, self.noise).transpose(0, 1)
        draws = self.network(hidden, noise)
        with torch.autocast(draws.device.type, enabled=False):
            return energy_loss(draws.float(), targets.float(), self.alpha)

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """See :meth:`Head.sample`."""
        self.check_sampling(sampling)
        noise = rng.normal(*hidden.shape[1:-1], self.noise) * sampling.temperature
        return SampleOutput(self.network(context.guided(hidden), noise).float())
