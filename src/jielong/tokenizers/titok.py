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
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, SerializeAsAny, model_validator
from torch import Tensor, nn

from jielong.config.registry import Config, OfFamily
from jielong.config.schedule import Start
from jielong.core.medium import ALONG_ROWS, Axes, Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.networks.efficientnet import freeze
from jielong.networks.latents import LatentDecoder, LatentEncoder
from jielong.quantizers.base import Quantizer, QuantizerSettings
from jielong.quantizers.vector import Vector
from jielong.tokenizers.base import LearnedTokenizer, Reconstruction, Tokenizer, TokenizerSettings
from jielong.tokenizers.vq import VQTokenizer


class TiTokTokenizer(LearnedTokenizer):
    """Images to ``N`` codes and back. Raises ``ValueError`` if the proxy's layout is not a grid of single codes.

    The proxy is not part of the checkpoint; its codebook and decoder, which decoding needs, are copied.

    Args:
        encoder: ``(B, C, H, W)`` to ``(B, N, dim)``.
        decoder: ``(B, N, dim)`` to ``(B, h w, V)``, logits of the proxy's codes.
        proxy: The trained grid tokenizer; copied.
        finetune_at: Samples seen when the second stage begins.
    """

    proxy_codes: Tensor

    def __init__(self, encoder: LatentEncoder, quantizer: Quantizer, decoder: LatentDecoder, proxy: VQTokenizer, finetune_at: int) -> None:
        super().__init__()
        grid_of_codes(proxy)
        self.media = proxy.media
        self.layout = replace(quantizer.layout((encoder.body.count,)), axes=("latents",))
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.finetune_at = finetune_at
        self.grid = proxy.layout.grid
        with torch.no_grad():
            codes = torch.arange(proxy.layout.vocabulary or 0, device=proxy.last_layer.device)
            self.register_buffer("proxy_codes", proxy.quantizer.decode(codes[:, None]).clone())  # (V, proxy's dim)
        self.proxy = copy.deepcopy(proxy)
        freeze(self.proxy)
        self.pixel_decoder = copy.deepcopy(proxy.decoder).requires_grad_(True)

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
        self.proxy.eval()
        return self

    def forward(
        self, media: Tensor, generator: torch.Generator | None = None, samples_seen: int = 0, rng: PerSampleRNG | None = None
    ) -> Reconstruction:
        """The first stage's losses, or the second stage's media; see :meth:`LearnedTokenizer.forward`."""
        self.check(media)
        if samples_seen < self.finetune_at:
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


class NetworkSize(Config):
    """Size of an encoder or a decoder.

    Attributes:
        layers: Transformer layers.
        width: Channels of a position.
        heads: Attention heads of a layer.
    """

    layers: PositiveInt = 4
    width: int = Field(default=192, ge=8)
    heads: PositiveInt = 3

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> NetworkSize:
        if self.width % self.heads or self.width // self.heads % 2 or self.width // self.heads < 4:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}, with 4 channels or more a head")
        return self


class TiTok(TokenizerSettings, family="tokenizer", name="titok"):
    """Settings of the 1-D tokenizer.

    Attributes:
        proxy: A trained grid tokenizer, a shipped model's name or a checkpoint folder, of the same image format.
        tokens: Tokens ``N`` per image.
        finetune_at: Samples seen, or a share of the budget, when the second stage with the recipe's ``losses`` begins; a shorter training
            has the first stage only.
        patch: Pixels a side of a patch of the encoder.
        dim: Width of the quantized vectors.
        encoder: Size of the encoder.
        decoder: Size of the decoder.
        quantizer: By default cosine lookup among 4,096 codes, as published.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    proxy: str
    tokens: PositiveInt = 32
    finetune_at: Start
    patch: PositiveInt = 8
    dim: PositiveInt = 12
    encoder: NetworkSize = NetworkSize()
    decoder: NetworkSize = NetworkSize()
    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector(codebook_size=4096, normalize=True)

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> TiTokTokenizer:
        """The tokenizer; ``stages`` has the ``proxy``. Raises ``ValueError`` if the proxy has another format, or no grid of codes."""
        proxy = grid_of_codes((stages or {})["proxy"])
        if proxy.media != media:
            raise ValueError(f"the proxy {self.proxy!r} was made for {proxy.media}, but the data are {media}; set data.size to fit")
        codes = proxy.layout.vocabulary or 0
        rows, columns = proxy.layout.grid
        height, width = media.size
        encoder = LatentEncoder(media.channels, (height, width), self.patch, self.tokens, self.dim, **dict(self.encoder))
        decoder = LatentDecoder(self.dim, self.tokens, (rows, columns), codes, **dict(self.decoder))
        quantizer = self.quantizer.on((self.tokens,)).build(self.dim)
        return TiTokTokenizer(encoder, quantizer, decoder, proxy, self.finetune_at)

    @property
    def requires(self) -> dict[str, str]:
        """The proxy."""
        return {"proxy": self.proxy}
