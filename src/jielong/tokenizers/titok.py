"""One-dimensional tokens: an image as a short sequence of codes without spatial positions (TiTok, arXiv 2406.07550).

Training has two stages, in one run:

1. *Proxy codes.* A trained grid tokenizer (the proxy) is frozen. Encoder, quantizer and decoder learn to predict its code at every
   position of its grid: ``L = CE(logits, codes) + L_quantizer``. No loss compares pixels.
2. *Decoder finetuning*, from ``finetune_at`` samples on. Encoder and quantizer are frozen, so the tokens do not change. The decoder and a
   copy of the proxy's decoder learn by the recipe's losses on pixels.

A soft lookup between the two decoders passes the gradient: the mean of the proxy's codes ``c_v`` under the predicted distribution,
``sum_v softmax(logits)_v c_v``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, SerializeAsAny, model_validator
from torch import Tensor, nn

from jielong.autoencoders.base import AutoencoderSettings
from jielong.autoencoders.convolutional import Convolutional
from jielong.config.registry import Config, OfFamily
from jielong.config.schedule import Start
from jielong.core.medium import ALONG_ROWS, Axes, Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.networks.decoder import Decoder
from jielong.networks.efficientnet import freeze
from jielong.networks.latents import LatentDecoder, LatentEncoder, LatentTransformerSize
from jielong.quantizers.base import Quantizer, QuantizerSettings
from jielong.quantizers.vector import Vector
from jielong.tokenizers.base import LearnedTokenizer, Reconstruction, Tokenizer, TokenizerSettings
from jielong.tokenizers.vq import VQTokenizer


@dataclass(frozen=True)
class PixelCodes:
    """A grid of codes and what turns it into pictures: of a trained proxy, or by itself (:class:`PixelDecoder`)."""

    media: Medium
    grid: tuple[int, ...]
    codes: Tensor  # their vectors, (V, D)
    decoder: Decoder  # vectors on the grid, (B, D, h, w), to pictures
    proxy: VQTokenizer | None = None  # what gives the codes of a picture

    @staticmethod
    def of(proxy: VQTokenizer) -> PixelCodes:
        """Those of a trained grid tokenizer, copied."""
        with torch.no_grad():
            numbers = torch.arange(proxy.layout.vocabulary or 0, device=proxy.last_layer.device)
            codes = proxy.quantizer.decode(numbers[:, None]).clone()
        return PixelCodes(proxy.media, proxy.layout.grid, codes, copy.deepcopy(proxy.decoder).requires_grad_(True), proxy)


class TiTokTokenizer(LearnedTokenizer):
    """Images to ``N`` codes and back.

    The proxy is not part of the checkpoint; its codebook and decoder, which decoding needs, are copied.

    Args:
        encoder: ``(B, C, H, W)`` to ``(B, N, dim)``.
        decoder: ``(B, N, dim)`` to ``(B, h w, V)``, logits of the proxy's codes.
        pixels: From these codes to pictures; without a proxy there is no first stage.
        finetune_at: Samples seen when the second stage begins.
    """

    proxy_codes: Tensor

    def __init__(self, encoder: LatentEncoder, quantizer: Quantizer, decoder: LatentDecoder, pixels: PixelCodes, finetune_at: int) -> None:
        super().__init__()
        self.media = pixels.media
        self.layout = replace(quantizer.layout((encoder.body.count,)), axes=("latents",))
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.finetune_at = finetune_at
        self.grid = pixels.grid
        self.register_buffer("proxy_codes", pixels.codes)  # (V, proxy's dim)
        self.proxy = copy.deepcopy(pixels.proxy)
        if self.proxy is not None:
            freeze(self.proxy)
        self.pixel_decoder = pixels.decoder

    @property
    def code_dim(self) -> int:
        """See :attr:`LearnedTokenizer.code_dim`."""
        return self.quantizer.dim

    @property
    def last_layer(self) -> nn.Parameter:
        """The pixel decoder's last weight."""
        return self.pixel_decoder.last_layer

    @property
    def reconstructs_from(self) -> int:
        """Start of the second stage."""
        return self.finetune_at

    def train(self, mode: bool = True) -> TiTokTokenizer:
        """Keep the proxy in evaluation mode."""
        super().train(mode)
        if self.proxy is not None:
            self.proxy.eval()
        return self

    def forward(
        self, media: Tensor, generator: torch.Generator | None = None, samples_seen: int = 0, rng: PerSampleRNG | None = None
    ) -> Reconstruction:
        """The first stage's losses, or the second stage's media; see :meth:`LearnedTokenizer.forward`."""
        self.check(media)
        if samples_seen < self.finetune_at and self.proxy is not None:
            quantized = self.quantizer(self.encoder(media), generator=generator, samples_seen=samples_seen, rng=rng)
            logits = self.decoder(quantized.values)
            targets = self.proxy.encode(media).values
            with torch.autocast(media.device.type, enabled=False):
                proxy_loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            return Reconstruction(None, {"proxy": proxy_loss, **quantized.losses})
        with torch.no_grad():  # without a gradient no optimizer moves a frozen weight, not by decay or momentum either
            latents = self.quantizer.decode(self.quantizer.encode(self.encoder(media)))
        return Reconstruction(self._picture(latents))

    def _picture(self, latents: Tensor) -> Tensor:
        """Quantized latents ``(B, N, dim)`` to ``(B, C, H, W)``."""
        logits = self.decoder(latents)
        with torch.autocast(logits.device.type, enabled=False):
            features = logits.float().softmax(-1) @ self.proxy_codes
        features = features.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (B, proxy's dim, h, w)
        return self.pixel_decoder(features.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tokens:
        """``(B, C, H, W)`` in [-1, 1] to codes ``(B, N, K)``."""
        self.check(media)
        return Tokens(self.quantizer.encode(self.encoder(media)).flatten(1, -2), self.layout)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Codes ``(B, N, K)`` to ``(B, C, H, W)``, clamped to [-1, 1]."""
        self.check_tokens(tokens)
        return self._picture(self.quantizer.decode(tokens.values)).float().clamp(-1, 1)

    def statistics(self) -> dict[str, float]:
        """The quantizer's figures."""
        return self.quantizer.figures()

    def advice(self) -> str | None:
        """The quantizer's advice."""
        return self.quantizer.advice()


def grid_of_codes(proxy: Tokenizer) -> VQTokenizer:
    """The proxy as a :class:`VQTokenizer`. Raises ``ValueError`` if it is not a trained grid with one code per position."""
    if not isinstance(proxy, VQTokenizer) or len(proxy.layout.grid) != 2 or proxy.layout.channels != 1 or proxy.layout.scales:
        raise ValueError(
            f"the proxy of a titok must be a trained vq tokenizer with one code per position of a grid, such as vq-emoji, "
            f"not a {type(proxy).__name__} of {proxy.layout}"
        )
    return proxy


class PixelDecoder(Config):
    """Networks from a grid of codes to pictures, for a tokenizer without a proxy; their weights are imported or initial.

    Attributes:
        codes: Codes ``V`` at a position of the grid.
        dim: Width of a code.
        autoencoder: Its decoder is used, and fixes the grid: MaskGIT-VQGAN's in the released models.
    """

    codes: int = Field(default=1024, ge=2)
    dim: PositiveInt = 256
    autoencoder: Annotated[SerializeAsAny[AutoencoderSettings], OfFamily("autoencoder")] = Convolutional()

    def build(self, media: Medium) -> PixelCodes:
        """The networks for media of this format. Raises ``ValueError`` if its positions are no grid."""
        autoencoder = self.autoencoder.build(channels=media.channels, size=media.size, dim=self.dim)
        return PixelCodes(media, autoencoder.grid(media.size), torch.randn(self.codes, self.dim) * self.dim**-0.5, autoencoder.decoder)


class TiTok(TokenizerSettings, family="tokenizer", name="titok"):
    """Settings of the 1-D tokenizer.

    Attributes:
        proxy: A trained grid tokenizer, a shipped model's name or a checkpoint folder, of the same image format.
        pixels: In place of a proxy, what turns codes of a grid into pictures; training has the second stage alone then.
        tokens: Tokens ``N`` per image.
        finetune_at: Samples seen, or a share of the budget, when the second stage with the recipe's ``losses`` begins; a shorter training
            has the first stage only. Without a proxy 0.
        patch: Pixels a side of a patch of the encoder.
        dim: Width of the quantized vectors.
        encoder: Size of the encoder.
        decoder: Size of the decoder.
        quantizer: By default cosine lookup among 4,096 codes, as published.
        legacy_reshape: Read the encoder's features of all latents, ``N x D`` numbers, as ``D x N`` before they are projected to ``dim``,
            which mixes those of different latents: the released L-32, B-64 and S-128 were trained so (``is_legacy`` in their code).
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    proxy: str | None = None
    pixels: PixelDecoder | None = None
    tokens: PositiveInt = 32
    finetune_at: Start
    patch: PositiveInt = 8
    dim: PositiveInt = 12
    encoder: LatentTransformerSize = LatentTransformerSize()
    decoder: LatentTransformerSize = LatentTransformerSize()
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector(codebook_size=4096, normalize=True)
    legacy_reshape: bool = False

    @model_validator(mode="after")
    def _one_source_of_pixels(self) -> Self:
        if (self.proxy is None) == (self.pixels is None):
            both = "there are both" if self.pixels is not None else "there is neither"
            raise ValueError(f"pictures are drawn by a proxy, or by pixels without one, and {both}: give one of them")
        if self.proxy is None and self.finetune_at:
            raise ValueError(f"finetune_at is {self.finetune_at}, and the stage before it learns the codes of a proxy: set it to 0")
        return self

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> TiTokTokenizer:
        """The tokenizer; ``stages`` has the ``proxy``. Raises ``ValueError`` if the proxy has another format, or no grid of codes."""
        pixels = self.pixels.build(media) if self.pixels is not None else PixelCodes.of(self._proxy(media, stages or {}))
        rows, columns = pixels.grid
        height, width = media.size
        encoder = LatentEncoder(media.channels, (height, width), self.patch, self.tokens, self.dim, self.encoder, self.legacy_reshape)
        decoder = LatentDecoder(self.dim, self.tokens, (rows, columns), len(pixels.codes), self.decoder)
        quantizer = self.quantizer.on((self.tokens,)).build(self.dim)
        return TiTokTokenizer(encoder, quantizer, decoder, pixels, self.finetune_at)

    def _proxy(self, media: Medium, stages: Mapping[str, Tokenizer]) -> VQTokenizer:
        proxy = grid_of_codes(stages["proxy"])
        if proxy.media != media:
            raise ValueError(f"the proxy {self.proxy!r} was made for {proxy.media}, but the data are {media}; set data.size to fit")
        return proxy

    @property
    def requires(self) -> dict[str, str]:
        """The proxy."""
        return {} if self.proxy is None else {"proxy": self.proxy}
