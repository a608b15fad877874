"""Video pixel network: encoders of past frames, a convolutional LSTM over time, a PixelCNN for the pixels of a frame (arXiv 1610.00527).

    s_t = LSTM(s_t-1, encoder(frame t-1))     s_1 = 0        hidden_t = decoder(known pixels of frame t, s_t)

The encoder is a stack of residual multiplicative blocks that are not masked, with dilations 1, 2, 4, 8, 1, ... that are constant inside a
block; it is shared by all frames, and nothing is ever reduced in resolution. Differences to the paper: the decoder has two stacks
(:mod:`jielong.networks.vpn_decoder`), input vectors are scaled to unit size, and a pooled condition is added to the encoder's first map and
to the map that the decoder reads, at all places.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from jielong.config.registry import Config
from jielong.networks.backbone import Backbone, BackboneInputs, check_raster
from jielong.networks.convolutional_lstm import ConvolutionalLSTM, LSTMState
from jielong.networks.eligibility import can_fuse
from jielong.networks.gated import initialise, unit_rms, without_autocast
from jielong.networks.multiplicative import MultiplicativeBlock, Unit
from jielong.networks.pixel_grid import ClipGrid
from jielong.networks.vpn_cache import VPNCache
from jielong.networks.vpn_decoder import FUSED, IndependentDecoder, PixelDecoder

DILATIONS = (1, 2, 4, 8)
"""Of the encoder's blocks, repeated."""


class VPNConfig(Config):
    """Sizes of a video pixel network.

    Attributes:
        decoder: ``pixelcnn``, or ``independent``, the paper's baseline, whose pixels and colours of a frame are independent given the past.
        unit: ``multiplicative``, or ``relu`` in blocks of the same shape.
        dilation: Whether the convolutions of the encoder's blocks are dilated by 1, 2, 4, 8, 1, ...
        encoder_layers: Blocks of the encoder.
        decoder_layers: Blocks of the decoder.
        width: Channels ``D`` of a position's embedding and hidden vector.
        features: Channels of all maps, of which half are inside a block, ``2c`` in the paper; ``width`` by default.
        first_kernel: Width of the first convolution of encoder and decoder.
    """

    decoder: Literal["pixelcnn", "independent"] = "pixelcnn"
    unit: Unit = "multiplicative"
    dilation: bool = True
    encoder_layers: int = Field(default=8, ge=1)
    decoder_layers: int = Field(default=12, ge=1)
    width: int = Field(default=64, ge=1)
    features: int | None = Field(default=None, ge=2)
    first_kernel: int = Field(default=7, ge=3)

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.first_kernel % 2 == 0:
            raise ValueError(f"first_kernel must be odd, so that a pixel stands in its middle, not {self.first_kernel}")
        return self


