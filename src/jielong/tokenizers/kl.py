"""A continuous grid tokenizer: an autoencoder with a normal distribution per latent (VAE, arXiv 1312.6114).

As in latent diffusion (2112.10752) and MAR (2406.11838) it learns by the losses of VQGAN, with a small weight on the divergence from
``N(0, 1)``. Latents are then far from ``N(0, 1)``: their mean and standard deviation are measured on training media after training, and
tokens are standardised by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, SerializeAsAny, model_validator
from torch import Tensor
from torch.nn import functional as F

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.autoencoders.convolutional import Convolutional
from jielong.config.registry import OfFamily
from jielong.core.medium import ALONG_ROWS, Axes, Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.networks.posterior import DiagonalGaussian
from jielong.quantizers.parallel import sum_over_processes
from jielong.tokenizers.base import Reconstruction, Tokenizer, TokenizerSettings, channels_last
from jielong.tokenizers.grid import GridTokenizer

EPSILON = 1e-6
"""Of the layer norm of a latent; also the least standard deviation of a channel."""

Standardize = Literal["channel", "all"]
OUTLIER = 3.0
"""Standard deviations from the mean of a frame at which a latent begins to be an outlier, as published."""


def outlier_penalty(latents: Tensor) -> Tensor:
    """``E max(|x - mean(x)| - 3 |std(x)|, 0)``, norms over channels (Movie Gen, arXiv 2410.13720): a scalar.

    ``latents``: ``(..., n, D)``; mean and standard deviation are those of the ``n`` positions of a frame.
    """
    variance, mean = torch.var_mean(latents.float(), dim=-2, keepdim=True, correction=0)
    distance = torch.linalg.vector_norm(latents.float() - mean, dim=-1)
    return F.relu(distance - OUTLIER * variance.sum(-1).clamp_min(EPSILON**2).sqrt()).mean()


class KLTokenizer(GridTokenizer):
    """Images, audio or clips to a grid of real vectors and back. Raises ``ValueError`` if the media do not divide into tokens.

    The encoder gives a normal distribution of every latent (the posterior). Training decodes a sample of it; the tokens of :meth:`encode`
    are its mean; a generator learns from new samples every time (:meth:`encode_to_cache`, :meth:`sample_cached`), as MAR does. A token is
    ``(latent - shift) * scale``, with unit standard deviation.

    Two options of NextStep-1 (2508.10711) make latents robust against errors of a generator: ``normalize`` gives the mean of every token
    mean 0 and mean square 1 over its channels, and in training ``u n``, ``u ~ U(0, noise)`` per item and ``n ~ N(0, I)``, is added before
    decoding.

    ``autoencoder``: encoder from media to means and log-variances ``(B, 2 dim, *grid)``, decoder from latents ``(B, dim, *grid)``.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, media: Medium, autoencoder: Autoencoder, settings: KL) -> None:
        super().__init__(media, autoencoder)
        self.settings, dim = settings, settings.dim
        self.dim = dim
        self.layout = Layout(autoencoder.grid(media.size), dim, axes=media.axes)
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def extra_repr(self) -> str:
        """Settings that tokens depend on, for printing and for the identity of token files."""
        return f"dim={self.dim}, normalize={self.settings.normalize}, standardize={self.settings.standardize}"

    @property
    def cached_layout(self) -> Layout:
        """Means, then log-variances."""
        return replace(self.layout, channels=2 * self.dim)

    def posterior(self, media: Tensor) -> DiagonalGaussian:
        """Distributions of the latents ``(B, N, D)`` of media, not standardised."""
        posterior = DiagonalGaussian.of(self.features(media).flatten(2).mT)
        if self.settings.normalize is None:
            return posterior
        with torch.autocast(media.device.type, enabled=False):
            return DiagonalGaussian(F.layer_norm(posterior.mean, (self.dim,), eps=EPSILON), posterior.log_variance)

    def forward(
        self, media: Tensor, generator: torch.Generator | None = None, samples_seen: int = 0, rng: PerSampleRNG | None = None
    ) -> Reconstruction:
        """Round trip by a sample of the posterior, or by its mean without ``rng``; see :meth:`LearnedTokenizer.forward`."""
        posterior = self.posterior(media)
        losses: dict[str, Tensor] = {}
        with torch.autocast(media.device.type, enabled=False):
            nats = posterior.kl().flatten(1).sum(1).mean()
            losses["kl"] = self.settings.weight * nats / math.prod(self.media.shape)
            latents = posterior.mean if rng is None else self._sample(posterior, rng)
            if self.settings.outliers:
                cells = math.prod(self.layout.grid[-2:])
                losses["outliers"] = self.settings.outliers * outlier_penalty(latents.unflatten(1, (-1, cells)))
            figures = {"kl_nats": nats.detach(), "posterior_std": posterior.std().detach().mean()}
        return Reconstruction(self.maps(latents), losses, figures=figures)

    def _sample(self, posterior: DiagonalGaussian, rng: PerSampleRNG) -> Tensor:
        latents = posterior.sample(rng.normal(*posterior.mean.shape[1:]))
        noise = self.settings.noise
        if not noise:
            return latents
        return latents + noise * rng.uniform(1, 1) * rng.normal(*posterior.mean.shape[1:])

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tokens:
        """Media in [-1, 1] to the mean of each token, ``(B, N, D)``."""
        return self.tokens((self.posterior(media).mean - self.shift) * self.scale, self.layout)

    @torch.no_grad()
    def encode_to_cache(self, media: Tensor) -> Tokens:
        """Mean and log-variance of each token, ``(B, N, 2 D)``; :meth:`decode` takes their mean."""
        posterior = self.posterior(media).standardized(self.shift, self.scale)
        return self.tokens(torch.cat([posterior.mean, posterior.log_variance], dim=-1), self.cached_layout)

    @torch.no_grad()
    def sample_cached(self, cached: Tokens, rng: PerSampleRNG) -> Tokens:
        """Samples of the posterior, ``(B, N, D)``."""
        mean, log_variance = cached.values.float().chunk(2, dim=-1)
        return self.tokens(DiagonalGaussian(mean, log_variance).sample(rng.normal(*mean.shape[1:])), self.layout)

    def mean_cached(self, tokens: Tokens) -> Tokens:
        """The means of cached distributions."""
        if not self.fits(tokens.layout, self.cached_layout):
            return tokens
        return replace(tokens, values=tokens.values[..., : self.dim], layout=replace(tokens.layout, channels=self.dim))

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens ``(B, N, D)``, or those of :meth:`encode_to_cache`, to media, clamped to [-1, 1]."""
        tokens = self.mean_cached(tokens)
        self.check_tokens(tokens)
        return self.maps(tokens.values.float() / self.scale + self.shift).float().clamp(-1, 1)

    @torch.no_grad()
    def calibrate(self, media: Iterable[Tensor]) -> None:
        """Measure shift and scale on each process's media, with equal results on all processes.

        A token's variance is that of the posterior's mean over items and positions plus the posterior's. Raises ``ValueError`` if there are
        no media.
        """
        was_training = self.training
        self.eval()
        totals = torch.zeros(2 * self.dim + 1, dtype=torch.float64)
        for part in media:
            posterior = self.posterior(part.to(self.scale.device))
            squares = posterior.mean.square() + posterior.log_variance.exp()
            # Differences of large sums need double precision, which not every device has.
            moments = torch.cat([posterior.mean, squares], dim=-1).flatten(0, 1).cpu().double()
            totals += torch.cat([moments.sum(0), moments.new_full((1,), len(moments))])
        totals = sum_over_processes(totals.to(self.scale.device if self.scale.is_cuda else "cpu")).cpu()
        self.train(was_training)
        if not totals[-1]:
            raise ValueError("a tokenizer's scale is measured on training media, and there are none")
        mean, square = (totals[:-1] / totals[-1]).chunk(2)
        if self.settings.standardize == "all":
            mean, square = mean.mean().expand(self.dim), square.mean().expand(self.dim)
        self.shift.copy_(mean)
        self.scale.copy_((square - mean.square()).clamp_min(EPSILON**2).rsqrt())


class KL(TokenizerSettings, family="tokenizer", name="kl"):
    """Settings of the continuous tokenizer.

    Attributes:
        autoencoder: Networks that encode to latents and decode from them.
        dim: Numbers ``D`` of a token.
        weight: Of the divergence from ``N(0, 1)`` in nats per item, over the number of its values. Losses here are means over values; the
            published 1e-6 is for sums over pixels and latents, and stays 1e-6 when both are divided by the number of values. (A mean over
            latents would need ``1e-6 h w D / (C H W)``, about a twelfth of it for 8 x 8 x 16 at 64 pixels.)
        normalize: ``channel`` gives the mean of every token mean 0 and mean square 1 over its channels.
        noise: Largest standard deviation of the noise added to normalised latents in training.
        standardize: A shift and scale per ``channel``, or one for ``all``.
        outliers: Weight of the penalty of latents far from the others of their frame (:func:`outlier_penalty`), which decode to spots;
            Movie Gen has 1e5.
    """

    autoencoder: Annotated[SerializeAsAny[AutoencoderSettings], OfFamily("autoencoder")] = Convolutional()
    dim: int = Field(default=16, ge=1)
    weight: NonNegativeFloat = 1e-6
    normalize: Literal["channel"] | None = None
    noise: NonNegativeFloat = 0.0
    standardize: Standardize = "channel"
    outliers: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _options_agree(self) -> KL:
        if self.normalize is not None and self.dim < 4:
            raise ValueError(f"normalize leaves next to nothing of {self.dim} numbers: choose dim 4 or more, or leave it out")
        if self.noise and self.normalize is None:
            raise ValueError("an encoder outgrows noise of a fixed size by making its latents larger: set normalize: channel beside noise")
        return self

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> KLTokenizer:
        """The tokenizer for media of this format. Raises ``ValueError`` for a penalty of outliers without frames."""
        if self.outliers and media.axes[-2:] != ALONG_ROWS:
            raise ValueError(f"tokenizer.kl.outliers: these are outliers of a frame, and the data are {media}: leave it out")
        autoencoder = self.autoencoder.build(channels=media.channels, size=media.size, dim=self.dim, encoded=2 * self.dim)
        return channels_last(KLTokenizer(media, autoencoder, self))

    def check_axes(self, axes: Axes) -> None:
        """See :meth:`TokenizerSettings.check_axes`."""
        self.autoencoder.check_axes(axes)

    def check_size(self, size: tuple[int, ...]) -> None:
        """See :meth:`TokenizerSettings.check_size`."""
        self.autoencoder.check_size(size)
