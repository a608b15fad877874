"""A continuous grid tokenizer: a body, and between its halves a normal distribution instead of a codebook (VAE, arXiv 1312.6114).

As the tokenizer of latent diffusion (2112.10752) and of masked autoregression (MAR, 2406.11838) it learns by the losses of VQGAN, and its
divergence from ``N(0, 1)`` weighs so little that it only keeps the numbers from running away. What they are is then far from ``N(0, 1)``:
their mean and standard deviation are measured on training pictures when training is over, and tokens are standardised by them.
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

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings, check_grid
from jielong.autoencoders.convolutional import Convolutional
from jielong.config.registry import OfFamily
from jielong.core.medium import Axes, Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.networks.posterior import DiagonalGaussian
from jielong.quantizers.parallel import sum_over_processes
from jielong.tokenizers.base import Reconstruction, Tokenizer, TokenizerSettings
from jielong.tokenizers.grid import GridTokenizer

EPSILON = 1e-6
"""Of the normalisation of a latent, and the least standard deviation of a channel."""

Standardize = Literal["channel", "all"]


class KLTokenizer(GridTokenizer):
    """Picture or sound to a grid of vectors of real numbers and back.

    The encoder describes a normal distribution of every number (the posterior). Training decodes a sample of it; the tokens of
    :meth:`encode` are its mean, for what is measured and shown; a generator learns from samples, new ones each time it sees a picture
    (:meth:`encode_to_cache`, :meth:`sample_cached`), as MAR does. A token is ``(latent - shift) * scale``, with unit standard deviation.

    Two options of NextStep-1 (2508.10711) make latents easier to generate: the mean of every token is ``normalize``-d to mean 0 and mean
    square 1, and in training ``u n``, ``u ~ U(0, noise)`` for each picture and ``n ~ N(0, I)``, is added before decoding, so that a small
    error of a generator does little harm.

    Args:
        media: The pictures, or the sound.
        autoencoder: Encoder from media to means and log-variances ``(B, 2 dim, h, w)``, decoder from latents ``(B, dim, h, w)``; sound
            has ``(B, ..., n)``.
        dim: Numbers ``D`` of a token.
        weight: Of the divergence from ``N(0, 1)`` in nats a picture, over the number of its colour values. Losses here are means over
            colour values; the published 1e-6 belongs to sums over pixels and over latents, and stays 1e-6 when both are divided by the
            number of colour values. (A mean over latents would need ``1e-6 h w D / (C H W)``, about a twelfth of it for 8 x 8 x 16 at 64
            pixels, and to leave that out is the classic mistake.)
        normalize: ``channel`` normalises the mean of every token over its channels.
        noise: Largest standard deviation of the noise that is added in training.
        standardize: Whether every ``channel`` has a shift and a scale of its own, or ``all`` share one.

    Raises:
        ValueError: if the media do not divide into tokens.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        media: Medium,
        autoencoder: Autoencoder,
        dim: int,
        *,
        weight: float = 1e-6,
        normalize: Literal["channel"] | None = None,
        noise: float = 0.0,
        standardize: Standardize = "channel",
    ) -> None:
        super().__init__(media, autoencoder)
        self.dim, self.weight = dim, weight
        self.normalize, self.noise, self.standardize = normalize, noise, standardize
        self.layout = Layout(check_grid(media.size, autoencoder.reduction), dim)
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def extra_repr(self) -> str:
        """What tokens mean beside the weights, for printing and for identities."""
        return f"dim={self.dim}, normalize={self.normalize}, standardize={self.standardize}"

    @property
    def cached_layout(self) -> Layout:
        """Means, then log-variances."""
        return replace(self.layout, channels=2 * self.dim)

    def posterior(self, media: Tensor) -> DiagonalGaussian:
        """What the encoder says of media: distributions of ``(B, N, D)`` latents, not standardised yet."""
        given = DiagonalGaussian.of(self.features(media).flatten(2).mT)
        if self.normalize is None:
            return given
        with torch.autocast(media.device.type, enabled=False):
            return DiagonalGaussian(F.layer_norm(given.mean, (self.dim,), eps=EPSILON), given.log_variance)

    def forward(
        self, media: Tensor, generator: torch.Generator | None = None, samples_seen: int = 0, rng: PerSampleRNG | None = None
    ) -> Reconstruction:
        """Round trip by a sample of the posterior, or by its mean without ``rng``.

        Args:
            media: ``(B, C, H, W)`` or ``(B, C, T)`` in [-1, 1].
            generator: Not needed: pictures draw from streams of their own.
            samples_seen: Not needed.
            rng: A stream for each picture.
        """
        posterior = self.posterior(media)
        with torch.autocast(media.device.type, enabled=False):
            nats = posterior.kl().flatten(1).sum(1).mean()
            loss = self.weight * nats / math.prod(self.media.shape)
            latents = posterior.mean if rng is None else self._disturbed(posterior, rng)
            figures = {"kl_nats": nats.detach(), "posterior_std": posterior.std().detach().mean()}
        return Reconstruction(self.maps(latents), {"kl": loss}, figures=figures)

    def _disturbed(self, posterior: DiagonalGaussian, rng: PerSampleRNG) -> Tensor:
        latents = posterior.sample(rng.normal(*posterior.mean.shape[1:]))
        if not self.noise:
            return latents
        return latents + self.noise * rng.uniform(1, 1) * rng.normal(*posterior.mean.shape[1:])

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tokens:
        """Media in [-1, 1] to the mean of each token, ``(B, N, D)``."""
        return self.standing((self.posterior(media).mean - self.shift) * self.scale, self.layout)

    @torch.no_grad()
    def encode_to_cache(self, media: Tensor) -> Tokens:
        """Mean and log-variance of each token, ``(B, N, 2 D)``; :meth:`decode` reads them as well, and takes the mean."""
        posterior = self.posterior(media).standardized(self.shift, self.scale)
        return self.standing(torch.cat([posterior.mean, posterior.log_variance], dim=-1), self.cached_layout)

    @torch.no_grad()
    def sample_cached(self, kept: Tokens, rng: PerSampleRNG) -> Tokens:
        """Samples of the posterior that :meth:`encode_to_cache` described, ``(B, N, D)``."""
        mean, log_variance = kept.values.float().chunk(2, dim=-1)
        return self.standing(DiagonalGaussian(mean, log_variance).sample(rng.normal(*mean.shape[1:])), self.layout)

    def mean_cached(self, tokens: Tokens) -> Tokens:
        """The means of what :meth:`encode_to_cache` gave."""
        if not self.fits(tokens.layout, self.cached_layout):
            return tokens
        return replace(tokens, values=tokens.values[..., : self.dim], layout=replace(tokens.layout, channels=self.dim))

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens ``(B, N, D)``, or what :meth:`encode_to_cache` gave, to media, clamped to [-1, 1]."""
        tokens = self.mean_cached(tokens)
        self.check_tokens(tokens)
        return self.maps(tokens.values.float() / self.scale + self.shift).float().clamp(-1, 1)

    @torch.no_grad()
    def calibrate(self, media: Iterable[Tensor]) -> None:
        """Measure shift and scale on pictures, each process on its own; all have the same result.

        A token's variance has two parts: that of the posterior's mean over pictures and places, and the posterior's own.

        Raises:
            ValueError: if there are no pictures.
        """
        was_training = self.training
        self.eval()
        totals = torch.zeros(2 * self.dim + 1, dtype=torch.float64)
        for part in media:
            posterior = self.posterior(part.to(self.scale.device))
            squares = posterior.mean.square() + posterior.log_variance.exp()
            # Sums in double precision on the CPU: not every device has it, and differences of large sums need it.
            both = torch.cat([posterior.mean, squares], dim=-1).flatten(0, 1).cpu().double()
            totals += torch.cat([both.sum(0), both.new_full((1,), len(both))])
        totals = sum_over_processes(totals.to(self.scale.device if self.scale.is_cuda else "cpu")).cpu()
        self.train(was_training)
        if not totals[-1]:
            raise ValueError("a tokenizer's scale is measured on pictures, and there are none")
        mean, square = (totals[:-1] / totals[-1]).chunk(2)
        if self.standardize == "all":
            mean, square = mean.mean().expand(self.dim), square.mean().expand(self.dim)
        self.shift.copy_(mean)
        self.scale.copy_((square - mean.square()).clamp_min(EPSILON**2).rsqrt())


class KL(TokenizerSettings, family="tokenizer", name="kl"):
    """Settings of the continuous tokenizer; see :class:`KLTokenizer` for what ``weight`` is counted in.

    Attributes:
        autoencoder: The networks on both sides.
        dim: Numbers a token has.
        weight: Of the divergence from ``N(0, 1)``.
        normalize: ``channel`` gives the mean of every token mean 0 and mean square 1 over its channels.
        noise: Largest standard deviation of the noise that training adds to normalised latents.
        standardize: Whether every ``channel`` is scaled by itself, or ``all`` alike.
    """

    autoencoder: Annotated[SerializeAsAny[AutoencoderSettings], OfFamily("autoencoder")] = Convolutional()
    dim: int = Field(default=16, ge=1)
    weight: NonNegativeFloat = 1e-6
    normalize: Literal["channel"] | None = None
    noise: NonNegativeFloat = 0.0
    standardize: Standardize = "channel"

    @model_validator(mode="after")
    def _options_agree(self) -> KL:
        if self.normalize is not None and self.dim < 4:
            raise ValueError(f"normalize leaves next to nothing of {self.dim} numbers: choose dim 4 or more, or leave it out")
        if self.noise and self.normalize is None:
            raise ValueError("an encoder outgrows noise of a fixed size by making its latents larger: set normalize: channel beside noise")
        return self

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> KLTokenizer:
        """The tokenizer for media of this format."""
        autoencoder = self.autoencoder.build(channels=media.channels, size=media.size, dim=self.dim, encoded=2 * self.dim)
        tokenizer = KLTokenizer(
            media,
            autoencoder,
            self.dim,
            weight=self.weight,
            normalize=self.normalize,
            noise=self.noise,
            standardize=self.standardize,
        )
        return tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def check_axes(self, axes: Axes) -> None:
        """See :meth:`TokenizerSettings.check_axes`."""
        self.autoencoder.check_axes(axes)