class Encoder(nn.Module):
    """A frame to a map of the same resolution: ``(B, inputs, H, W)`` to ``(B, F, H, W)``."""

    def __init__(self, config: VPNConfig, inputs: int, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, features, config.first_kernel, padding=config.first_kernel // 2)
        dilations = [DILATIONS[layer % len(DILATIONS)] if config.dilation else 1 for layer in range(config.encoder_layers)]
        self.blocks = nn.ModuleList(MultiplicativeBlock(features, config.unit, each, len(dilations)) for each in dilations)
        initialise(self.first)

    def forward(self, frames: Tensor, added: Tensor | None = None) -> Tensor:
        """The map; ``added``: a vector added to the first one at all places, ``(B, F)``."""
        x = self.first(frames)
        x = x if added is None else x + added[..., None, None]
        for block in self.blocks:
            x = block(x)
        return x


class VPN(Backbone[VPNCache]):
    """A video pixel network over a clip in raster order, frame after frame.

    Raises ``ValueError`` if the channels inside a block cannot be shared by the colours.
    """

    def __init__(self, config: VPNConfig, *, grid: ClipGrid, condition_width: int | None = None) -> None:
        super().__init__()
        width, features, colours = config.width, config.features or config.width, grid.picture.colours
        if features % (2 * colours):
            raise ValueError(
                f"{features} features cannot be shared by {colours} {'colours' if colours > 1 else 'colour'}, as half of them are inside a "
                f"block: choose a multiple of {2 * colours}"
            )
        self.grid, self.width, self.features, self.conditioned = grid, width, features, condition_width is not None
        # With several tokens a pixel, each contributes a share of the first map; else the map is the tokens' vectors.
        self.share = features // colours if colours > 1 else width
        self.enter = nn.Linear(width, self.share, bias=False) if colours > 1 else None
        self.encoder = Encoder(config, colours * self.share, features)
        self.memory = ConvolutionalLSTM(features)
        self.decoder: PixelDecoder | IndependentDecoder
        layers, unit = config.decoder_layers, config.unit
        if config.decoder == "pixelcnn":
            self.decoder = PixelDecoder(grid.picture, colours * self.share, width, features, layers, unit, config.first_kernel)
        else:
            self.decoder = IndependentDecoder(grid.picture, width, features, layers, unit)
        self.condition = nn.Linear(condition_width, 2 * features, bias=False) if condition_width is not None else None
        if self.enter is not None:
            initialise(self.enter)
        if self.condition is not None:
            nn.init.zeros_(self.condition.weight)

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` unless the order is raster."""
        check_raster(self, blocks, shifted, sees="earlier frames, and what is above and to the left")

    def forward(self, inputs: BackboneInputs, cache: VPNCache | None = None, commit: bool = True) -> Tensor:
        """Hidden vectors ``(B, n, D)``; see :meth:`Backbone.forward`. Of a condition the pooled vector is read."""
        self.check(inputs, cache)
        x, pooled = inputs.embeddings, None if inputs.conditioning is None else unit_rms(inputs.conditioning.pooled)
        total = x.shape[1] + (0 if cache is None else cache.length)
        if total > self.grid.positions:
            raise ValueError(f"the clip has {self.grid.positions} positions, but these are {total}")
        if cache is None:
            return self._whole(x, pooled)
        with torch.no_grad(), without_autocast(x):
            if not cache.started:
                cache.pooled, cache.started = pooled, True
            if not commit:
                cache = cache.clone()
            return torch.stack([self._next(vector.to(cache.start.dtype), cache) for vector in x.unbind(1)], dim=1)

    def tokens(self, vectors: Tensor, start: Tensor) -> Tensor:
        """What the networks read of embeddings ``(..., D)``, less that of the start, so that zero padding means the start."""
        scaled = unit_rms(vectors - start)
        return scaled if self.enter is None else self.enter(scaled)

    def past(self, frames: Tensor, pooled: Tensor | None, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """The map after each frame, ``(B, T, inputs, H, W)`` to ``(B, T, F, H, W)``, and the state to go on from."""
        added = self._added(pooled)[0]
        if added is not None:
            added = added[:, None].expand(-1, frames.shape[1], -1).flatten(0, 1)
        return self.memory(self.encoder(frames.flatten(0, 1), added).unflatten(0, frames.shape[:2]), state)

    def _added(self, pooled: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the condition adds to the encoder's first map and to the decoder's, ``(B, F)`` each."""
        if self.condition is None or pooled is None:
            return None, None
        first, second = self.condition(pooled).chunk(2, dim=-1)
        return first, second

    def decoder_map(self, past: Tensor, pooled: Tensor | None) -> Tensor:
        """The map that the decoder reads, ``(B, F, H, W)``, from that of earlier frames."""
        added = self._added(pooled)[1]
        return past if added is None else past + added[..., None, None]

    def _whole(self, inputs: Tensor, pooled: Tensor | None) -> Tensor:
        positions = inputs.shape[1]
        count = -(-positions // self.grid.picture.positions)
        frames = self.grid.pictures(self.tokens(inputs[:, 1:], inputs[:, :1]), count)  # (B, T, inputs, H, W)
        first = self.memory.first(len(inputs), *frames.shape[-2:]).hidden.to(frames.dtype)[:, None]
        past = first if count == 1 else torch.cat([first, self.past(frames[:, :-1], pooled)[0]], dim=1)
        each = None if pooled is None else pooled[:, None].expand(-1, count, -1).flatten(0, 1)
        hidden = self.decoder(frames.flatten(0, 1), self.decoder_map(past.flatten(0, 1), each))
        return self.grid.chain(hidden.unflatten(0, (-1, count)), positions)

    # With a cache the encoder and the LSTM run once a finished frame.

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> VPNCache:
        """Buffers of one frame and the LSTM's state, independent of ``positions``.

        Where the decoder's layers cannot be fused, it computes all of the frame so far at every position.
        """
        weight = self.encoder.first.weight
        return self._empty_cache(batch, dtype or weight.dtype, device or weight.device)

    def _empty_cache(self, batch: int, dtype: torch.dtype, device: torch.device | str) -> VPNCache:
        picture = self.grid.picture

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=device)

        return VPNCache(
            start=zeros(self.width),
            frame=zeros(picture.positions, self.share),
            past=zeros(self.features, picture.rows, picture.columns),
            fused=isinstance(self.decoder, PixelDecoder) and can_fuse([self.decoder], (PixelDecoder, *FUSED)),
        )

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of all that ``new_cache`` comes to hold; they do not grow with the positions."""
        cache, picture = self._empty_cache(batch, dtype, "meta"), self.grid.picture
        cache.state = LSTMState(cache.past.float(), cache.past.float())
        if isinstance(self.decoder, PixelDecoder) and cache.fused:
            cache.pixels = self.decoder.new_cache(batch, dtype, "meta")
        elif isinstance(self.decoder, IndependentDecoder):
            cache.hidden = torch.zeros(batch, picture.positions, self.width, dtype=dtype, device="meta")
        return cache.nbytes

    def _next(self, vector: Tensor, cache: VPNCache) -> Tensor:
        """The hidden vector of the next position from its embedding, ``(B, D)`` both."""
        size, known = self.grid.picture.positions, None
        place = cache.length % size
        if cache.length == 0:
            cache.start.copy_(vector)
        else:
            known = self.tokens(vector, cache.start)
            cache.frame[:, (cache.length - 1) % size] = known
        if place == 0:
            self._begin_frame(cache)
        cache.length += 1
        if isinstance(self.decoder, PixelDecoder) and cache.pixels is not None and cache.weights is not None:
            return self.decoder.next(known if place else None, cache.past, cache.weights, cache.pixels)
        if cache.hidden is None:
            whole = self.decoder(self._frame(cache, place), cache.past)
            return self.grid.picture.chain(whole, place + 1)[:, place]
        return cache.hidden[:, place]

    def _frame(self, cache: VPNCache, known: int) -> Tensor:
        """The first ``known`` positions of the frame in the cache as a map."""
        return self.grid.picture.picture(cache.frame[:, :known], self.grid.picture.rows)

    def _begin_frame(self, cache: VPNCache) -> None:
        """Take the finished frame in, if there is one, and prepare the decoder for the next."""
        past = cache.past
        if cache.length > 0:
            frame = self._frame(cache, self.grid.picture.positions)
            found, cache.state = self.past(frame[:, None], cache.pooled, cache.state)
            past = found[:, 0]
        cache.past = self.decoder_map(past, cache.pooled)
        if isinstance(self.decoder, PixelDecoder):
            if cache.fused:
                cache.weights = self.decoder.weights() if cache.weights is None else cache.weights
                cache.pixels = self.decoder.new_cache(cache.batch, cache.frame.dtype, cache.frame.device)
        else:
            hidden = self.decoder(cache.past, cache.past)
            cache.hidden = self.grid.picture.chain(hidden, self.grid.picture.positions)
