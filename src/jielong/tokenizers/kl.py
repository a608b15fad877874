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
    decoding. With ``patch: p`` a token is the ``p x p`` latents of a square, ``p p D`` numbers in the order row, column, channel, as
    DiT (2212.09748) and SD3 (2403.03206) read them.

    ``autoencoder``: encoder from media to means and log-variances ``(B, 2 dim, *grid)``, decoder from latents ``(B, dim, *grid)``.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, media: Medium, autoencoder: Autoencoder, settings: KL) -> None:
        super().__init__(media, autoencoder)
        self.settings, dim = settings, settings.dim
        self.dim = dim
        self.latents, self.patch = autoencoder.grid(media.size), settings.patch
        grid = self.latents if self.patch == 1 else _squares(media, self.latents, self.patch)
        self.layout = Layout(grid, self.patch**2 * dim, axes=media.axes)
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def extra_repr(self) -> str:
        """Settings that tokens depend on, for printing and for the identity of token files."""
        patch = "" if self.patch == 1 else f", patch={self.patch}"
        return f"dim={self.dim}, normalize={self.settings.normalize}, standardize={self.settings.standardize}{patch}"

    @property
    def cached_layout(self) -> Layout:
        """Means, then log-variances."""
        return replace(self.layout, channels=2 * self.layout.channels)

    def _grid(self, positions: int) -> tuple[int, ...]:
        """The grid of latents, where a token is several."""
        return super()._grid(positions) if self.patch == 1 else self.latents

    def _folded(self, latents: Tensor) -> Tensor:
        """``(B, h w, D)`` to tokens ``(B, N, p p D)``."""
        if self.patch == 1:
            return latents
        (rows, columns), p = self.layout.grid, self.patch
        return latents.reshape(len(latents), rows, p, columns, p, self.dim).transpose(2, 3).reshape(len(latents), rows * columns, -1)

    def _unfolded(self, tokens: Tensor) -> Tensor:
        """The inverse of :meth:`_folded`."""
        if self.patch == 1:
            return tokens
        (rows, columns), p = self.layout.grid, self.patch
        return tokens.reshape(len(tokens), rows, columns, p, p, self.dim).transpose(2, 3).reshape(len(tokens), -1, self.dim)

    def posterior(self, media: Tensor) -> DiagonalGaussian:
        """Distributions of the latents ``(B, h w, D)`` of media, not standardised."""
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
                cells = math.prod(self.latents[-2:])
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
        """Media in [-1, 1] to the mean of each token, ``(B, N, p p D)``."""
        return self.tokens(self._folded((self.posterior(media).mean - self.shift) * self.scale), self.layout)

    @torch.no_grad()
    def encode_to_cache(self, media: Tensor) -> Tokens:
        """Mean and log-variance of each token, ``(B, N, 2 p p D)``; :meth:`decode` takes their mean."""
        posterior = self.posterior(media).standardized(self.shift, self.scale)
        parts = (self._folded(each) for each in (posterior.mean, posterior.log_variance))
        return self.tokens(torch.cat(list(parts), dim=-1), self.cached_layout)

    @torch.no_grad()
    def sample_cached(self, cached: Tokens, rng: PerSampleRNG) -> Tokens:
        """Samples of the posterior, ``(B, N, p p D)``."""
        mean, log_variance = cached.values.float().chunk(2, dim=-1)
        return self.tokens(DiagonalGaussian(mean, log_variance).sample(rng.normal(*mean.shape[1:])), self.layout)

    def mean_cached(self, tokens: Tokens) -> Tokens:
        """The means of cached distributions."""
        if not self.fits(tokens.layout, self.cached_layout):
            return tokens
        channels = self.layout.channels
        return replace(tokens, values=tokens.values[..., :channels], layout=replace(tokens.layout, channels=channels))

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens ``(B, N, p p D)``, or those of :meth:`encode_to_cache`, to media, clamped to [-1, 1]."""
        tokens = self.mean_cached(tokens)
        self.check_tokens(tokens)
        return self.maps(self._unfolded(tokens.values.float()) / self.scale + self.shift).float().clamp(-1, 1)

    @torch.no_grad()
    def calibrate(self, media: Iterable[Tensor]) -> None:
        """Measure shift and scale on each process's media, with equal results on all processes.

        A latent's variance is that of the posterior's mean over items and positions plus the posterior's. Raises ``ValueError`` if there
        are no media.
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


def _squares(media: Medium, latents: tuple[int, ...], patch: int) -> tuple[int, ...]:
    """The grid of squares of ``patch x patch`` latents. Raises ``ValueError`` if there are no rows and columns that divide into them."""
    if media.axes != ALONG_ROWS:
        raise ValueError(f"tokenizer.kl.patch: {patch} is of rows and columns of pictures, and the data are {media}: leave it out")
    if any(side % patch for side in latents):
        sides = " x ".join(map(str, latents))
        raise ValueError(f"tokenizer.kl.patch: {sides} latents do not divide into squares of {patch} x {patch}: choose another size")
    return tuple(side // patch for side in latents)


class KL(TokenizerSettings, family="tokenizer", name="kl"):
    """Settings of the continuous tokenizer.

    Attributes:
        autoencoder: Networks that encode to latents and decode from them.
        dim: Numbers ``D`` of a latent.
        patch: Latents a side of a token, for pictures: with 2, as published with DiT and SD3, there is a quarter of the tokens, of four
            times as many numbers.
        weight: Of the divergence from ``N(0, 1)`` in nats per item, over the number of its values. Losses here are means over values; the
            published 1e-6 is for sums over pixels and latents, and stays 1e-6 when both are divided by the number of values. (A mean over
            latents would need ``1e-6 h w D / (C H W)``, about a twelfth of it for 8 x 8 x 16 at 64 pixels.)
        normalize: ``channel`` gives the mean of every token mean 0 and mean square 1 over its channels.
        noise: Largest standard deviation of the noise added to normalised latents in training.
        standardize: A shift and scale per ``channel`` of latents, or one for ``all``.
        outliers: Weight of the penalty of latents far from the others of their frame (:func:`outlier_penalty`), which decode to spots;
            Movie Gen has 1e5.
    """

    autoencoder: Annotated[SerializeAsAny[AutoencoderSettings], OfFamily("autoencoder")] = Convolutional()
    dim: int = Field(default=16, ge=1)
    patch: int = Field(default=1, ge=1)
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
