"""Diffusion per token: a small network denoises a token given the hidden vector (MAR, arXiv 2406.11838).

    L = mean |target - out(a_t x_0 + s_t e, t, hidden)|^2    (+ L_vb, the variational bound, where the variance is learned)

over ``t`` uniform in 0..999 and noise ``e``; the target is ``e``, ``x_0``, or ``v = a_t e - s_t x_0`` (arXiv 2202.00512).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads import diffusion_samplers as samplers
from jielong.heads.continuous import GuidedDenoiser, IterativeHead, IterativeSettings, Predict, mean
from jielong.heads.diffusion_samplers import Denoised
from jielong.heads.diffusion_schedule import Kind, Schedule
from jielong.networks.denoiser import AnyDenoiser

Prediction = Literal["epsilon", "x0", "v"]
Variance = Literal["learned", "fixed"]
Sampler = Literal["ddpm", "ddim", "edm"]


class Diffusion(IterativeSettings, family="head", name="diffusion"):
    """Settings of the diffusion head.

    Attributes:
        schedule: How the noise grows over the training steps, ``cosine`` or ``linear``.
        prediction: What the network predicts: the noise ``epsilon``, the token ``x0``, or ``v``.
        variance: Variance of a reverse step: ``fixed`` to that of ``q(x_{t-1} | x_t, x_0)``, or ``learned`` between it and ``beta_t``
            (arXiv 2102.09672).
        sampler: See :mod:`jielong.heads.diffusion_samplers`.
        eta: Noise that ``ddim`` injects.
        clip: Bound on the magnitude of ``x_0`` in sampling; none for latents.
        start: Noise over signal ``s / a`` from which sampling starts; steps above it are left out. ``None`` starts at the last step, as the
            authors' code does. The cosine schedule ends at 20,000, where ``x_0 = (x - s e) / a`` turns an error of 0.01 in ``e`` into 200.
    """

    schedule: Kind = "cosine"
    prediction: Prediction = "epsilon"
    variance: Variance = "learned"
    sampler: Sampler = "ddpm"
    eta: float = Field(default=0.0, ge=0, le=1)
    clip: float | None = Field(default=None, gt=0)
    start: float | None = Field(default=80.0, gt=0)
    steps: int = Field(default=50, ge=1)

    def build(self, width: int, layout: Layout) -> DiffusionHead:
        """See :meth:`HeadSettings.build`."""
        return DiffusionHead(self.denoiser(width, layout, outputs=2 if self.variance == "learned" else 1), layout, self)


class DiffusionHead(IterativeHead):
    """Samples a token by reverse diffusion.

    *Guidance* combines predictions at every step: given ``x_t``, all three are linear in ``e``, so this guides ``e``. The learned variance
    is that of the conditional branch. *Temperature* multiplies the noise that steps inject, not the initial noise: 1 is the model's
    distribution, 0 follows the means.

    Args:
        network: Reads one time; gives ``C`` numbers, or ``2 C`` where the variance is learned.
        layout: The tokens to predict, ``C`` numbers of unit standard deviation.
    """

    signal: Tensor
    spread: Tensor
    least: Tensor
    most: Tensor
    gain: Tensor
    samplers = get_args(Sampler)

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: Diffusion = Diffusion()) -> None:
        super().__init__(network, layout, settings)
        self.schedule, self.prediction = Schedule.of(settings.schedule), settings.prediction
        self.learned, self.sampler, self.eta, self.clip = settings.variance == "learned", settings.sampler, settings.eta, settings.clip
        self.drawn = self.schedule if settings.start is None else self.schedule.up_to(settings.start)
        plan = self.schedule
        # An error of the prediction moves the mean of a reverse step by ``gain`` times as much.
        per_data = {"epsilon": plan.sigma, "v": plan.spread, "x0": torch.ones_like(plan.kept)}[self.prediction]
        tables = {"signal": plan.signal, "spread": plan.spread, "least": plan.log_variance, "most": plan.log_betas}
        for name, table in {**tables, "gain": plan.of_data * per_data}.items():
            self.register_buffer(name, table.float(), persistent=False)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See :meth:`Head.check_sampling`; samplers that inject no noise have no temperature."""
        super().check_sampling(sampling)
        sampler = sampling.sampler or self.sampler
        if sampling.temperature != 1 and (sampler == "edm" or (sampler == "ddim" and self.eta == 0)):
            raise ValueError(
                f"temperature multiplies the noise of the steps, and the sampler {sampler} adds none: leave temperature at 1, or "
                "choose the sampler ddpm, or ddim with an eta above 0"
            )

    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """Squared error plus, with learned variance, the variational bound in bits; mean over the channels."""
        step = (draws.uniform() * len(self.schedule)).long().clamp_(max=len(self.schedule) - 1)
        noise = draws.normal(targets.shape[1]).to(targets.dtype)
        signal, spread = self.signal[step, None], self.spread[step, None]
        out = predict(signal * targets + spread * noise, (step / len(self.schedule))[:, None])
        with torch.autocast(out.device.type, enabled=False):
            prediction, fraction = self._split(out)
            target = {"epsilon": noise, "x0": targets, "v": signal * noise - spread * targets}[self.prediction]
            error = (target - prediction).square()
            return mean(error if fraction is None else error + self._bound(step, error.detach(), fraction), mask)

    def _split(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction, and the learned variance as a fraction between the least and the most; it may exceed [0, 1]."""
        if not self.learned:
            return out, None
        prediction, variance = out.chunk(2, dim=-1)
        return prediction, (variance + 1) / 2

    def _bound(self, step: Tensor, error: Tensor, fraction: Tensor) -> Tensor:
        """One term of the variational bound in bits, for the squared error of the prediction; all ``(M, C)``.

        For ``t > 0``: ``KL(q(x_{t-1} | x_t, x_0) | p(x_{t-1} | x_t))`` of normals whose means differ by ``gain`` times the error. For
        ``t = 0``: ``-log p(x_0 | x_1)``, a density (the authors' code takes the probability of one of 256 pixel levels). The error is
        detached: the bound trains the variance alone (2102.09672, section 3.1).
        """
        least, most = self.least[step, None], self.most[step, None]
        log_variance = least + (most - least) * fraction
        distance = self.gain[step, None].square() * error * torch.exp(-log_variance)
        later = (log_variance - least - 1 + torch.exp(least - log_variance) + distance) / 2
        first = (math.log(2 * math.pi) + log_variance + distance) / 2
        return torch.where(step[:, None] == 0, first, later) / math.log(2)

    def draw(self, evaluate: GuidedDenoiser, rng: PerSampleRNG, steps: int, temperature: float, sampler: str = "") -> Tensor:
        """See :meth:`IterativeHead.draw`; the states are ``a x_0 + s e`` for every sampler, of unit variance as the tokens."""
        x, sampler = self.initial(evaluate, rng), sampler or self.sampler
        denoise = partial(self._denoise, evaluate)
        if sampler == "edm":
            return samplers.edm(denoise, x, self.drawn, steps, on_state=evaluate.on_state)
        plan, normal = self.drawn.respaced(steps), partial(self.initial, evaluate, rng)
        if sampler == "ddim":
            return samplers.ddim(denoise, x, plan, normal, temperature, self.eta, evaluate.on_state)
        return samplers.ddpm(denoise, x, plan, normal, temperature, evaluate.on_state)

    def _denoise(self, evaluate: GuidedDenoiser, x: Tensor, time: float, signal: float, spread: float) -> Denoised:
        conditional, null = evaluate.branches(x, time)
        prediction, fraction = self._split(conditional)
        if null is not None:
            prediction = evaluate.guide(prediction, self._split(null)[0])
        if fraction is not None:
            # The optimal variance lies within; early in training the network may predict one far outside.
            fraction = fraction.clamp(0, 1)
        if self.prediction == "x0":
            data = prediction
        else:
            data = (x - spread * prediction) / signal if self.prediction == "epsilon" else signal * x - spread * prediction
        if self.clip is not None:
            data = data.clamp(-self.clip, self.clip)
        elif self.prediction == "epsilon":
            return Denoised(data, prediction, fraction)
        return Denoised(data, (x - signal * data) / spread, fraction)
