"""The Gaussian mixture head: the network predicts an explicit density over vectors (GIVT, arXiv 2312.02116).

A hidden vector gives ``k`` weights, means and covariances, and a token ``x`` of ``C`` numbers has

    p(x) = sum_m pi_m N(x; mu_m, L_m L_m^T)

with ``L_m`` diagonal or lower triangular. Loss, confidence and likelihood are exact; a distribution of more modes than components is
approximated only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput
from jielong.heads.continuous import check_continuous
from jielong.heads.softmax import draw_codes

MEANS_STD = 0.5
"""Initial standard deviation of the components' means: identical components would keep identical gradients."""


def square_plus(raw: Tensor) -> Tensor:
    """``(r + sqrt(r^2 + 4)) / 2``: 1 at 0, asymptotically ``r`` and ``1 / |r|`` (GIVT, section 3.2).

    Below 0 it is computed as ``2 / (sqrt(r^2 + 4) - r)``, which avoids cancellation.
    """
    root = torch.sqrt(raw.square() + 4)
    return torch.where(raw >= 0, 0.5 * (raw + root), 2 / (root + raw.abs()))


@dataclass(frozen=True)
class Mixture:
    """A batch of Gaussian mixtures in float32."""

    weights: Tensor  # logarithms of the weights, (..., k)
    means: Tensor  # (..., k, C)
    scales: Tensor  # standard deviations (..., k, C), or Cholesky factors (..., k, C, C) of the covariances

    @property
    def full(self) -> bool:
        """Whether the covariances are full."""
        return self.scales.ndim > self.means.ndim

    def log_prob(self, values: Tensor) -> Tensor:
        """Log-density of vectors ``(..., C)`` in nats, ``(...)``."""
        offset = values.float()[..., None, :] - self.means
        if self.full:
            white = torch.linalg.solve_triangular(self.scales, offset[..., None], upper=False)[..., 0]
            volume = self.scales.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            white, volume = offset / self.scales, self.scales.log().sum(-1)
        each = -0.5 * (white.square().sum(-1) + values.shape[-1] * math.log(2 * math.pi)) - volume
        return torch.logsumexp(self.weights + each, dim=-1)

    def component(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(..., C)`` and scale, ``(..., C)`` or ``(..., C, C)``, of the components ``index``, ``(...)``."""
        axis = index.ndim

        def pick(each: Tensor) -> Tensor:
            return torch.take_along_dim(each, index.reshape(*index.shape, *[1] * (each.ndim - axis)), dim=axis).squeeze(axis)

        return pick(self.means), pick(self.scales)


class GaussianMixture(HeadSettings, family="head", name="gaussian_mixture"):
    """Settings of the Gaussian mixture, for continuous tokens of unit standard deviation.

    Attributes:
        components: Size ``k`` of the mixture.
        covariance: ``diagonal``: the numbers of a token are independent given the component; ``full``: they are correlated.
        least_scale: Added to standard deviations (diagonals of ``L``), which bounds the density. Where tokens are deterministic (flat areas
            of pixels, means of a posterior) the density grows up to that bound: raise it to 0.01 or so.
    """

    components: int = Field(default=16, ge=1)
    covariance: Literal["diagonal", "full"] = "diagonal"
    least_scale: PositiveFloat = 1e-6

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> GaussianMixtureHead:
        """See :meth:`HeadSettings.build`."""
        return GaussianMixtureHead(width, layout, self)


class GaussianMixtureHead(Head):
    """A linear map to the ``k (1 + 2 C)`` or ``k (1 + C + C (C + 1) / 2)`` parameters of a mixture over a token's numbers.

    *Temperature* multiplies every standard deviation (the paper's variance scaling, 0.95 there): 1 is the model's distribution, 0 draws a
    component and returns its mean. *Confidence* is the log-density of the sample under the conditional mixture.
    """

    discrete = False

    def __init__(self, width: int, layout: Layout, settings: GaussianMixture = GaussianMixture()) -> None:
        super().__init__()
        check_continuous("gaussian_mixture", layout)
        self.channels, self.components, self.full = layout.channels, settings.components, settings.covariance == "full"
        self.least_scale = settings.least_scale
        self.below = self.channels * (self.channels - 1) // 2 if self.full else 0
        self.parameters_of = nn.Linear(width, self.components * (1 + 2 * self.channels + self.below))
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)
        if self.components > 1:
            with torch.no_grad():
                nn.init.normal_(self._split(self.parameters_of.bias)[1], std=MEANS_STD)

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits ``(..., k)``, means and raw scales ``(..., k, C)``, and what is below the diagonal, ``(..., k, C (C - 1) / 2)``."""
        parts = numbers.unflatten(-1, (self.components, -1)).split([1, self.channels, self.channels, self.below], dim=-1)
        return parts[0][..., 0], parts[1], parts[2], parts[3]

    def mixture_of(self, hidden: Tensor) -> Mixture:
        """The mixtures predicted from hidden vectors ``(..., D)``."""
        numbers = self.parameters_of(hidden)
        with torch.autocast(numbers.device.type, enabled=False):
            logits, means, raw, below = self._split(numbers.float())
            scales = square_plus(raw) + self.least_scale
            if self.full:
                rows, columns = torch.tril_indices(self.channels, self.channels, -1, device=below.device)
                scales = torch.diag_embed(scales)
                scales[..., rows, columns] = below
            return Mixture(logits.log_softmax(-1), means, scales)

    def log_prob(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Log-density in nats a token: hidden ``(..., D)``, values ``(..., C)`` to ``(...)``."""
        mixture = self.mixture_of(hidden)
        with torch.autocast(values.device.type, enabled=False):
            return mixture.log_prob(values)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Negative log-density in nats per *number*, ``(M,)``: that of the token over ``C``. It may be negative."""
        return -self.log_prob(hidden, targets) / self.channels

    def nats_a_value(self, loss: float) -> float | None:
        """The loss."""
        return loss

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens ``(B, n, C)`` and the log-density of each, ``(B, n)``.

        With guidance ``g`` a component ``m`` is drawn by the conditional weights (GIVT, appendix B), and from it the token, by

            N_m(x | condition)^g N_m(x | null)^(1 - g),

        which is a Gaussian again; see :func:`guided`. Below 1 the weights are interpolated with the unconditional ones.
        """
        self.check_sampling(sampling)
        shape = hidden.shape[1:-1]
        uniform, white = rng.uniform(*shape), rng.normal(*shape, self.channels) * sampling.temperature
        mixture = self.mixture_of(hidden)
        null, guidance = context.unconditional, context.guidance
        if null is None:
            mean, scale = mixture.component(draw_codes(mixture.weights.exp(), uniform))
            values = mean + _times(scale, white)
        else:
            other = self.mixture_of(null)
            index = draw_codes(torch.lerp(other.weights, mixture.weights, min(guidance, 1.0)).softmax(-1), uniform)
            values = guided(*mixture.component(index), *other.component(index), guidance, white)
        return SampleOutput(values, mixture.log_prob(values))


def _times(scale: Tensor, vector: Tensor) -> Tensor:
    """``L z`` for standard deviations ``(..., C)`` or factors ``(..., C, C)``, and ``z`` ``(..., C)``."""
    return scale * vector if scale.ndim == vector.ndim else (scale @ vector[..., None])[..., 0]


def guided(mean: Tensor, scale: Tensor, null_mean: Tensor, null_scale: Tensor, guidance: float, white: Tensor) -> Tensor:
    """Draw from ``N(mean, L L^T)^g N(null_mean, N N^T)^(1 - g)``, normalised: the closed form of GIVT's rejection sampling.

    In coordinates ``x = mean + L z`` the null has precision ``Q diag(b) Q^T``, and along each column of ``Q`` both are scalar Gaussians:
    standard normal, and of mean ``m`` and precision ``b``. Their product has precision ``P = g + (1 - g) b`` and mean ``(1 - g) b m / P``.
    Where the null is much narrower, ``P <= 0`` and no such density exists: below a quarter of the wider one's precision (the paper's
    proposals reach twice the wider scale) the conditional Gaussian is used instead.

    Args:
        mean: ``(..., C)``.
        scale: Standard deviations ``(..., C)``, or Cholesky factors ``(..., C, C)``.
        null_mean: ``(..., C)``.
        null_scale: As ``scale``.
        guidance: The scale ``g``; 1 is the conditional Gaussian.
        white: Standard normal numbers, ``(..., C)``, times the temperature.
    """
    full = scale.ndim > mean.ndim
    axes = None
    if full:
        within = torch.linalg.solve_triangular(null_scale, scale, upper=False)  # N^-1 L
        b, axes = torch.linalg.eigh(within.mT @ within)
        b = b.clamp_min(0.0)
        offset = torch.linalg.solve_triangular(scale, (null_mean - mean)[..., None], upper=False)[..., 0]
        # Rotated and rotated back: the sign of eigenvectors and their basis in degenerate eigenspaces do not matter.
        white, offset = ((axes.mT @ each[..., None])[..., 0] for each in (white, offset))
    else:
        b, offset = (scale / null_scale).square(), (null_mean - mean) / scale
    precision = guidance + (1 - guidance) * b
    exists = precision >= 0.25 * b.clamp_max(1.0)
    precision = torch.where(exists, precision, 1.0)
    z = torch.where(exists, (1 - guidance) * b * offset / precision, 0.0) + white * precision.rsqrt()
    if axes is not None:
        z = (axes @ z[..., None])[..., 0]
    return mean + _times(scale, z)
