"""A discrete grid tokenizer: an autoencoder with a quantizer (VQ-VAE, arXiv 1711.00937; VQGAN, 2012.09841).

On audio with the quantizer ``residual`` it is SoundStream (2107.03312) and EnCodec (2210.13438).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.autoencoders.convolutional import Convolutional
from jielong.config.registry import OfFamily
from jielong.core.medium import Axes, Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.losses.regression import logit_laplace_median
from jielong.quantizers.base import Quantizer, QuantizerSettings
from jielong.quantizers.vector import Vector
from jielong.tokenizers.base import Reconstruction, Tokenizer, TokenizerSettings, channels_last
from jielong.tokenizers.grid import GridTokenizer

Likelihood = Literal["logit_laplace"]


class VQTokenizer(GridTokenizer):
    """Images, audio or clips to a grid of code indices and back. Raises ``ValueError`` if the media do not divide into tokens.

    Args:
        autoencoder: Media to features ``(B, dim, *grid)`` and back.
        quantizer: Vectors of width ``dim`` to codes; its codebooks are the channels of the layout.
        likelihood: Distribution whose parameters, two maps per channel, the decoder predicts; ``None`` for the values themselves.
    """

    def __init__(self, media: Medium, autoencoder: Autoencoder, quantizer: Quantizer, likelihood: Likelihood | None = None) -> None:
        super().__init__(media, autoencoder)
        self.likelihood = likelihood
        self.layout = replace(quantizer.layout(autoencoder.grid(media.size)), axes=media.axes)
        self.encoder, self.quantizer, self.decoder = autoencoder.encoder, quantizer, autoencoder.decoder

    @property
    def code_dim(self) -> int:
        """See :attr:`LearnedTokenizer.code_dim`."""
        return self.quantizer.dim

    def keep_codebooks(self, count: int) -> None:
        """Use only the first ``count`` residual codebooks from now on. Raises ``ValueError`` if not residual, or there are fewer."""
        if not self.quantizer.progressive:
            raise ValueError("this tokenizer's quantizer is not residual, so it keeps all codebooks: leave out tokenizer.num_codebooks")
        if not 1 <= count <= self.layout.channels:
            raise ValueError(f"this tokenizer has {self.layout.channels} codebooks; it cannot keep {count} of them")
        self.layout = replace(self.layout, channels=count)

    def _features(self, media: Tensor) -> Tensor:
        return self.features(media).movedim(1, -1)  # (B, h, w, dim), (B, n, dim) or (B, t, h, w, dim)

    def _picture(self, maps: Tensor) -> Tensor:
        """The media of the decoder's maps, not clamped."""
        return maps if self.likelihood is None else logit_laplace_median(maps)

    def forward(
        self, media: Tensor, generator: torch.Generator | None = None, samples_seen: int = 0, rng: PerSampleRNG | None = None
    ) -> Reconstruction:
        """Round trip; see :meth:`LearnedTokenizer.forward`."""
        quantized = self.quantizer(self._features(media), generator=generator, samples_seen=samples_seen, rng=rng)
        maps = self.maps(quantized.values)
        first = quantized.values if quantized.first is None else quantized.first
        return Reconstruction(self._picture(maps), quantized.losses, None if self.likelihood is None else maps, first=first.flatten(1, -2))

    def statistics(self) -> dict[str, float]:
        """The quantizer's figures, such as the share of codes in use."""
        return self.quantizer.figures()

    def advice(self) -> str | None:
        """The quantizer's."""
        return self.quantizer.advice()

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, H, W)``, ``(B, C, T)`` or ``(B, C, T, H, W)`` in [-1, 1] to codes ``(B, N, K)``."""
        codes = self.quantizer.encode(self._features(media)).flatten(1, -2)
        return self.tokens(codes[..., : self.layout.channels], self.layout)

    @torch.no_grad()
    def residuals(self, media: Tensor) -> Tensor | None:
        """See :meth:`Quantizer.residuals`."""
        return self.quantizer.residuals(self._features(media))

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Codes ``(B, N, n)`` of the first ``n <= K`` codebooks, or mixtures ``(B, N, dim)``, to media, clamped to [-1, 1]."""
        if self.fits(tokens.layout, replace(self.layout, channels=self.quantizer.dim, vocabulary=None)):
            return self._decode(tokens.values)
        if not self._leads(tokens.layout):
            self.check_tokens(tokens)
        return self._decode(self.quantizer.embed(tokens.values))

    def _leads(self, layout: Layout) -> bool:
        """Whether it is the layout of the first codebooks of a residual quantizer."""
        fewer = self.quantizer.progressive and layout.channels < self.layout.channels
        return fewer and self.fits(layout, replace(self.layout, channels=layout.channels))

    @torch.no_grad()
    def decode_known(self, tokens: Tokens, known: Tensor) -> Tensor:
        """With scales: the sum of those with a known position. On a grid: grey, or silence, where nothing is known."""
        if not self.layout.scales:
            return super().decode_known(tokens, known)
        self.check_tokens(tokens)
        return self._decode(self.quantizer.embed(tokens.values), known)

    def _decode(self, vectors: Tensor, known: Tensor | None = None) -> Tensor:
        return self._picture(self.maps(self.quantizer.assemble(vectors, known)).float()).clamp(-1, 1)


class VQ(TokenizerSettings, family="tokenizer", name="vq"):
    """Settings of the discrete grid tokenizer.

    Attributes:
        autoencoder: Networks that encode to vectors and decode from codes.
        dim: Width of the quantized vectors.
        quantizer: Maps vectors to codes.
        likelihood: Distribution of every colour value that the decoder predicts, for the loss of that name.
    """

    autoencoder: Annotated[SerializeAsAny[AutoencoderSettings], OfFamily("autoencoder")] = Convolutional()
    dim: int = Field(default=16, ge=1)
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector()
    likelihood: Likelihood | None = None

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> VQTokenizer:
        """The tokenizer for media of this format."""
        outputs = media.channels if self.likelihood is None else 2 * media.channels
        autoencoder = self.autoencoder.build(channels=media.channels, size=media.size, dim=self.dim, outputs=outputs)
        quantizer = self.quantizer.on(autoencoder.grid(media.size)).build(self.dim)
        return channels_last(VQTokenizer(media, autoencoder, quantizer, self.likelihood))

    @property
    def likelihood_loss(self) -> str | None:
        """See :attr:`TokenizerSettings.likelihood_loss`."""
        return self.likelihood

    def check_axes(self, axes: Axes) -> None:
        """See :meth:`TokenizerSettings.check_axes`."""
        self.autoencoder.check_axes(axes)

    def check_size(self, size: tuple[int, ...]) -> None:
        """See :meth:`TokenizerSettings.check_size`."""
        self.autoencoder.check_size(size)
