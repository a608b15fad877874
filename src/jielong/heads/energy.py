"""The energy head: one evaluation turns noise into a token, and a proper score teaches it (SLED, arXiv 2505.13181).

For a true token ``y`` and draws ``x, x'`` of the head, the energy score ``E|x - y|^a - E|x - x'|^a / 2`` with ``0 < a < 2`` is least when
the draws have the distribution of ``y``, and only then (Gneiting and Raftery 2007). The first term pulls to the target, the second drives
the draws apart: without it all of them would fall on the one point that is nearest to every answer.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput, SamplingConfig
from jielong.heads.continuous import check_continuous
from jielong.networks.noise_driven import NoiseDriven


def distance(difference: Tensor, alpha: float) -> Tensor:
    """``|u|^alpha`` of vectors ``(..., C)``, Euclidean, ``(...)``; its gradient at 0, where an untrained head begins, is 0."""
    square = difference.square().sum(-1)
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).pow(alpha / 2), 0.0)


def energy_loss(draws: Tensor, target: Tensor, alpha: float = 1.0) -> Tensor:
    """Twice the energy score, estimated without bias from ``n`` independent draws a target:

    ``2/n sum_i |x_i - y|^a - 1/(n (n - 1)) sum_{i != j} |x_i - x_j|^a``; with two draws, ``|x - y|^a + |x' - y|^a - |x - x'|^a``.

    The least mean is not 0 but ``E|y - y'|^a``, how far two right answers are apart.

    Args:
        draws: ``(n, ..., C)``.
        target: ``(..., C)``.
        alpha: Exponent in (0, 2).

    Raises:
        ValueError: if there are fewer than two draws.
    """
    count = len(draws)
    if count < 2:
        raise ValueError(f"an energy score needs two draws or more, to see how far apart they are, not {count}")
    to_target = distance(draws - target, alpha).mean(0)
    # Each pair once: the sum over i != j counts it twice.
    first, second = torch.triu_indices(count, count, 1, device=draws.device)
    among = distance(draws[first] - draws[second], alpha).mean(0)
    return 2 * to_target - among


class Energy(HeadSettings, family="head", name="energy"):
    """Settings of the energy head, for continuous tokens of unit standard deviation.

    Attributes:
        layers: Blocks of the network.
        width: Its channels.
        noise: Numbers of noise per token.
        draws: Samples per token in training; more reduce the gradient's variance at proportional cost.
        alpha: Exponent of the score. Towards 2 the score depends on the mean of the draws alone.
    """

    layers: int = Field(default=3, ge=1)
    width: int = Field(default=256, ge=1)
    noise: int = Field(default=32, ge=1)
    draws: int = Field(default=2, ge=2)
    alpha: float = Field(default=1.0, gt=0, lt=2)

    def build(self, width: int, layout: Layout) -> EnergyHead:
        """See :meth:`HeadSettings.build`."""
        return EnergyHead(width, layout, self)


class EnergyHead(Head):
    """A sample in one evaluation. It has no likelihood: it can draw a token, but cannot say how likely one is.

    *Temperature* multiplies the noise that goes in: 1 is the model's own distribution, 0 gives one and the same token always, somewhere
    amid the answers (our own knob; the paper has none). *Guidance* acts on the hidden vectors, before the one evaluation, as in the paper.

    Args:
        width: Width ``D`` of the hidden vectors.
        layout: The tokens to predict: ``C`` numbers at a position.
        settings: See :class:`Energy`.
    """

    discrete = False

    def __init__(self, width: int, layout: Layout, settings: Energy = Energy()) -> None:
        super().__init__()
        check_continuous("energy", layout)
        self.network = NoiseDriven(width, settings.noise, layout.channels, settings.layers, settings.width)
        self.noise, self.draws, self.alpha = settings.noise, settings.draws, settings.alpha

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Twice the energy score of each position, ``(M,)``: see :func:`energy_loss`."""
        noise = torch.randn(self.draws, len(hidden), self.noise, device=hidden.device)
        draws = self.network(hidden, noise)
        with torch.autocast(draws.device.type, enabled=False):
            return energy_loss(draws.float(), targets.float(), self.alpha)

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens ``(B, n, C)``, from ``null + guidance (hidden - null)`` where there is guidance.

        Raises:
            ValueError: if top-k or top-p is asked for.
        """
        self.check_sampling(sampling)
        if (null := context.unconditional) is not None:
            hidden = torch.lerp(null.float(), hidden.float(), context.guidance).to(hidden.dtype)
        drawn = rng.normal(*hidden.shape[1:-1], self.noise) * sampling.temperature
        return SampleOutput(self.network(hidden, drawn).float())
