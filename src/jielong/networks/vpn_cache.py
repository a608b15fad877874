"""Cache of a video pixel network: the state of its LSTM, the frame so far, and the decoder's buffers of that frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jielong.networks.convolutional_lstm import LSTMState
from jielong.networks.pixel_cache import PixelCache
from jielong.networks.vpn_decoder import Weights


@dataclass
class VPNCache:
    """What one batch needs to go on."""

    start: Tensor  # the first embedding, (B, D)
    frame: Tensor  # what the networks read of the tokens of the frame so far, (B, positions of a frame, share)
    past: Tensor  # the map that the decoder reads, (B, F, H, W); zero at first
    fused: bool  # whether the decoder's buffers are used
    length: int = 0
    started: bool = False  # whether the first call, which takes the condition in, has been made
    pooled: Tensor | None = None  # the pooled condition, (B, W)
    state: LSTMState | None = None  # after the frames that are finished
    pixels: PixelCache | None = None  # the PixelCNN decoder's buffers of the current frame
    weights: Weights | None = None  # those of the decoder
    hidden: Tensor | None = None  # of independent pixels: the hidden vectors of the current frame, (B, positions of a frame, D)

    @property
    def batch(self) -> int:
        """Number of items ``B``."""
        return len(self.start)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        state = () if self.state is None else (self.state.hidden, self.state.cell)
        hidden = () if self.hidden is None else (self.hidden,)
        own = sum(tensor.nbytes for tensor in (self.start, self.frame, self.past, *state, *hidden))
        return own + (0 if self.pixels is None else self.pixels.nbytes)

    def rows(self, index: slice) -> VPNCache:
        """A cache of some items that shares this one's memory; only one of the two may be continued."""
        pixels = None if self.pixels is None else self.pixels.rows(index)
        return replace(self._of(lambda x: x[index]), state=None if self.state is None else self.state.rows(index), pixels=pixels)

    def clone(self) -> VPNCache:
        """A copy that is continued independently."""
        return replace(self._of(torch.Tensor.clone), pixels=None if self.pixels is None else self.pixels.clone())

    def _of(self, part: Callable[[Tensor], Tensor]) -> VPNCache:
        return replace(
            self,
            start=part(self.start),
            frame=part(self.frame),
            past=part(self.past),
            pooled=None if self.pooled is None else part(self.pooled),
            hidden=None if self.hidden is None else part(self.hidden),
        )
