"""Causal convolutions over clips ``(B, C, T, H, W)`` that can be streamed (MAGVIT-v2, arXiv 2310.05737, section 3.2).

All padding along time stands before the first frame, so that an output depends on no later frame, and the first frame stands alone: along
time, a stride ``s`` makes ``1 + (T - 1) / s`` frames of ``T``, and upsampling ``1 + (T - 1) s``. A picture is a clip of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.norm import rms_norm
from jielong.networks.streaming import Stream, StreamingModule, StreamingSequential, StreamState

Beginning = Literal["replicate", "constant"]
"""What stands before a clip: its first frame, or zeros."""
FrameNormKind = Literal["group", "rms"]
EPSILON = 1e-6
"""Of the norms."""
_FIRST = "the first frame of a clip stands alone, and the clips of a stream are in step; reset all of them"


@dataclass
class _Frames(StreamState):
    """The last frames that later windows need; ``None`` before the first frame of a clip."""

    frames: Tensor | None = None

    def cannot_reset(self) -> str | None:
        return None if self.frames is None else _FIRST


class CausalConv3d(StreamingModule):
    """A convolution, ``(B, inputs, T, H, W)`` to ``(B, outputs, 1 + (T - 1) / s_t, H / s, W / s)``.

    Rows and columns are padded with zeros, ``k - s`` in all, the larger half below and on the right.

    Args:
        kernel: Frames, and pixels a side.
        stride: The same.
        beginning: What stands before the first frame.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        beginning: Beginning = "replicate",
    ) -> None:
        super().__init__()
        if kernel[1] < stride[1]:
            raise ValueError(f"a kernel of {kernel[1]} pixels at a stride of {stride[1]} leaves pixels out")
        self.kernel, self.stride, self.beginning = kernel, stride, beginning
        first, last = (kernel[1] - stride[1]) // 2, (kernel[1] - stride[1] + 1) // 2
        inner = first if first == last else 0
        self.edges = (0, 0) if first == last else (first, last)
        (time, side), (each, step) = kernel, stride
        self.conv = nn.Conv3d(inputs, outputs, (time, side, side), (each, step, step), (0, inner, inner))

    def extra_repr(self) -> str:
        """What stands before a clip, for printing."""
        return f"beginning={self.beginning}"

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, T, H, W)`` to ``(B, outputs, ceil(T / s_t), H / s, W / s)``; of a chunk, the frames that are determined by now."""
        if (stream := self.stream) is not None:
            return self._step(x, stream)
        return self._convolved(self._begun(x))

    def required_inputs(self, outputs: int) -> int:
        """The last window's frames."""
        return 1 + (outputs - 1) * self.stride[0] if outputs > 0 else 0

    @torch.no_grad()
    def pass_on(self) -> None:
        """Make the layer the identity on the latest frame, where inputs and outputs are as many."""
        weight, centre = self.conv.weight, (self.kernel[1] - 1) // 2
        for parameter in self.conv.parameters():
            parameter.zero_()
        for channel in range(min(weight.shape[:2])):
            weight[channel, channel, -1, centre, centre] = 1

    def _begun(self, x: Tensor) -> Tensor:
        """The clip with what stands before it."""
        before = self.kernel[0] - 1
        if not before:
            return x
        first = x[:, :, :1]
        return torch.cat([(first if self.beginning == "replicate" else torch.zeros_like(first)).expand(-1, -1, before, -1, -1), x], dim=2)

    def _convolved(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.edges * 2) if any(self.edges) else x)

    def _step(self, x: Tensor, stream: Stream) -> Tensor:
        stream.check(x)
        (kernel, _), (stride, _) = self.kernel, self.stride
        state = stream.state(self, _Frames)
        if not x.shape[2]:
            return self._none(x)
        frames = self._begun(x) if state.frames is None else torch.cat([state.frames, x], dim=2)
        count = max(0, (frames.shape[2] - kernel) // stride + 1)
        state.frames = frames[:, :, count * stride :].clone()
        return self._convolved(frames[:, :, : (count - 1) * stride + kernel]) if count else self._none(x)

    def _none(self, x: Tensor) -> Tensor:
        return x.new_empty(len(x), self.conv.out_channels, 0, *(side // self.stride[1] for side in x.shape[3:]))


class FactorizedConv3d(StreamingSequential):
    """A convolution of every frame, then one along time that is the identity at first (Movie Gen, arXiv 2410.13720, section 3.1.1).

    So a network of these starts as one of pictures, whose weights it can take. Arguments as :class:`CausalConv3d`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        beginning: Beginning = "replicate",
    ) -> None:
        along_time = CausalConv3d(outputs, outputs, (kernel[0], 1), (stride[0], 1), beginning)
        along_time.pass_on()
        super().__init__(CausalConv3d(inputs, outputs, (1, kernel[1]), (1, stride[1]), beginning), along_time)


@dataclass
class _Started(StreamState):
    """Whether the first frame of a clip has passed."""

    started: bool = False

    def cannot_reset(self) -> str | None:
        return _FIRST if self.started else None


class FirstFrameOnce(StreamingModule):
    """Repeated frames ``(B, C, T s, H, W)`` without the first ``s - 1``: ``T`` frames become ``1 + (T - 1) s``.

    Args:
        stride: Frames ``s`` that each frame has become.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def extra_repr(self) -> str:
        """The stride, for printing."""
        return f"stride={self.stride}"

    def forward(self, x: Tensor) -> Tensor:
        """All frames, or those of a chunk."""
        if (stream := self.stream) is None:
            return x[:, :, self.stride - 1 :]
        stream.check(x)
        state = stream.state(self, _Started)
        if state.started or not x.shape[2]:
            return x
        state.started = True
        return x[:, :, self.stride - 1 :]

    def required_inputs(self, outputs: int) -> int:
        """Those before the first one that is returned, too."""
        return outputs + self.stride - 1 if outputs > 0 else 0


class Repeat(StreamingModule):
    """Nearest-neighbour upsampling; ``strides`` along time and space."""

    def __init__(self, strides: tuple[int, int]) -> None:
        super().__init__()
        self.strides = strides

    def extra_repr(self) -> str:
        """The strides, for printing."""
        return f"strides={self.strides}"

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C, T s_t, H s, W s)``."""
        for axis, stride in zip((2, 3, 4), (self.strides[0], *self.strides[1:] * 2), strict=True):
            x = x.repeat_interleave(stride, dim=axis) if stride > 1 else x
        return x

    def required_inputs(self, outputs: int) -> int:
        """Each frame gives as many as the stride."""
        return -(-outputs // self.strides[0]) if outputs > 0 else 0


class DepthToSpace(Repeat):
    """Channels to frames and pixels: sub-pixel upsampling (arXiv 1609.05158) along three axes."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C s_t s^2, T, H, W)`` to ``(B, C, T s_t, H s, W s)``."""
        time, side = self.strides
        batch, channels, frames, rows, columns = x.shape
        cells = x.movedim(1, -1).reshape(batch, frames, rows, columns, channels // (time * side * side), time, side, side)
        spread = cells.permute(0, 1, 5, 2, 6, 3, 7, 4)  # (B, T, s_t, H, s, W, s, C), channels last
        return spread.reshape(batch, frames * time, rows * side, columns * side, cells.shape[4]).movedim(-1, 1)


class FrameGroupNorm(nn.GroupNorm):
    """Group norm of every frame by itself: statistics of a clip would depend on later frames."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        if not x.shape[2]:
            return x
        frames = x.movedim(2, 1)  # (B, T, C, H, W)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).movedim(1, 2)


class PixelRMSNorm(nn.Module):
    """Root-mean-square norm over the channels of every pixel: no pixel depends on another one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        return rms_norm(x.movedim(1, -1), self.weight, EPSILON).movedim(-1, 1) if x.numel() else x
