"""Diffusion: a network removes noise from a token, or a block of tokens, given the hidden vectors (MAR, arXiv 2406.11838; EDM, 2206.00364).

    L = mean |target - out(a x_0 + s e, time, hidden)|^2    (+ L_vb, the variational bound, where the variance is learned)

over noise ``e`` and a noise level: one of 1000 steps, or log-normal for ``edm``. The target is ``e``, ``x_0``, ``v = a e - s x_0``
(arXiv 2202.00512), or ``s x_0 - a e`` for ``edm``, whose preconditioning of unit tokens is ``x_0 = a x + s out``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, get_args

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads import diffusion_samplers as samplers
from jielong.heads.continuous import GuidedDenoiser, IterativeHead, IterativeSettings, Predict, mean
from jielong.heads.diffusion_samplers import Churn, Denoised
from jielong.heads.diffusion_schedule import ENDS, Kind, Level, Schedule, Spacing
from jielong.heads.noise_levels import EDM, LogNormalNoise, NoiseLevels, TrainedSteps
from jielong.networks.denoiser import AnyDenoiser

Prediction = Literal["epsilon", "x0", "v", "edm"]
Variance = Literal["learned", "fixed"]
Sampler = Literal["ddpm", "ddim", "euler", "heun", "dpmpp_2m", "unipc", "edm"]
CHURNED = ("euler", "heun", "edm")
"""Samplers that ``s_churn`` is for."""
TWICE = ("heun", "edm")
"""Samplers of two evaluations a step, but for the last."""


class Diffusion(IterativeSettings, family="head", name="diffusion"):
    """Settings of the diffusion head.

    Attributes:
        schedule: How the noise grows over the training steps: ``cosine``, ``linear`` or ``scaled_linear``.
        beta_ends: First and last ``beta`` of the latter two, if not those of DDPM and Stable Diffusion.
        timestep_spacing: Which of the training steps sampling takes: ``linspace`` the first, the last and between them evenly; ``leading``
            every ``1000 // steps``-th from ``steps_offset`` on; ``trailing`` every ``1000 / steps``-th down from the last.
        steps_offset: The first step of ``leading``.
        prediction: What the network predicts: the noise ``epsilon``, the token ``x0``, ``v``, or ``edm``: EDM's network, whose noise is set
            by the key ``edm`` and not by ``schedule`` and ``start``, with ``variance: fixed``.
        edm: Noise levels of ``prediction: edm``.
        variance: Variance of a reverse step: ``fixed`` to that of ``q(x_{t-1} | x_t, x_0)``, or ``learned`` between it and ``beta_t``
            (arXiv 2102.09672).
        clamp_variance: Keep a learned variance between these two in sampling. The optimal one lies there, while a network of few steps may
            predict one far outside; MAR's and DiT's code take it as it is.
        sampler: See :mod:`jielong.heads.diffusion_samplers`; ``edm`` is ``heun`` at EDM's levels.
        karras: Sample at EDM's noise levels with every sampler; ``edm`` and ``prediction: edm`` do so anyway.
        eta: Noise that ``ddim`` injects.
        s_churn: Noise that ``euler``, ``heun`` and ``edm`` add before steps and remove (EDM, algorithm 2); over all steps.
        s_tmin: Least ``sigma``, noise over signal, at which they add it.
        s_tmax: Greatest.
        s_noise: Deviation of that noise.
        clip: Bound on the magnitude of ``x_0`` in sampling; none for latents.
        dynamic_thresholding_ratio: The bound is this quantile of an item's ``|x_0|`` where that is above ``clip``, and what is bounded is
            divided by it and multiplied by ``clip`` (Imagen, arXiv 2205.11487, section 2.3), so that strong guidance saturates no colours.
            For heads that draw a block together.
        start: Noise over signal ``s / a`` from which sampling starts; steps above it are left out. ``None`` starts at the last step, as the
            authors' code does. The cosine schedule ends at 20,000, where ``x_0 = (x - s e) / a`` turns an error of 0.01 in ``e`` into 200.
    """

    meaning = ("schedule", "beta_ends", "prediction", "edm", "variance")
    schedule: Kind = "cosine"
    beta_ends: tuple[PositiveFloat, PositiveFloat] | None = None
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = Field(default=0, ge=0)
    prediction: Prediction = "epsilon"
    edm: EDM | None = None
    variance: Variance = "learned"
    clamp_variance: bool = True
    sampler: Sampler = "ddpm"
    karras: bool = False
    eta: float = Field(default=0.0, ge=0, le=1)
    s_churn: float = Field(default=0.0, ge=0)
    s_tmin: float = Field(default=0.0, ge=0)
    s_tmax: float | None = Field(default=None, gt=0)
    s_noise: float = Field(default=1.0, gt=0)
    clip: float | None = Field(default=None, gt=0)
    dynamic_thresholding_ratio: float | None = Field(default=None, gt=0, le=1)
    start: float | None = Field(default=80.0, gt=0)
    steps: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Diffusion:
        if self.dynamic_thresholding_ratio is not None and self.clip is None:
            raise ValueError("dynamic_thresholding_ratio raises the bound clip, which is not set: add clip: 1.0, the range of colours")
        if not self.clamp_variance and self.variance != "learned":
            raise ValueError("clamp_variance: false is of a learned variance, and variance is fixed: leave one of them out")
        if self.beta_ends is not None and self.schedule not in ENDS:
            raise ValueError(f"beta_ends are of the schedules {' and '.join(ENDS)}, and this one is {self.schedule}: leave them out")
        if self.steps_offset and self.timestep_spacing != "leading":
            raise ValueError("steps_offset is the first step of timestep_spacing: leading: leave it out, or choose that")
        if self.prediction != "edm" and self.edm is not None:
            raise ValueError(f"the key edm sets the noise of prediction: edm, and prediction is {self.prediction}: leave one of them out")
        if self.prediction == "edm":
            if self.variance != "fixed":
                raise ValueError("prediction: edm has no learned variance: add variance: fixed")
            for name in ("schedule", "beta_ends", "timestep_spacing", "start"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"prediction: edm has noise levels of its own, by the key edm: leave out {name}")
        return self

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> DiffusionHead:
        """See :meth:`HeadSettings.build`."""
        return DiffusionHead(self.denoiser(width, layout, condition_width, outputs=2 if self.variance == "learned" else 1), layout, self)


def thresholded(data: Tensor, clip: float, ratio: float | None) -> Tensor:
    """Estimates of ``x_0`` ``(B, n, C)`` in ``[-clip, clip]``: ``clip(x_0, -s, s) / s clip``, where ``s`` is ``clip`` or, if that is
    greater, the quantile ``ratio`` of the item's ``|x_0|`` (Imagen, arXiv 2205.11487, section 2.3)."""
    if ratio is None:
        return data.clamp(-clip, clip)
    bound = torch.stack([item.abs().quantile(ratio) for item in data.flatten(1)]).clamp_min(clip)[:, None, None]
    return data.clamp(-bound, bound) * (clip / bound)


