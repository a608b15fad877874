"""What heads that are normalizing flows share: an exact density of all tokens of a picture together.

    ln p(x | hidden) = ln p(z) + ln |det dz/dx|,   z = f(x, hidden)

The loss is the negative log-density in nats per number, with a floor only where tokens are dequantised (``patches: {dequantize: true}``).
"""

from __future__ import annotations

import math
from typing import Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, SampleOutput
from jielong.heads.continuous import check_continuous, upcast
from jielong.networks.flows import Bijection, Latents

Prior = Literal["normal", "logistic"]
Flow = TypeVar("Flow", bound=Bijection)


def log_density(z: Tensor, prior: Prior) -> Tensor:
    """``ln p(z)`` of each number: ``-(z^2 + ln 2 pi) / 2``, or ``-ln(1 + e^z) - ln(1 + e^-z)``."""
    if prior == "logistic":
        return -F.softplus(z) - F.softplus(-z)
    return -0.5 * (z.square() + math.log(2 * math.pi))


def draw_prior(rng: PerSampleRNG, prior: Prior, *shape: int) -> Tensor:
    """Numbers ``(B, *shape)`` of the prior, float32."""
    if prior == "logistic":
        uniform = rng.uniform(*shape).clamp(min=torch.finfo(torch.float32).tiny)
        return uniform.log() - (-uniform).log1p()
    return rng.normal(*shape)


def check_layout(head: str, layout: Layout) -> None:
    """Raise ``ValueError`` unless tokens are continuous and stand on one grid."""
    check_continuous(head, layout)
    if layout.scales:
        raise ValueError(f"a {head} head maps the tokens of one grid, and this tokenizer's have scales: choose one such as patches or kl")


class FlowHead(Head, Generic[Flow]):
    """A joint head whose flow maps all tokens of an item to independent numbers of a prior.

    *Temperature* multiplies these numbers: 1 is the model's distribution, 0 draws the image of zeros.
    """

    discrete = False
    whole = True

    def __init__(self, flow: Flow, layout: Layout, prior: Prior = "normal") -> None:
        super().__init__()
        self.flow, self.prior = flow, prior
        self.shape = layout.positions, layout.channels

    @property
    def joint(self) -> bool:
        """It is; see :attr:`Head.joint`."""
        return True

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-density of whole items in nats: hidden ``(B, n, D)``, values ``(B, n, C)`` to ``(B,)``."""
        out: Latents = self.flow(upcast(values), hidden)
        return log_density(out.values, self.prior).flatten(1).sum(1) + out.log_determinant

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Negative log-density in nats per number, ``(B,)``; it may be negative. Raises ``ValueError`` for items of different lengths."""
        if context.mask is not None:
            raise ValueError(f"a {type(self).__name__} maps items of one size, and these have padding: take a head such as flow_matching")
        return -self.log_prob(hidden, targets) / math.prod(self.shape)

    def nats_a_value(self, loss: float) -> float | None:
        """The loss."""
        return loss

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens ``(B, n, C)``, without confidence."""
        self.check_sampling(sampling)
        z = sampling.temperature * draw_prior(rng, self.prior, *self.shape)
        return SampleOutput(self.invert(z, hidden, sampling, context))

    def invert(self, z: Tensor, hidden: Tensor, sampling: SamplingConfig, context: HeadContext) -> Tensor:
        """Tokens of numbers of the prior, ``(B, n, C)``; guidance combines hidden vectors."""
        return self.flow.inverse(z, upcast(context.guided(hidden)))
