"""One vector of a whole picture, in a space shared with texts (CLIP, arXiv 2103.00020), for unCLIP (2204.06125).

Two networks, one of pictures and one of texts, give unit vectors ``u_i`` and ``t_j``. The loss compares all pictures of a batch with all of
its texts, with a learned temperature ``1 / s`` (InfoNCE):

    L = (CE_i(s u_i t_j) + CE_j(s u_i t_j)) / 2

A decoder of pixels reads the picture's vector without giving it a gradient: it shows what the vector knows, and learns by the recipe's
losses. A token is ``sqrt(D) u``, so that its numbers have a mean square of 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder, AutoencoderSettings
from jielong.autoencoders.convolutional import Convolutional
from jielong.config.registry import Config, OfFamily
from jielong.core.medium import ALONG_ROWS, Axes, Medium
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.losses.contrastive import contrastive_loss
from jielong.networks.text_encoder import TextEncoder
from jielong.tokenizers.base import LearnedTokenizer, Reconstruction, Tokenizer, TokenizerSettings, channels_last, contiguous

MOST_SCALE = 100.0
"""Greatest ``s``, as in CLIP."""


class TextTower(nn.Module):
    """Texts as UTF-8 bytes to unit vectors. ``width``: of those."""

    def __init__(self, settings: TextTowerSettings, width: int) -> None:
        super().__init__()
        self.length = settings.length
        self.encoder = TextEncoder(256, settings.width, settings.layers, settings.heads)
        self.output = nn.Linear(settings.width, width)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """``(B, D)``."""
        device = self.output.weight.device
        rows = [torch.tensor(list(text.encode()[: self.length]) or [0]) for text in texts]
        numbers = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(numbers.shape[1], device=device) < lengths[:, None]
        states = self.encoder(numbers, mask).masked_fill(~mask[..., None], 0)
        return unit(self.output(states.sum(1) / lengths[:, None]))


def unit(vectors: Tensor) -> Tensor:
    """Rows ``(B, D)`` at unit length, in float32 (float64 for float64 inputs)."""
    with torch.autocast(vectors.device.type, enabled=False):
        return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


class TwoTowerTokenizer(LearnedTokenizer):
    """A picture as one token, and a picture of what the token tells. Raises ``ValueError`` if the media do not divide into features.

    ``autoencoder``: encoder from pictures to features ``(B, F, h, w)``, decoder from such features to pictures.
    """

    reads_captions: ClassVar[bool] = True

    def __init__(self, media: Medium, autoencoder: Autoencoder, settings: TwoTowers) -> None:
        super().__init__()
        self.media, self.dim, self.features = media, settings.dim, settings.features
        self.grid = autoencoder.grid(media.size)
        self.layout = Layout((1,), settings.dim, axes=("latents",))
        size = settings.features * math.prod(self.grid)
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder
        self.output, self.input = nn.Linear(size, settings.dim), nn.Linear(settings.dim, size)
        self.text = TextTower(settings.text, settings.dim)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight."""
        return self.decoder.last_layer

    def embed(self, media: Tensor) -> Tensor:
        """Pictures ``(B, C, H, W)`` to unit vectors ``(B, D)``."""
        self.check(media)
        return unit(self.output(self.encoder(contiguous(media.to(self.last_layer.dtype))).flatten(1)))

    def scores(self, media: Tensor, texts: Sequence[str]) -> Tensor:
        """``s u_i t_j`` of pictures ``(N, C, H, W)`` and ``M`` texts, ``(N, M)``."""
        return self._scores(self.embed(media), texts)

    def _scores(self, vectors: Tensor, texts: Sequence[str]) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            return self.log_scale.exp().clamp(max=MOST_SCALE) * vectors @ self.text(texts).to(vectors).T

    def forward(
        self,
        media: Tensor,
        generator: torch.Generator | None = None,
        samples_seen: int = 0,
        rng: PerSampleRNG | None = None,
        captions: Sequence[str] | None = None,
    ) -> Reconstruction:
        """The decoder's pictures, and with ``captions``, one a picture, the contrastive loss; see :meth:`LearnedTokenizer.forward`."""
        vectors = self.embed(media)
        picture = self._picture(vectors.detach())
        if captions is None:
            return Reconstruction(picture)
        scores = self._scores(vectors, captions)
        found = (scores.detach().argmax(1) == torch.arange(len(scores), device=scores.device)).float().mean()
        return Reconstruction(picture, {"contrastive": contrastive_loss(scores)}, figures={"captions_found": found})

    def _picture(self, vectors: Tensor) -> Tensor:
        """Unit vectors ``(B, D)`` to pictures, not clamped."""
        features = self.input(vectors.to(self.input.weight.dtype)).unflatten(1, (self.features, *self.grid))
        picture: Tensor = self.decoder(contiguous(features))
        return picture

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tokens:
        """Pictures in [-1, 1] to ``(B, 1, D)``."""
        return Tokens(math.sqrt(self.dim) * self.embed(media)[:, None], self.layout)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens ``(B, 1, D)`` of any length to what the decoder shows of their directions, clamped to [-1, 1]."""
        self.check_tokens(tokens)
        return self._picture(unit(tokens.values[:, 0])).float().clamp(-1, 1)

    def statistics(self) -> dict[str, float]:
        """The temperature."""
        return {"temperature": float((-self.log_scale.detach()).exp())}


class TextTowerSettings(Config):
    """Size of the network of texts.

    Attributes:
        length: Most bytes of a text; longer ones are cut.
        layers: Transformer layers.
        width: Channels of a byte.
        heads: Attention heads of a layer.
    """

    length: int = Field(default=160, ge=1)
    layers: int = Field(default=2, ge=1)
    width: int = Field(default=128, ge=4)
    heads: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> TextTowerSettings:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of {2 * self.heads}, twice the heads")
        return self


class TwoTowers(TokenizerSettings, family="tokenizer", name="two_towers"):
    """Settings of the vector of a picture in a space shared with texts.

    Attributes:
        autoencoder: Its encoder reads pictures, and its decoder shows what the vector tells.
        features: Channels of the encoder's last and the decoder's first features.
        dim: Numbers ``D`` of the vector.
        text: The network of texts.
    """

    axes: ClassVar[Axes | None] = ALONG_ROWS
    compares_items: ClassVar[bool] = True
    autoencoder: Annotated[SerializeAsAny[AutoencoderSettings], OfFamily("autoencoder")] = Convolutional()
    features: int = Field(default=64, ge=1)
    dim: int = Field(default=128, ge=2)
    text: TextTowerSettings = TextTowerSettings()

    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> TwoTowerTokenizer:
        """The tokenizer for pictures of this format."""
        autoencoder = self.autoencoder.build(channels=media.channels, size=media.size, dim=self.features)
        return channels_last(TwoTowerTokenizer(media, autoencoder, self))

    def check_axes(self, axes: Axes) -> None:
        """See :meth:`TokenizerSettings.check_axes`."""
        self.autoencoder.check_axes(axes)