class DiffusionHead(IterativeHead):
    """Samples a token by reverse diffusion.

    *Guidance* combines predictions at every step: given ``x_t``, all are linear in ``e``, so this guides ``e``. The learned variance
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
    edits = True
    samplers = get_args(Sampler)

    def __init__(self, network: AnyDenoiser, layout: Layout, settings: Diffusion = Diffusion()) -> None:
        super().__init__(network, layout, settings)
        if settings.dynamic_thresholding_ratio is not None and not self.joint:
            raise ValueError(
                "head.diffusion.dynamic_thresholding_ratio is of all values of an item, and this head draws each token by itself: take the "
                "network dit or unet, or clip alone"
            )
        self.settings, self.prediction, self.sampler = settings, settings.prediction, settings.sampler
        self.learned, self.schedule = settings.variance == "learned", Schedule.of(settings.schedule, ends=settings.beta_ends)
        self.edm = (settings.edm or EDM()) if self.prediction == "edm" else None
        drawn = self.schedule if settings.start is None else self.schedule.up_to(settings.start)
        steps = TrainedSteps(drawn, settings.timestep_spacing, settings.steps_offset)
        self.levels: NoiseLevels = steps if self.edm is None else LogNormalNoise(self.edm)
        self._plan(self.steps, self.sampler)
        plan = self.schedule
        # An error of the prediction moves the mean of a reverse step by ``gain`` times as much.
        per_data = {"epsilon": plan.sigma, "v": plan.spread, "edm": plan.spread, "x0": torch.ones_like(plan.kept)}[self.prediction]
        tables = {"signal": plan.signal, "spread": plan.spread, "least": plan.log_variance, "most": plan.log_betas}
        for name, table in {**tables, "gain": plan.of_data * per_data}.items():
            self.register_buffer(name, table.float(), persistent=False)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See :meth:`Head.check_sampling`; samplers that inject no noise have no temperature, and steps are some of those of training."""
        super().check_sampling(sampling)
        sampler, settings = sampling.sampler or self.sampler, self.settings
        for known in (0.0, 1.0):
            self._plan(sampling.num_inference_steps_at(known, self.steps), sampler)
        noisy = sampler == "ddpm" or (sampler == "ddim" and settings.eta > 0) or (sampler in CHURNED and settings.s_churn > 0)
        if sampling.temperature != 1 and not noisy:
            raise ValueError(
                f"temperature multiplies the noise of the steps, and the sampler {sampler} adds none: leave temperature at 1, or "
                "choose the sampler ddpm, ddim with an eta above 0, or euler, heun or edm with an s_churn above 0"
            )

    def loss_of_copies(self, targets: Tensor, draws: Draws, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """Squared error plus, with learned variance, the variational bound in bits; mean over the channels."""
        if self.edm is not None:
            sigma = self.edm.draw(draws)
            return self.edm_errors(self.edm, targets, draws.normal(targets.shape[1]).to(targets.dtype), sigma, predict, mask)
        step = (draws.uniform() * len(self.schedule)).long().clamp_(max=len(self.schedule) - 1)
        noise = draws.normal(targets.shape[1]).to(targets.dtype)
        signal, spread = self.signal[step, None], self.spread[step, None]
        out = predict(signal * targets + spread * noise, (step / len(self.schedule))[:, None])
        with torch.autocast(out.device.type, enabled=False):
            prediction, fraction = self._split(out)
            target = {"epsilon": noise, "x0": targets, "v": signal * noise - spread * targets}[self.prediction]
            error = (target - prediction).square()
            return mean(error if fraction is None else error + self._bound(step, error.detach(), fraction), mask)

    @staticmethod
    def edm_errors(edm: EDM, targets: Tensor, noise: Tensor, sigma: Tensor, predict: Predict, mask: Tensor | None = None) -> Tensor:
        """``weight(sigma) |D(d x_0 + sigma e) - d x_0|^2 / C``, ``(M,)``: all ``(M, C)``, but ``sigma`` ``(M,)`` (EDM, equation 8)."""
        sigma = sigma[:, None]
        noisy = edm.sigma_data * targets + sigma * noise
        out = predict(edm.c_in(sigma) * noisy, edm.c_noise(sigma))
        with torch.autocast(out.device.type, enabled=False):
            # The weighted error of D as that of F, since weight c_out^2 = 1.
            wanted = (edm.sigma_data * targets - edm.c_skip(sigma) * noisy) / edm.c_out(sigma)
            return mean((wanted - out).square(), mask)

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
        sampler, settings, on_state = sampler or self.sampler, self.settings, evaluate.on_state
        denoise, normal = partial(self._denoise, evaluate), partial(self.initial, evaluate, rng)
        plan = self._plan(steps, sampler).first(evaluate.strength)
        x = self._begin(evaluate, normal(), plan)
        if sampler == "ddpm":
            return samplers.ddpm(denoise, x, plan, normal, temperature, on_state)
        if sampler == "ddim":
            return samplers.ddim(denoise, x, plan, normal, temperature, settings.eta, on_state)
        if sampler in CHURNED:
            unit, most = self.levels.unit, math.inf if settings.s_tmax is None else settings.s_tmax
            noise = settings.s_noise * temperature
            x = x if evaluate.source is None else x / float(plan.spread[-1])  # these begin at x / s
            churn = Churn(settings.s_churn, settings.s_tmin / unit, most / unit, noise, self.levels.level_at, normal)
            return (samplers.euler if sampler == "euler" else samplers.heun)(denoise, x, plan, churn, on_state)
        return (samplers.dpmpp_2m if sampler == "dpmpp_2m" else samplers.unipc)(denoise, x, plan, on_state)

    def _plan(self, evaluations: int, sampler: str) -> Schedule:
        """The levels of at most so many evaluations. Raises ``ValueError`` if these are more than the steps of training."""
        return self.levels.plan((evaluations + 1) // 2 if sampler in TWICE else evaluations, self.settings.karras or sampler == "edm")

    @staticmethod
    def _begin(evaluate: GuidedDenoiser, noise: Tensor, plan: Schedule) -> Tensor:
        """The state at the plan's last step: the noise, or ``a x_0 + s e`` with the tokens that are edited (SDEdit, arXiv 2108.01073)."""
        source = evaluate.source
        if source is None:
            return noise
        noised = float(plan.signal[-1]) * source.values.to(noise) + float(plan.spread[-1]) * noise
        return noised if source.strength < 1 else torch.where(source.kept[..., None], noised, noise)

    def _denoise(self, evaluate: GuidedDenoiser, x: Tensor, level: Level) -> Denoised:
        signal, spread, share = level.signal, level.spread, level.signal / (level.signal + level.spread)
        conditional, null = evaluate.branches(x, level.time, share=share)
        prediction, fraction = self._split(conditional)
        if null is not None:
            prediction = evaluate.guide(prediction, self._split(null)[0], share)
        if fraction is not None and self.settings.clamp_variance:
            fraction = fraction.clamp(0, 1)
        if self.prediction == "x0":
            data = prediction
        elif self.prediction == "epsilon":
            data = (x - spread * prediction) / signal
        else:
            data = signal * x + (spread if self.prediction == "edm" else -spread) * prediction
        if self.settings.clip is not None:
            data = thresholded(data, self.settings.clip, self.settings.dynamic_thresholding_ratio)
        elif self.prediction == "epsilon" and evaluate.source is None:
            return Denoised(data, prediction, fraction)
        data = evaluate.keeping(data, lambda values: values.to(data))
        return Denoised(data, (x - signal * data) / spread, fraction)
