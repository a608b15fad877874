"""A learned image tokenizer: convolutions, a vector quantizer, convolutions (VQ-VAE, arXiv 1711.00937; VQGAN, 2012.09841)."""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from jielong.config import Part
from jielong.networks.convolutional import ConvDecoder, ConvEncoder
from jielong.quantizers.usage import advice
from jielong.quantizers.vector import VectorQuantizer, VectorQuantizerSettings
from jielong.tokenizers.base import LearnedTokenizer, MediaFormat, Reconstruction
from jielong.tokens import Layout, Tokens


class VQTokenizer(LearnedTokenizer):
    """Picture to a grid of code indices and back.

    Args:
        media: The pictures.
        encoder: ``(B, C, H, W)`` to ``(B, dim, h, w)``.
        quantizer: Vectors to codes.
        decoder: ``(B, dim, h, w)`` to ``(B, C, H, W)``.
        reduction: Pixels of a side that one token covers, ``f = H / h``.
        settings: The quantizer's settings, for advice.
    """

    def __init__(
        self,
        media: MediaFormat,
        encoder: ConvEncoder,
        quantizer: VectorQuantizer,
        decoder: ConvDecoder,
        reduction: int,
        settings: VectorQuantizerSettings,
    ) -> None:
        super().__init__()
        height, width = media.size
        if height % reduction or width % reduction:
            raise ValueError(f"pictures of {height} x {width} pixels do not divide into tokens of {reduction} x {reduction} pixels")
        self.media = media
        self.layout = Layout(grid=(height // reduction, width // reduction), channels=1, vocabulary=quantizer.codes)
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.settings = settings

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight."""
        return self.decoder.last_layer

    def _features(self, media: Tensor) -> Tensor:
        self.check(media)
        media = media.contiguous(memory_format=torch.channels_last)
        return self.encoder(media).permute(0, 2, 3, 1)  # (B, h, w, dim)

    def _picture(self, features: Tensor) -> Tensor:
        return self.decoder(features.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last))

    def forward(self, media: Tensor, generator: torch.Generator | None = None, samples_seen: int = 0) -> Reconstruction:
        """Round trip; ``generator`` seeds the codebook's k-means start and restarts."""
        quantized = self.quantizer(self._features(media), generator=generator)
        return Reconstruction(self._picture(quantized.values), quantized.losses)

    def statistics(self) -> dict[str, float]:
        """Share of codes in use and perplexity, over the last 65,536 assignments or more."""
        usage = self.quantizer.usage
        return {"codebook_usage": float(usage.usage), "codebook_perplexity": float(usage.perplexity)}

    def advice(self) -> str | None:
        """What to try when codes lie idle; says nothing before enough of them were assigned to tell."""
        usage = self.quantizer.usage
        if int(usage.assignments) < usage.window:
            return None
        return advice(float(usage.usage), float(usage.perplexity), self.settings, self.quantizer.dim)

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, H, W)`` in [-1, 1] to codes ``(B, h w, 1)``."""
        indices = self.quantizer.encode(self._features(media))
        return Tokens(indices.flatten(1)[..., None], self.layout)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Codes ``(B, h w, 1)`` to ``(B, C, H, W)``, clamped to [-1, 1]."""
        self.check_tokens(tokens)
        features = self.quantizer.decode(tokens.values[..., 0].unflatten(1, self.layout.grid))
        return self._picture(features).float().clamp(-1, 1)


class VQ(Part, family="tokenizer", name="vq"):
    """Settings of the convolutional VQ tokenizer.

    ``channels`` and ``blocks`` list the width and the residual blocks of each stage, finest first; ``patch`` is the side of
    the square of pixels that enters as one position. A token covers ``patch 2^(stages - 1)`` pixels a side.
    """

    channels: tuple[PositiveInt, ...] = Field(default=(64, 128), min_length=1)
    blocks: tuple[NonNegativeInt, ...] = (1, 1)
    decoder_channels: tuple[PositiveInt, ...] | None = None
    decoder_blocks: tuple[NonNegativeInt, ...] | None = None
    patch: int = Field(default=4, ge=1)
    attention: bool = False
    dim: int = Field(default=16, ge=1)
    quantizer: VectorQuantizerSettings = VectorQuantizerSettings.model_validate({})

    @model_validator(mode="after")
    def _stages_agree(self) -> VQ:
        for name, channels, blocks in (
            ("", self.channels, self.blocks),
            ("decoder_", self.decoder_channels or self.channels, self.decoder_blocks or self.blocks),
        ):
            if len(channels) != len(blocks) or len(channels) != len(self.channels):
                raise ValueError(
                    f"{name}channels and {name}blocks must name the same {len(self.channels)} stages, not {channels} and {blocks}"
                )
        return self

    def build(self, media: MediaFormat) -> VQTokenizer:
        """The tokenizer for pictures of this format."""
        encoder = ConvEncoder(media.channels, self.channels, self.blocks, self.dim, self.patch, self.attention)
        decoder = ConvDecoder(
            self.dim,
            self.decoder_channels or self.channels,
            self.decoder_blocks or self.blocks,
            media.channels,
            self.patch,
            self.attention,
        )
        reduction = self.patch * 2 ** (len(self.channels) - 1)
        tokenizer = VQTokenizer(media, encoder, self.quantizer.build(self.dim), decoder, reduction, self.quantizer)
        return tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
